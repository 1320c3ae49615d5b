package control

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// withOneDescriptor runs something while one descriptor is free: enough to
// open a folder, and not a file in it.
func withOneDescriptor(t *testing.T, do func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	var open []int
	low := unix.Rlimit{Cur: 64, Max: old.Max}
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low)
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	}()
	for err == nil {
		var fd int
		if fd, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			open = append(open, fd)
		}
	}
	if err != unix.EMFILE || len(open) == 0 {
		t.Fatalf("opening files until there is no descriptor: got %v after %d, want %v", err, len(open), unix.EMFILE)
	}
	unix.Close(open[0])
	open = open[1:]
	do()
}

func TestNothingIsMadeOfFilesThatCannotBeReadForWantOfDescriptors(t *testing.T) {
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	f, err := dir.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []Message
	c := New(Config{
		Rundir:  dir,
		Deliver: func(m Message) { got = append(got, m) },
		Report:  func(Fact) {},
	})
	if c.watcher, err = watch.New(nil); err != nil {
		t.Fatal(err)
	}
	defer c.watcher.Close()
	c.attended.add("web")
	c.folders["web"] = &folder{}

	withOneDescriptor(t, func() { c.look("web") })
	for _, m := range got {
		if m.Refused != "" || m.Request.Verb == Stop {
			t.Errorf("without a request and a lock: got %+v, want neither a refusal nor a stop", m)
		}
	}

	got = nil
	request := Request{Verb: Stop, ID: "mine"}
	if err := f.WriteNew(rundir.Control, request.Line()); err != nil {
		t.Fatal(err)
	}
	withOneDescriptor(t, func() { c.look("web") })
	if _, again := c.again["web"]; !again {
		t.Error("after a request could not be read: want another look soon, got none")
	}
	c.look("web")
	var stops int
	for _, m := range got {
		if m.Refused != "" {
			t.Errorf("request: got it refused, %q, want it taken", m.Refused)
		}
		if m.Request == request {
			stops++
		}
	}
	if stops != 1 {
		t.Errorf("request %v: got it %d times among %+v, want once", request, stops, got)
	}
	if _, err := f.Read(rundir.Taken); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("request once it is taken: got %v, want it gone", err)
	}
}
