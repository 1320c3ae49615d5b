//go:build linux

package torture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
)

// small is a world of a few services.
func small(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, rig.Plain)
	for _, name := range []string{"one", "two", "three", "prey"} {
		w.add(name, "ready")
	}
	w.add("flaky", "life=5 code=1")
	return w
}

// served shows that a daemon does what it is there for: an order is carried
// out, and a service that is killed is started again.
func (w *world) served() {
	w.t.Helper()
	w.ask("-q", "status")
	w.order(w.known("one"), "restart")
	prey := w.known("prey")
	prey.touched = true
	w.Kill(w.leaderOf("prey"))
	w.await(prey, "start")
}

func (w *world) finish() {
	w.t.Helper()
	w.sound()
	w.daemon.Store(0)
	w.End()
}

// A limit on open files, from nothing up: a clear refusal, or it works.
func TestFewDescriptorsAreRefusedOrEnough(t *testing.T) {
	t.Parallel()
	for _, limit := range choose([]int{3, 8, 16}, []int{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 20}, []int{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 24, 32}) {
		try(t, "RLIMIT_NOFILE at the start", fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			w := small(t)
			w.LaunchUnder([]string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d || exit 99; exec "$@"`, limit), "sh"}, nil)
			w.daemon.Store(int64(w.Daemon.Pid))
			for begin := time.Now(); w.lives() && !w.claimed(); time.Sleep(5 * time.Millisecond) {
				if time.Since(begin) > w.rest {
					t.Fatal("it neither works nor ends")
				}
			}
			if w.lives() {
				// It may still find that it cannot go on.
				time.Sleep(500 * time.Millisecond)
			}
			if !w.lives() {
				text, _ := os.ReadFile(w.Log)
				switch code := w.State().ExitCode(); {
				case code == 99:
					t.Skipf("sh cannot live with %d descriptors", limit)
				case code != 1, !strings.Contains(string(text), "sysmgr: "):
					t.Errorf("got %v and %.300q, want exit status 1 and a reason", w.State(), text)
				}
				w.sound()
				if left := w.Processes(""); len(left) > 0 {
					t.Errorf("it refused, and left %v", left)
				}
				return
			}
			w.watch()
			w.converge(4)
			w.served()
			w.converge(4)
			w.finish()
		})
	}
}

// limited sets a limit of the running daemon and returns what undoes it.
func (w *world) limited(resource int, limit uint64) func() {
	w.t.Helper()
	var old unix.Rlimit
	err := unix.Prlimit(w.Daemon.Pid, resource, nil, &old)
	if err == nil {
		err = unix.Prlimit(w.Daemon.Pid, resource, &unix.Rlimit{Cur: limit, Max: old.Max}, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return func() { unix.Prlimit(w.Daemon.Pid, resource, &old, nil) }
}

// No descriptors any more, while it runs.
func TestDescriptorsThatRunOutAreWaitedFor(t *testing.T) {
	t.Parallel()
	try(t, "EMFILE while it runs", "limit", func(t *testing.T) {
		w := small(t)
		w.begin()
		w.watch()
		w.converge(4)
		undo := w.limited(unix.RLIMIT_NOFILE, 3)
		prey := w.known("prey")
		prey.touched = true
		w.Kill(w.leaderOf("prey"))
		w.add("late", "ready")
		one := w.known("one")
		one.maybe = []string{"stop"}
		w.ask("-q", "-w", "0.5", "stop", "one")
		for range choose(5, 10, 40) {
			w.ask("-q", "-w", "0.2", "status")
			time.Sleep(100 * time.Millisecond)
		}
		undo()
		w.converge(15)
		w.served()
		w.converge(15)
		w.finish()
	})
	try(t, "EMFILE while it runs", "TERM", func(t *testing.T) {
		w := small(t)
		w.begin()
		w.converge(4)
		w.limited(unix.RLIMIT_NOFILE, 3)
		w.endHard(answerTime)
	})
}

// No processes any more, and so no threads either: the daemon lives, answers,
// and goes on when there are some again. The limit counts all processes of a
// user, so the user is one that nobody else is.
func TestProcessesThatRunOutAreWaitedFor(t *testing.T) {
	needRoot(t)
	t.Parallel()
	try(t, "RLIMIT_NPROC", "limit", func(t *testing.T) {
		const uid = 64321
		w := small(t)
		w.openWay()
		for _, dir := range []string{filepath.Dir(w.Rundir), w.Work, w.Sysdir} {
			os.Chown(dir, uid, uid)
		}
		plans, _ := filepath.Glob(filepath.Join(w.Work, "*"))
		for _, plan := range plans {
			os.Chown(plan, uid, uid)
		}
		os.WriteFile(w.Log, nil, 0o666)
		os.Chmod(w.Log, 0o666)
		w.LaunchUnder([]string{"setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups", "--"}, nil)
		w.daemon.Store(int64(w.Daemon.Pid))
		w.watch()
		w.converge(4)
		// A little later it is at rest, with the threads that it has.
		time.Sleep(200 * time.Millisecond)
		// Only the user himself may do that everywhere.
		limit := func(soft string) {
			cmd := w.as(uid, nil, "prlimit", "--pid", fmt.Sprint(w.Daemon.Pid), "--nproc="+soft+":")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("prlimit: %v %s", err, out)
			}
		}
		limit("1")
		for _, name := range []string{"one", "two", "three", "prey"} {
			w.known(name).touched = true
			w.Kill(w.leaderOf(name))
		}
		w.add("late", "ready")
		var askers sync.WaitGroup
		for range 4 {
			askers.Go(func() {
				for range choose(3, 10, 100) {
					w.ask("-q", "-w", "0.2", "status")
					w.Svctl("-q", "-w", "0.05", "restart", "two", "three")
				}
			})
		}
		w.known("two").maybe, w.known("three").maybe = []string{"start"}, []string{"start"}
		askers.Wait()
		if !w.lives() {
			text, _ := os.ReadFile(w.Log)
			t.Fatalf("the daemon has died: %v\n%.2000s", w.State(), text[max(0, len(text)-3000):])
		}
		var usual unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NPROC, &usual); err != nil {
			t.Fatal(err)
		}
		limit(fmt.Sprint(usual.Cur))
		w.converge(15)
		w.sound()
		w.endHard(w.Patience)
	})
}

// What the daemon writes its log to may be gone, stuck or closed.
func TestLogThatCannotBeWrittenHoldsUpNothing(t *testing.T) {
	t.Parallel()
	for what, shell := range map[string]string{
		"closed descriptors":  `exec "$@" <&- >&- 2>&-`,
		"a full device":       `exec "$@" >/dev/full 2>&1`,
		"a pipe without end":  `exec "$@" 2>"$VICTIM_DIR/never"`, // nobody reads it
		"a pipe that is gone": `mkfifo "$VICTIM_DIR/gone"; (exec <"$VICTIM_DIR/gone"; sleep 0.2) & exec "$@" 2>"$VICTIM_DIR/gone"`,
	} {
		try(t, "log that cannot be written", what, func(t *testing.T) {
			t.Parallel()
			w := small(t)
			if strings.Contains(shell, "never") {
				path := filepath.Join(w.Work, "never")
				if err := unix.Mkfifo(path, 0o600); err != nil {
					t.Fatal(err)
				}
				// Both ends are open, and it is full.
				fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				for chunk := bytes.Repeat([]byte("x"), 4096); err == nil; {
					_, err = unix.Write(fd, chunk)
				}
			}
			w.LaunchUnder([]string{"/bin/sh", "-c", shell, "sh"}, nil, "-v")
			w.daemon.Store(int64(w.Daemon.Pid))
			w.watch()
			w.converge(4)
			for range choose(2, 3, 20) {
				w.served()
				w.converge(4)
			}
			w.endHard(3 * answerTime)
		})
	}
}

// A daemon that did not run for a while makes up for it, and for no more.
func TestDaemonThatWasStoppedCatchesUp(t *testing.T) {
	t.Parallel()
	try(t, "STOP and CONT", "catches up", func(t *testing.T) {
		w := small(t)
		w.begin()
		w.watch()
		w.converge(4)
		w.Daemon.Signal(unix.SIGSTOP)
		prey, one := w.known("prey"), w.known("one")
		prey.touched = true
		w.Kill(w.leaderOf("prey"))
		one.maybe = []string{"stop"}
		if code := w.ask("-q", "-w", "0.3", "stop", "one"); code != 3 {
			t.Errorf("svctl stop: got exit status %d, want 3", code)
		}
		w.add("late", "ready")
		time.Sleep(choose(time.Second, 3*time.Second, 30*time.Second))
		w.Daemon.Signal(unix.SIGCONT)
		w.wants(one, "stop") // a request that was placed stays valid
		w.converge(15)
		w.served()
		w.converge(15)
		w.finish()
	})
}

// removeEach removes the files of a name in all folders of services.
func removeEach(top, name string) (errs error) {
	files, _ := filepath.Glob(filepath.Join(top, "*", name))
	for _, f := range files {
		if err := os.Remove(f); !errors.Is(err, os.ErrNotExist) { // it may just have ended
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// The run directory is removed while the daemon runs: all of it, or parts.
func TestRunDirectoryThatIsRemovedIsMadeAnew(t *testing.T) {
	t.Parallel()
	for _, part := range some([]struct {
		what   string
		remove func(w *world) error
	}{
		{"all of it", func(w *world) error {
			os.RemoveAll(w.Rundir) // which may be made anew while it is removed
			return nil
		}},
		{"moved away", func(w *world) error { return os.Rename(w.Rundir, w.Rundir+".old") }},
		{"its own folder", func(w *world) error { return os.RemoveAll(filepath.Join(w.Rundir, ".sysmgr")) }},
		{"the pid file", func(w *world) error { return os.Remove(filepath.Join(w.Rundir, "pid")) }},
		{"all folders", func(w *world) error {
			folders, _ := filepath.Glob(filepath.Join(w.Rundir, "[a-z]*/.")) // without the pid file
			for _, f := range folders {
				os.RemoveAll(filepath.Clean(f)) // which may be made anew while it is removed
			}
			return nil
		}},
		{"all status files", func(w *world) error { return removeEach(w.Rundir, "status") }},
		{"all pid files", func(w *world) error { return removeEach(w.Rundir, "*pid") }},
	}, 2) {
		try(t, "parts of RUNDIR removed", part.what, func(t *testing.T) {
			t.Parallel()
			w := small(t)
			held := w.known("three")
			w.begin()
			w.watch()
			w.converge(4)
			w.order(held, "stop")
			w.died() // as if: nothing may be restarted
			w.daemon.Store(int64(w.Daemon.Pid))
			w.shaky.Store(true)
			if err := part.remove(w); err != nil {
				t.Fatal(err)
			}
			held.mu.Lock()
			held.maybe, held.held = []string{"start"}, 0 // rm -r of its folder starts it
			held.mu.Unlock()
			time.Sleep(choose(time.Second, 2*time.Second, 6*time.Second))
			w.shaky.Store(false)
			published := func() bool { return w.claimed() && len(w.problems()) == 0 }
			for begin := time.Now(); !published(); time.Sleep(20 * time.Millisecond) {
				if time.Since(begin) > w.rest {
					list := w.problems()
					w.suspectAll(list)
					broken(t, 15, "claimed: %v, %s", w.claimed(), strings.Join(list, "; "))
					break
				}
			}
			w.checkAfterCrash()
			for _, s := range w.all() {
				if s.calm && s.name != "prey" && s.name != "three" && s.leader != 0 && w.leaderOf(s.name) != s.leader {
					t.Errorf("%s: got process %d, want %d as before", s.name, w.leaderOf(s.name), s.leader)
				}
			}
			// There is one daemon, and it stays the only one.
			second := exec.Command(rig.Program(t, rig.Plain, "sysmgr"))
			second.Env = w.Environment()
			second.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			// A file, because services of its own would keep a pipe open.
			out, err := os.Create(filepath.Join(w.top, "second"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			second.Stderr = out
			if err := second.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { second.Wait(); close(done) }()
			select {
			case <-done:
				if code := second.ProcessState.ExitCode(); code != 1 {
					t.Errorf("a second daemon: got %v, want exit status 1", second.ProcessState)
				}
			case <-time.After(3 * time.Second):
				second.Process.Kill()
				<-done
				broken(t, 1, "a second daemon works in the same run directory")
				return
			}
			w.served()
			w.converge(15)
			w.died()
			w.crash()
			w.begin()
			w.converge(15)
			w.checkAfterCrash()
			w.finish()
		})
	}
}
