//go:build linux

package load

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// odd starts a daemon for one odd service. Such tests are mostly waiting, so
// they all run at once.
func odd(t *testing.T) *rig.Rig {
	t.Parallel()
	return rig.New(t, rig.Plain)
}

func up(v control.View) bool   { return v.Phase == rundir.Up }
func down(v control.View) bool { return v.Phase == rundir.Down }

// nothing of a service is to be left.
func nothing(t *testing.T, r *rig.Rig, name string) {
	t.Helper()
	if left := r.Processes(name); len(left) > 0 {
		t.Errorf("%s: processes: got %v, want none", name, left)
	}
}

func alive(r *rig.Rig, name string, pid int) bool {
	return slices.Contains(r.Processes(name), pid)
}

func TestServiceThatIgnoresTermIsKilledAtItsStopTimeout(t *testing.T) {
	r := odd(t)
	r.Script("deaf", `#!/bin/sh
trap '' TERM
echo 1 >"$SYSMGR_DIR/stop-timeout"
echo yes >"$SYSMGR_DIR/ready"
while :; do sleep 1000; done
`, 0o755)
	r.Start()
	r.Must("start", "deaf") // returns when it is ready, so it is deaf by now
	begin := time.Now()
	r.Must("stop", "deaf")
	if took := time.Since(begin); took < time.Second || took > 9*time.Second {
		t.Errorf("stop: got %s, want the second of its stop-timeout", took)
	}
	if got, want := r.Look("deaf").LastExit, "killed by KILL"; got != want {
		t.Errorf("last exit: got %q, want %q", got, want)
	}
	nothing(t, r, "deaf")
	r.End()
}

func TestServiceStoppedBySigstopCanBeStopped(t *testing.T) {
	r := odd(t)
	r.Link("frozen", r.Sleeper())
	r.Start()
	r.Await("up", up, "frozen")
	pid := r.Look("frozen").Pid
	if !alive(r, "frozen", pid) {
		t.Fatalf("main process %d: got none of its own, want it alive", pid)
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.Until("the process to be stopped", func() bool { return state(pid) == "T" })
	if v := r.Look("frozen"); v.Phase != rundir.Up || v.Pid != pid {
		t.Errorf("after STOP: got %s, pid %d, want up, pid %d", v.Phase, v.Pid, pid)
	}
	begin := time.Now()
	r.Must("stop", "frozen")
	if took := time.Since(begin); took > 9*time.Second {
		t.Errorf("stop: got %s, want less than the stop-timeout of 10 s", took)
	}
	if got, want := r.Look("frozen").LastExit, "killed by TERM"; got != want {
		t.Errorf("last exit: got %q, want %q", got, want)
	}
	nothing(t, r, "frozen")
	r.End()
}

// state is the letter of a process's state, as proc_pid_stat(5) has it.
func state(pid int) string {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, _ := strings.Cut(string(text), ") ")
	letter, _, _ := strings.Cut(rest, " ")
	return letter
}

func TestNothingIsLeftOfStoppedServiceThatDoesNotExec(t *testing.T) {
	r := odd(t)
	r.Script("shell", `#!/bin/sh
sleep 1000 &
echo $! >"$VICTIM_DIR/first"
(sleep 1000; :) &
echo yes >"$SYSMGR_DIR/ready"
wait
`, 0o755)
	r.Start()
	r.Must("start", "shell")
	// The sleep inside the parentheses is a process of its own.
	r.Until("all its processes", func() bool { return len(r.Processes("shell")) == 4 })
	r.Must("stop", "shell")
	nothing(t, r, "shell")
	if got, want := r.Look("shell").LastExit, "killed by TERM"; got != want {
		t.Errorf("last exit: got %q, want %q", got, want)
	}
	r.End()
}

// The child is in the service's group and keeps the service's lock: a next
// copy would find it.
func TestWhatDoubleForkLeavesInTheGroupEndsBeforeTheNextStart(t *testing.T) {
	t.Parallel()
	for _, child := range []struct{ name, plan string }{
		{"willing", "child life=1"},
		{"slow", "child life=1 deaf=700"},
		{"deaf", "child life=1 deaf=-1 grace=0.5"},
	} {
		t.Run(child.name, func(t *testing.T) {
			r := odd(t)
			r.Plan("double", child.plan)
			r.Link("double", rig.Program(t, rig.Plain, "victim"))
			r.Start()
			r.Until("a third copy", func() bool { return len(r.Journalled("start", "double")) >= 3 }, r.Work)
			if dups := r.Journalled("DUP", "double"); len(dups) > 0 {
				t.Errorf("copies beside another: got %v, want none", dups)
			}
			children := r.Journalled("child", "double")
			if len(children) < 2 {
				t.Fatalf("children: got %v, want one of each of the first two copies", children)
			}
			for _, pid := range children[:2] {
				if alive(r, "double", pid) {
					t.Errorf("child %d of an earlier copy: got it alive, want it gone", pid)
				}
			}
			r.Must("stop", "double")
			nothing(t, r, "double")
			r.End()
		})
	}
}

func TestProcessThatLeftItsServicesSessionIsLoggedAndLeftAlone(t *testing.T) {
	r := odd(t)
	// A second and more of life: its end is free, the next start is at once.
	r.Plan("daemon", "escape life=1200")
	r.Link("daemon", rig.Program(t, rig.Plain, "victim"))
	r.Start("-l", "json")
	r.Until("the first copy", func() bool { return len(r.Journalled("escaped", "daemon")) == 1 }, r.Work)
	escaped := r.Journalled("escaped", "daemon")[0]
	r.Plan("daemon", "")
	r.Until("the second copy", func() bool { return len(r.Journalled("start", "daemon")) == 2 }, r.Work)
	r.Until("the log to tell", func() bool {
		lines, _ := r.Lines()
		return slices.ContainsFunc(lines, func(l rig.Line) bool {
			return l.Pid == escaped && l.Service == "daemon" && strings.Contains(l.Message, "process group")
		})
	})
	r.Must("stop", "daemon")
	if got, want := r.Processes("daemon"), []int{escaped}; !slices.Equal(got, want) {
		t.Errorf("processes after stop: got %v, want only the escaped one, %v", got, want)
	}
	r.Kill(escaped)
	r.Until("it to be gone", func() bool { return len(r.Processes("daemon")) == 0 })
	r.End()
}

func TestServiceThatExitsAtOnceIsRestartedAfterOneTwoAndFourSeconds(t *testing.T) {
	r := odd(t)
	r.Script("crash", "#!/bin/sh\nexit 3\n", 0o755)
	r.Start()
	ladder := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second}
	// On a busy machine a step may be missed; but what is seen must be right.
	var before control.View
	for before.Starts < 3 {
		var got control.View
		r.Await("back-off", func(v control.View) bool {
			got = v
			return v.Phase == rundir.Backoff && v.Starts > before.Starts
		}, "crash")
		end := got.Starts
		if want := ladder[min(end, len(ladder))-1]; got.RetryIn != want {
			t.Errorf("retry-in after end %d: got %s, want %s", end, got.RetryIn, want)
		}
		if !strings.HasPrefix(got.Cause, "exit 3 after ") || got.Restarts != end {
			t.Errorf("after end %d: got cause %q, restarts %d, want exit 3 after …, %d", end, got.Cause, got.Restarts, end)
		}
		if before.Starts > 0 && got.Clock-before.Clock < before.RetryIn {
			t.Errorf("from end %d to end %d: got %s, want at least %s", before.Starts, end, got.Clock-before.Clock, before.RetryIn)
		}
		before = got
	}
	r.End()
}

