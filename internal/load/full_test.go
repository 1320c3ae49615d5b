//go:build linux

package load

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// disk is a file system of its own for a run directory, which can be filled and
// made read-only.
type disk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, r *rig.Rig) *disk {
	t.Helper()
	dir := filepath.Join(r.Work, "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k,nr_inodes=100,mode=755"); err != nil {
		t.Skipf("no file system of its own for the run directory: mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	r.Rundir = filepath.Join(dir, "run")
	return &disk{t, dir}
}

// fill leaves no block, and no inode either if that is wanted.
func (d *disk) fill(inodes bool) {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "fill"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		d.t.Fatal(err)
	}
	for i := 0; inodes; i++ {
		if err := os.WriteFile(filepath.Join(d.dir, fmt.Sprintf("fill%d", i)), nil, 0o644); err != nil {
			break
		}
	}
}

// free undoes fill.
func (d *disk) free() {
	files, _ := filepath.Glob(filepath.Join(d.dir, "fill*"))
	for _, file := range files {
		os.Remove(file)
	}
}

// writable makes it writable or not.
func (d *disk) writable(yes bool) {
	d.t.Helper()
	flags := uintptr(unix.MS_REMOUNT)
	if !yes {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount("none", d.dir, "", flags, ""); err != nil {
		d.t.Fatalf("remount: %v", err)
	}
}

// three is a daemon with a disk of its own and three services: web, dies, and
// held, which is held down.
func three(t *testing.T) (r *rig.Rig, d *disk, web, dies int) {
	t.Helper()
	r = rig.New(t, rig.Plain)
	d = newDisk(t, r)
	for _, name := range []string{"web", "dies", "held"} {
		r.Link(name, r.Sleeper())
	}
	r.Start()
	r.Await("up", up, "web", "dies", "held")
	r.Must("stop", "held")
	return r, d, r.Look("web").Pid, r.Look("dies").Pid
}

// A client that looks for the daemon in the moment when one starts on a run
// directory that is read-only does not keep it from being seen later.
func TestADaemonIsSeenWhereNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Plain)
	d := newDisk(t, r)
	r.Start()
	r.Crash()
	d.writable(false)
	looks, err := os.Open(filepath.Join(r.Rundir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	defer looks.Close()
	if err := unix.Flock(int(looks.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	r.Launch(nil)
	r.Until("the second daemon to start", func() bool {
		text, _ := os.ReadFile(r.Log)
		return strings.Contains(string(text), fmt.Sprintf(`"pid": %d,`, r.Daemon.Pid))
	})
	unix.Flock(int(looks.Fd()), unix.LOCK_UN)
	r.Until("it to be seen", func() bool { _, _, code := r.Ask("status"); return code == 0 })
	d.writable(true)
	r.Until("its number", func() bool {
		text, err := os.ReadFile(filepath.Join(r.Rundir, "pid"))
		return err == nil && string(text) == strconv.Itoa(r.Daemon.Pid)+"\n"
	})
	r.End()
}

// A daemon that is killed while nothing can be written is followed by one that
// takes over all the same, and publishes when it can.
func TestServicesAreAdoptedWhileNothingCanBeWritten(t *testing.T) {
	for _, fault := range []struct {
		name        string
		begin, lift func(*disk)
	}{
		{"no block", func(d *disk) { d.fill(false) }, (*disk).free},
		{"no block and no inode", func(d *disk) { d.fill(true) }, (*disk).free},
		{"read-only", func(d *disk) { d.writable(false) }, func(d *disk) { d.writable(true) }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			r, d, web, dies := three(t)

			r.Crash()
			fault.begin(d)
			r.Kill(dies)
			r.Start()
			r.Until("the one that died to be started again", func() bool { return len(r.Processes("dies")) == 1 })
			if got := r.Processes("web"); len(got) != 1 || got[0] != web {
				t.Errorf("web: got processes %v, want %d alone", got, web)
			}
			if got := r.Processes("held"); len(got) != 0 {
				t.Errorf("held: got processes %v, want none", got)
			}
			// There is one daemon, and everybody can tell.
			first := r.Daemon
			second := exec.Command(rig.Program(t, rig.Plain, "sysmgr"))
			second.Env = r.Environment()
			out, err := second.CombinedOutput()
			if code := second.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "already running") {
				t.Errorf("a second daemon: got %v, %q, want exit status 1, already running", err, out)
			}
			if _, complaint, code := r.Ask("status", "web"); code == 5 {
				t.Errorf("svctl status: got exit status 5, %q, and it runs", complaint)
			}

			number := func() bool {
				text, err := os.ReadFile(filepath.Join(r.Rundir, "pid"))
				return err == nil && string(text) == strconv.Itoa(first.Pid)+"\n"
			}
			if fault.name != "read-only" && !number() {
				t.Error("pid: got another number than that of the daemon, although the old file had room for it")
			}

			fault.lift(d)
			r.Until("the number of the daemon", number)
			r.Await("up", up, "web", "dies")
			r.Await("down", down, "held")
			// And what it writes now is there for the next.
			r.Must("restart", "web")
			web = r.Look("web").Pid
			r.Crash()
			r.Start()
			r.Await("up", func(v control.View) bool { return v.Phase == rundir.Up && v.Pid == web }, "web")
			r.Await("down", down, "held")
			r.End()
		})
	}
}

// An order whose lock cannot be written is not contradicted by the lock that was
// there before.
func TestAnOldLockDoesNotOutliveAnOrder(t *testing.T) {
	for _, orders := range []struct {
		first, second string
		lock          string
		then          func(control.View) bool
	}{
		{"stop", "once", "once\n", func(v control.View) bool { return v.Phase == rundir.Up && v.Wanted == "once" }},
		{"once", "stop", "TERM\n", down},
		{"stop", "kill", "TERM\n", down}, // which says as much
	} {
		t.Run(orders.first+" and "+orders.second, func(t *testing.T) {
			t.Parallel()
			r := rig.New(t, rig.Plain)
			d := newDisk(t, r)
			r.Link("web", r.Sleeper())
			r.Start()
			r.Await("up", up, "web")
			r.Must(orders.first, "web")
			// The order comes while there is room, and is taken when there is none.
			r.Daemon.Signal(unix.SIGSTOP)
			r.Must("-w", "0", orders.second, "web")
			d.fill(true)
			r.Daemon.Signal(unix.SIGCONT)
			r.Until("the order to be taken", func() bool {
				_, err := os.Lstat(filepath.Join(r.Rundir, "web", rundir.Control))
				_, taken := os.Lstat(filepath.Join(r.Rundir, "web", rundir.Taken))
				return err != nil && taken != nil
			})
			lock := func() bool {
				text, _ := os.ReadFile(filepath.Join(r.Rundir, "web", rundir.Lock))
				return string(text) == orders.lock
			}
			if !lock() {
				text, err := os.ReadFile(filepath.Join(r.Rundir, "web", rundir.Lock))
				t.Errorf("lock: got %q, %v, want %q", text, err, orders.lock)
			}
			d.free()
			r.Await("as ordered", orders.then, "web")
			r.Crash()
			r.Start()
			r.Await("as ordered, with the next daemon", orders.then, "web")
			if !lock() {
				t.Error("the lock is another with the next daemon")
			}
			r.End()
		})
	}
}

// What a daemon could not write down the next one cannot know: so it looks for
// the process before it makes another.
func TestWhatCouldNotBeWrittenDownIsNotStartedTwice(t *testing.T) {
	for _, end := range []struct {
		name string
		next func(*rig.Rig)
	}{
		{"killed", func(r *rig.Rig) { r.Crash(); r.Start() }},
		{"replaced", func(r *rig.Rig) {
			r.Daemon.Signal(unix.SIGUSR2)
			r.Until("the next program", func() bool {
				text, _ := os.ReadFile(r.Log)
				return strings.Count(string(text), "sysmgr started") == 3
			})
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			r, d, web, dies := three(t)
			r.Crash()
			d.writable(false)
			r.Start()
			r.Kill(dies)
			one := func() bool { left := r.Processes("dies"); return len(left) == 1 && left[0] != dies }
			r.Until("the one that died to be started again", one)
			dies = r.Processes("dies")[0]

			end.next(r)
			// Whatever has to be told of them by then is over when a third is up.
			r.Link("third", r.Sleeper())
			r.Until("another service", func() bool { return len(r.Processes("third")) == 1 })
			d.writable(true)
			r.Await("up", up, "web", "dies", "third")
			for name, pid := range map[string]int{"web": web, "dies": dies} {
				if got := r.Processes(name); len(got) != 1 || got[0] != pid {
					t.Errorf("%s: got processes %v, want %d alone", name, got, pid)
				}
			}
			if got := r.Processes("held"); len(got) != 0 {
				t.Errorf("held: got processes %v, want none", got)
			}
			r.End()
		})
	}
}
