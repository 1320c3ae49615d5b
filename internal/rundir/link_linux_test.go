package rundir

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

// The daemon gives itself time when it hears of files that are none of its
// business: a request must not be announced by one.
func TestNothingIsHeardOfARequestBeforeItIsThere(t *testing.T) {
	f := newFolder(t)
	probe, err := unix.Openat(f.fd, ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Skipf("no files without a name here: %v", err)
	}
	unix.Close(probe)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, f.Path(), unix.IN_ALL_EVENTS&^(unix.IN_OPEN|unix.IN_ACCESS|unix.IN_MODIFY)); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteNew(Control, []byte("stop a\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil || n < unix.SizeofInotifyEvent {
		t.Fatalf("got %d bytes of events, %v", n, err)
	}
	name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:n], []byte{0})
	if string(name) != Control {
		t.Errorf("the first event is of %q, want %q", name, Control)
	}
	if data, err := f.Read(Control); err != nil || string(data) != "stop a\n" {
		t.Errorf("got %q, %v", data, err)
	}
	if err := f.WriteNew(Control, []byte("start b\n")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one: got %v, want %v", err, fs.ErrExist)
	}
}