func TestServiceThatIsNotExecutableIsBlockedUntilItIs(t *testing.T) {
	r := odd(t)
	r.Script("plain", "#!/bin/sh\nexec sleep 1000\n", 0o644)
	r.Start()
	r.Await("blocked", func(v control.View) bool { return v.Phase == rundir.Blocked }, "plain")
	if v := r.Look("plain"); v.Starts != 0 || !strings.Contains(v.Cause, "not executable") {
		t.Errorf("got %d starts, cause %q, want none, not executable", v.Starts, v.Cause)
	}
	out, code := r.Svctl("status", "plain")
	if code != 1 || !strings.HasPrefix(out, "plain: BLOCKED") || !strings.Contains(out, "not executable") {
		t.Errorf("svctl status: got exit status %d, %q, want 1, a line with BLOCKED and the reason", code, out)
	}
	if err := os.Chmod(filepath.Join(r.Sysdir, "plain"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.Await("up", up, "plain")
	if v := r.Look("plain"); v.Starts != 1 {
		t.Errorf("starts after chmod +x: got %d, want 1", v.Starts)
	}
	r.End()
}

func TestServiceWithoutInterpreterLineRunsUnderTheShell(t *testing.T) {
	r := odd(t)
	r.Script("bare", `echo "$0 $#" >"$VICTIM_DIR/seen"
exec sleep 1000
`, 0o755)
	r.Start()
	r.Must("start", "bare")
	seen, err := os.ReadFile(filepath.Join(r.Work, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(seen), filepath.Join(r.Sysdir, "bare")+" 0\n"; got != want {
		t.Errorf("name and number of arguments: got %q, want %q", got, want)
	}
	r.Must("stop", "bare")
	nothing(t, r, "bare")
	r.End()
}
