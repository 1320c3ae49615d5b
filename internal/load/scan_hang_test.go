//go:build linux

package load

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
)

// hold is newGate for every open(2) of the files, not only the one of execve(2):
// whoever looks at them waits too.
func hold(t *testing.T, files ...string) *gate {
	t.Helper()
	g := newGate(t)
	for _, file := range files {
		if err := unix.FanotifyMark(g.fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, file); err != nil {
			t.Skipf("this machine does not let us hold up an open (fanotify_mark: %v)", err)
		}
	}
	return g
}

// A file system that does not answer about an entry holds up no other entry:
// what is there is started, what comes is started, what goes is stopped. About
// the entry itself nothing is decided before there is an answer: what ran of it
// runs on.
func TestEntryThatCannotBeLookedAtHoldsUpNoOther(t *testing.T) {
	r := rig.New(t, rig.Plain)
	const script = "#!/bin/sh\nexec sleep 1000\n"
	r.Script("hangs", script, 0o755)
	r.Script("runs", script, 0o755)
	r.Link("web", r.Sleeper())
	r.Link("old", r.Sleeper())
	hangs := hold(t, filepath.Join(r.Sysdir, "hangs"))
	logged := func(what, name string) func() bool {
		return func() bool {
			text, err := os.ReadFile(r.Log)
			for line := range bytes.Lines(text) {
				if bytes.Contains(line, []byte(what)) && bytes.Contains(line, []byte(`"`+name+`"`)) {
					return true
				}
			}
			return err != nil
		}
	}
	const silent = "file system does not answer about entry"
	r.Start()
	r.Until("a word about it", logged(silent, "hangs"))
	r.Await("up", up, "web", "old", "runs")
	runs := r.Look("runs").Pid

	// The same for a file that was fine, and is looked at because it changed.
	late := hold(t, filepath.Join(r.Sysdir, "runs"))
	now := time.Now()
	if err := os.Chtimes(filepath.Join(r.Sysdir, "runs"), now, now); err != nil {
		t.Fatal(err)
	}
	r.Until("a word about that one", logged(silent, "runs"))

	r.Link("new", r.Sleeper())
	r.Await("up", up, "new")
	if err := os.Remove(filepath.Join(r.Sysdir, "old")); err != nil {
		t.Fatal(err)
	}
	r.Until("old to be gone", func() bool {
		_, err := os.Stat(filepath.Join(r.Rundir, "old"))
		return errors.Is(err, fs.ErrNotExist) && len(r.Processes("old")) == 0
	})
	r.Must("restart", "web")
	if got := r.Look("runs"); !up(got) || got.Pid != runs {
		t.Errorf("runs: got %s, process %d, want up, %d still", got.Phase, got.Pid, runs)
	}
	if got := r.Processes("hangs"); len(got) != 0 {
		t.Errorf("hangs: got processes %v before anybody could look at it", got)
	}

	// It answers.
	r.Until("hangs to be up", func() bool {
		hangs.allow(hangs.asked()...)
		late.allow(late.asked()...)
		return len(r.Processes("hangs")) == 1
	})
	r.Until("it to be published", func() bool {
		hangs.allow(hangs.asked()...)
		late.allow(late.asked()...)
		_, err := os.Stat(filepath.Join(r.Rundir, "hangs", "pid"))
		return err == nil
	})
	if got := r.Look("runs"); !up(got) || got.Pid != runs {
		t.Errorf("runs, after the answer: got %s, process %d, want up, %d still", got.Phase, got.Pid, runs)
	}
	r.End()
}

// Many entries are looked at in parts, all at once: one that hangs in each, and
// two in one, hold up none of the others.
func TestEntriesThatHangAmongManyHoldUpNoOther(t *testing.T) {
	t.Parallel()
	const many, dead = 260, 4
	r := rig.New(t, rig.Plain)
	var hanging []string
	var rest []string
	for i := range many {
		name := fmt.Sprintf("s%03d", i)
		if i%(many/dead) == 7 {
			r.Script(name, "#!/bin/sh\nexec sleep 1000\n", 0o755)
			hanging = append(hanging, name)
		} else {
			r.Link(name, r.Sleeper())
			rest = append(rest, name)
		}
	}
	var files []string
	for _, name := range hanging {
		files = append(files, filepath.Join(r.Sysdir, name))
	}
	g := hold(t, files...)
	r.Start("-v")
	r.Await("up", up, rest...)
	// The first reading has found them all, and not one after it.
	text, err := os.ReadFile(r.Log)
	if err != nil {
		t.Fatal(err)
	}
	_, first, _ := bytes.Cut(text, []byte("service directory scanned"))
	first, _, _ = bytes.Cut(first, []byte("\n"))
	if want := fmt.Sprintf(`"entries": %d,`, len(rest)); !bytes.Contains(first, []byte(want)) {
		t.Errorf("the first reading: got %s, want %s", first, want)
	}
	for _, name := range hanging {
		if got := r.Processes(name); len(got) != 0 {
			t.Errorf("%s: got processes %v before anybody could look at it", name, got)
		}
	}
	for _, name := range hanging {
		r.Until(name+" to be up", func() bool {
			g.allow(g.asked()...)
			return len(r.Processes(name)) == 1
		})
	}
	r.Until("all to be published", func() bool {
		g.allow(g.asked()...)
		for _, name := range hanging {
			if _, err := os.Stat(filepath.Join(r.Rundir, name, "pid")); err != nil {
				return false
			}
		}
		return true
	})
	r.End()
}
