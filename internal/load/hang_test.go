//go:build linux

package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// gate holds up every execve(2) of some files, the way a network file system
// does that has gone: fanotify(7) asks it for each, and it does not answer
// before it is opened.
type gate struct {
	t  *testing.T
	fd int
}

func newGate(t *testing.T, files ...string) *gate {
	t.Helper()
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		t.Skipf("this machine does not let us hold up an execve (fanotify_init: %v)", err)
	}
	g := &gate{t, fd}
	t.Cleanup(func() { unix.Close(fd) }) // which lets everything go
	for _, file := range files {
		if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, file); err != nil {
			t.Skipf("this machine does not let us hold up an execve (fanotify_mark: %v)", err)
		}
	}
	return g
}

// asked takes the questions there are and returns what to answer to.
func (g *gate) asked() (descriptors []int32) {
	buf := make([]byte, 64<<10)
	n, err := unix.Read(g.fd, buf)
	if err != nil {
		return nil
	}
	for r := bytes.NewReader(buf[:n]); r.Len() > 0; {
		var event unix.FanotifyEventMetadata
		if binary.Read(r, binary.NativeEndian, &event) != nil {
			break
		}
		descriptors = append(descriptors, event.Fd)
	}
	return descriptors
}

// allow answers.
func (g *gate) allow(descriptors ...int32) {
	for _, fd := range descriptors {
		answer := unix.FanotifyResponse{Fd: fd, Response: unix.FAN_ALLOW}
		unix.Write(g.fd, (*[unsafe.Sizeof(answer)]byte)(unsafe.Pointer(&answer))[:])
		unix.Close(int(fd))
	}
}

// Starts that hang hold up nobody else: not the starts, restarts and stops of
// others, and not the collection of garbage, which has to stop the world.
func TestStartsThatHangHoldUpNobodyElse(t *testing.T) {
	const hanging, others = 6, 8
	r := rig.New(t, rig.Plain)
	var files []string
	for i := range hanging {
		name := fmt.Sprintf("hangs%d", i)
		r.Script(name, "#!/bin/sh\nexec sleep 1000\n", 0o755)
		files = append(files, filepath.Join(r.Sysdir, name))
	}
	g := newGate(t, files...)
	r.Start("-v") // which makes garbage
	var held []int32
	r.Until("all to hang", func() bool {
		held = append(held, g.asked()...)
		return len(held) == hanging
	})

	var names []string
	for i := range others {
		names = append(names, fmt.Sprintf("other%d", i))
		r.Link(names[i], r.Sleeper())
	}
	r.Await("up", up, names...)
	for range 30 {
		r.Must(append([]string{"-w", "0", "restart"}, names...)...)
	}
	r.Must(append([]string{"wait", "up"}, names...)...)
	for _, name := range names {
		before := r.Look(name).Pid
		r.Kill(before)
		r.Until(name+" to be started again", func() bool {
			v := r.Look(name)
			return v.Phase == rundir.Up && v.Pid != before || v.Phase == rundir.Backoff
		})
	}
	begin := time.Now()
	r.Must(append([]string{"stop"}, names...)...)
	if out, _ := r.Svctl("status"); out == "" {
		t.Error("svctl status: got nothing")
	}
	t.Logf("stop of %d others while %d hang: %s", others, hanging, time.Since(begin))

	r.Until("a word about it", func() bool {
		_, err := os.Stat(filepath.Join(r.Rundir, "hangs0", "status"))
		return err == nil
	})
	// It is told of, and a stop that comes meanwhile is not lost.
	if v := r.Look("hangs0"); v.Phase != rundir.Down || v.Cause != "its start hangs" {
		t.Errorf("hangs0: got %s, cause %q, want down because its start hangs", v.Phase, v.Cause)
	}
	r.Must("-w", "0", "stop", "hangs0")
	g.allow(held...)
	r.Await("down", down, "hangs0")
	r.Await("up", up, "hangs1", "hangs2", "hangs3", "hangs4", "hangs5")
	r.End()
}

// A daemon that is killed while a start hangs leaves a process that nobody has
// written down. The next one waits for what comes of it, and takes that over.
func TestStartThatHungWhenTheDaemonWasKilledIsNotRepeated(t *testing.T) {
	r := rig.New(t, rig.Plain)
	r.Script("hangs", "#!/bin/sh\necho $$ >>"+r.Work+"/starts\nexec sleep 1000\n", 0o755)
	r.Link("other", r.Sleeper())
	g := newGate(t, filepath.Join(r.Sysdir, "hangs"))
	r.Start()
	r.Await("up", up, "other")
	var held []int32
	r.Until("it to hang", func() bool {
		held = append(held, g.asked()...)
		return len(held) == 1
	})
	before := r.Look("other").Pid
	r.Crash()
	r.Launch(nil) // it may have to wait for the lock
	begin := time.Now()
	r.Until("the next daemon", func() bool {
		if held != nil && time.Since(begin) > 500*time.Millisecond {
			g.allow(held...)
			held = nil
		}
		g.allow(g.asked()...) // a second start, which the file "starts" would tell of
		dir, err := rundir.Open(r.Rundir)
		if err != nil {
			return false
		}
		defer dir.Close()
		text, err := os.ReadFile(filepath.Join(r.Rundir, "pid"))
		pid, parseErr := rundir.ParsePid(text)
		return errors.Join(err, parseErr) == nil && pid == r.Daemon.Pid
	})
	r.Await("up", up, "hangs", "other")
	if now := r.Look("other").Pid; now != before {
		t.Errorf("other: got process %d, want %d still", now, before)
	}
	r.Must("-w", "20", "wait", "up", "hangs")
	if got := r.Processes("hangs"); len(got) != 1 || !slices.Contains(got, r.Look("hangs").Pid) {
		t.Errorf("hangs: got processes %v, status says %d", got, r.Look("hangs").Pid)
	}
	starts, _ := os.ReadFile(filepath.Join(r.Work, "starts"))
	if bytes.Count(starts, []byte("\n")) != 1 {
		t.Errorf("hangs: started more than once: %q", starts)
	}
	r.End()
}

// A program that hangs when it is tried out, before it is to take the place of
// the one that runs, keeps nobody from ending that.
func TestProgramThatHangsHoldsUpNoShutdown(t *testing.T) {
	r := rig.New(t, rig.Plain)
	r.Link("web", r.Sleeper())
	path := filepath.Join(r.Work, "sysmgr")
	program, err := os.ReadFile(rig.Program(t, rig.Plain, "sysmgr"))
	if err == nil {
		err = os.WriteFile(path, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.LaunchUnder([]string{"sh", "-c", `shift; exec "$0" "$@"`, path}, nil)
	r.Until("web up", func() bool { _, err := os.Stat(filepath.Join(r.Rundir, "web", "pid")); return err == nil })
	g := newGate(t, path)
	r.Daemon.Signal(unix.SIGUSR2)
	var held []int32
	r.Until("its trial to hang", func() bool { held = append(held, g.asked()...); return len(held) > 0 })
	r.Daemon.Signal(unix.SIGTERM)
	select {
	case <-r.Ended():
	case <-time.After(r.Patience):
		t.Fatalf("daemon still there %s after TERM", r.Patience)
	}
	r.Daemon = nil
	g.allow(held...) // nothing can end what hangs there
	if code := r.State().ExitCode(); code != 0 {
		t.Errorf("got %v, want exit status 0", r.State())
	}
}
