package reaper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A thousand processes that end in the same instant: each exit comes to its
// owner, once and with the right status.
func TestBurstOfExitsIsRoutedWithoutLoss(t *testing.T) {
	w := reap(t)
	const n = 1000
	ready, gate := newPipe(t), newPipe(t)
	path := sh(t, `exec 3<"$GATE"; echo >"$REPORT"; read x <&3; [ -z "$SIG" ] || kill -"$SIG" $$; exit "$CODE"`)
	signals := []syscall.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGUSR1}
	want := func(i int) syscall.WaitStatus {
		if i%4 == 0 {
			return killed(signals[i/4%len(signals)])
		}
		return exited(i % 256)
	}
	processes := make([]Process, n)
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			for i := worker; i < n; i += 4 {
				env := []string{"GATE=" + gate.path, "REPORT=" + ready.path, fmt.Sprint("CODE=", i%256)}
				if i%4 == 0 {
					env = append(env, fmt.Sprint("SIG=", int(want(i))))
				}
				p, err := w.Start(Command{Path: path, Env: env})
				if err != nil {
					t.Error(err)
					return
				}
				processes[i] = p
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		return
	}
	for range n {
		ready.line()
	}
	begin := time.Now()
	gate.file.Close() // all of them read the end
	for i, p := range processes {
		if e := w.exit(p); e.Status != want(i) || !e.Alone {
			t.Errorf("process %d: got %#x, alone %v, want %#x, alone", i, uint32(e.Status), e.Alone, uint32(want(i)))
		}
	}
	t.Logf("%d exits routed in %v", n, time.Since(begin).Round(time.Millisecond))
	w.empty()
	for i, p := range processes {
		select {
		case e := <-p.Exited:
			t.Errorf("process %d: a second exit, %+v", i, e)
		default:
		}
	}
	if all := facts[Fact](w); len(all) != 0 {
		t.Errorf("got reports of strangers: %+v", all)
	}
}

// starter starts a program and returns what will tell of its end.
type starter func(path string) (<-chan Exit, error)

// hurry starts n programs that end at once, from several goroutines, and in
// between some that cannot be executed. It returns where the exits of those
// that were started come in.
func hurry(t *testing.T, start starter, n int) []<-chan Exit {
	t.Helper()
	const workers = 8
	missing := filepath.Join(t.TempDir(), "missing")
	var mu sync.Mutex
	var all []<-chan Exit
	var wait sync.WaitGroup
	for worker := range workers {
		wait.Go(func() {
			for i := worker; i < n; i += workers {
				if i%5 == 0 {
					if _, err := start(missing); !errors.Is(err, unix.ENOENT) {
						t.Errorf("missing: got %v, want %v", err, unix.ENOENT)
					}
					continue
				}
				exited, err := start("/bin/true")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, exited)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return all
}

// A process may end, and be reaped, before its number is known to us: not one
// exit is lost, and none of a child whose execve failed is taken for one.
func TestExitBeforeRegistrationIsNotLost(t *testing.T) {
	w := reap(t)
	all := hurry(t, func(path string) (<-chan Exit, error) {
		p, err := w.Start(Command{Path: path})
		return p.Exited, err
	}, 1000)
	late := time.After(soon)
	for _, c := range all {
		select {
		case e := <-c:
			if e.Status != exited(0) || !e.Alone {
				t.Errorf("got %#x, alone %v, want exit 0, alone", uint32(e.Status), e.Alone)
			}
		case <-late:
			t.Fatalf("exits are missing after %v", soon)
		}
	}
	w.empty()
	if all := facts[Fact](w); len(all) != 0 {
		t.Errorf("got reports of strangers: %+v", all)
	}
}

// naive is a reaper as one would write it first: who ends before he is
// registered is nobody's.
type naive struct {
	mu    sync.Mutex
	owner map[int]chan Exit
}

func (n *naive) start(path string) (<-chan Exit, error) {
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{})
	if err != nil {
		return nil, err
	}
	c := make(chan Exit, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.owner[pid] = c
	return c, nil
}

// reap reaps until stop is closed and no child is left.
func (n *naive) reap(stop <-chan struct{}) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil {
			select {
			case <-stop:
				return
			default:
				time.Sleep(time.Millisecond)
				continue
			}
		}
		n.mu.Lock()
		if c, ok := n.owner[pid]; ok {
			delete(n.owner, pid)
			c <- Exit{Status: status, Alone: true}
		}
		n.mu.Unlock()
	}
}

// The control of the test above: the naive reaper loses exits.
func TestNaiveReaperLosesExits(t *testing.T) {
	lost, started := 0, 0
	for end := time.Now().Add(soon); lost == 0 && time.Now().Before(end); {
		n := &naive{owner: make(map[int]chan Exit)}
		stop, done := make(chan struct{}), make(chan struct{})
		go func() { defer close(done); n.reap(stop) }()
		all := hurry(t, n.start, 200)
		close(stop)
		<-done // no child is left: what has not come will not come
		for _, c := range all {
			started++
			select {
			case <-c:
			default:
				lost++
			}
		}
	}
	t.Logf("lost %d of %d", lost, started)
	if lost == 0 {
		t.Error("it lost none: the test above proves nothing")
	}
}

// What the main process leaves in its group is told of, can be signalled, and
// its end is noticed.
func TestGroupOutlivesItsMainProcess(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	p := w.start(sh(t, `
		sleep 1000 & echo $! >"$REPORT"
		sleep 1000 & echo $! >"$REPORT"
		exit 3`), "REPORT="+pipe.path)
	first, second := pipe.number(), pipe.number()
	if e := w.exit(p); e.Status != exited(3) || e.Alone {
		t.Errorf("got %#x, alone %v, want exit 3, not alone", uint32(e.Status), e.Alone)
	}
	if err := w.Signal(p.Pid, unix.SIGTERM); err != unix.ESRCH {
		t.Errorf("Signal to the main process: got %v, want %v", err, unix.ESRCH)
	}
	if s := state(first); s == 0 || s == 'Z' {
		t.Error("Signal reached the group")
	}
	unix.Kill(first, unix.SIGKILL)
	fact(w, func(r Reaped) bool { return r.Pid == first })
	w.lives(p)
	if err := w.SignalGroup(p.Pid, unix.SIGTERM); err != nil {
		t.Errorf("SignalGroup: %v", err)
	}
	w.drained(p)
	if r := fact(w, func(r Reaped) bool { return r.Pid == second }); r.Status != killed(unix.SIGTERM) {
		t.Errorf("the last member: got %#x, want TERM", uint32(r.Status))
	}
	if err := w.SignalGroup(p.Pid, unix.SIGTERM); err != unix.ESRCH {
		t.Errorf("SignalGroup when it is empty: got %v, want %v", err, unix.ESRCH)
	}
}

// The control of the test above: whoever asks only for the main process would
// start the next copy beside what is left of this one.
func TestMainProcessSaysNothingOfItsGroup(t *testing.T) {
	w := reap(t)
	p := w.start(sh(t, `sleep 1000 & exit 0`))
	w.exit(p)
	if err := unix.Kill(p.Pid, 0); err != unix.ESRCH {
		t.Errorf("kill(pid, 0): got %v, want %v", err, unix.ESRCH)
	}
	if err := unix.Kill(-p.Pid, 0); err != nil {
		t.Errorf("kill(-pid, 0): got %v, want nil", err)
	}
	w.SignalGroup(p.Pid, unix.SIGKILL)
	w.drained(p)
}

// Groups that end while others live are not mixed up.
func TestManyGroupsDrainEachForItself(t *testing.T) {
	w := reap(t)
	path := sh(t, `sleep 1000 & sleep 1000 & exit 0`)
	var all []Process
	for range 20 {
		all = append(all, w.start(path))
	}
	for _, p := range all {
		if e := w.exit(p); e.Alone {
			t.Error("got alone, want not")
		}
	}
	for i, p := range all {
		if err := w.SignalGroup(p.Pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		w.drained(p)
		for _, other := range all[i+1:] {
			w.lives(other)
		}
	}
}

func TestSignalReachesTheMainProcessAlone(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	p := w.start(sh(t, `
		trap 'echo main >"$REPORT"' USR1
		sleep 1000 & echo $! >"$REPORT"
		while :; do sleep 0.01; done`), "REPORT="+pipe.path)
	// What a stopped process is sent stays pending, where it can be seen.
	member := pipe.number()
	executed(t, member, "sleep")
	unix.Kill(member, unix.SIGSTOP)
	eventually(t, "it is stopped", func() bool { return state(member) == 'T' })
	pending := func() string { return proc(t, member, "status", "ShdPnd:") }
	const none = "0000000000000000"
	if err := w.Signal(p.Pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := pipe.line(); got != "main" {
		t.Errorf("got %q, want main", got)
	}
	if got := pending(); got != none {
		t.Errorf("Signal reached a member too: %s", got)
	}
	// The control: SignalGroup does.
	if err := w.SignalGroup(p.Pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := pending(); got == none {
		t.Error("SignalGroup did not reach the member")
	}
	if err := w.SignalGroup(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := w.exit(p); e.Status != killed(unix.SIGKILL) {
		t.Errorf("got %#x, want KILL", uint32(e.Status))
	} else if !e.Alone {
		w.drained(p)
	}
}

// No number that the reaper did not start can be signalled through it: not 0,
// 1 or -1, which mean many, not ourselves, not a stranger, not a member. The
// signal is 0, which harms nobody if the law is broken.
func TestNobodyElseIsSignalled(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	p := w.start(sh(t, `sleep 1000 & echo $! >"$REPORT"; wait`), "REPORT="+pipe.path)
	member := pipe.number()
	for _, pid := range []int{0, 1, -1, -p.Pid, os.Getpid(), os.Getppid(), member, 1 << 30} {
		if err := w.Signal(pid, 0); err != unix.ESRCH {
			t.Errorf("Signal(%d): got %v, want %v", pid, err, unix.ESRCH)
		}
		if err := w.SignalGroup(pid, 0); err != unix.ESRCH {
			t.Errorf("SignalGroup(%d): got %v, want %v", pid, err, unix.ESRCH)
		}
		w.Probe(pid, true) // which changes nothing
	}
	if err := errors.Join(w.Signal(p.Pid, 0), w.SignalGroup(p.Pid, 0)); err != nil {
		t.Errorf("our own: %v", err)
	}
	w.SignalGroup(p.Pid, unix.SIGKILL)
	if e := w.exit(p); !e.Alone {
		w.drained(p)
	}
	if err := w.Signal(p.Pid, 0); err != unix.ESRCH {
		t.Errorf("after its end: got %v, want %v", err, unix.ESRCH)
	}
}

// The control of the test above: kill(2) itself takes a dead process that
// nobody has reaped for a live one.
func TestKillTakesAZombieForAProcess(t *testing.T) {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a zombie", func() bool { return state(pid) == 'Z' })
	if err := unix.Kill(pid, 0); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	syscall.Wait4(pid, nil, 0, nil)
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("reaped: got %v, want %v", err, unix.ESRCH)
	}
}

// An orphan that left the group comes to us and is reaped; it is nobody's
// exit.
func TestOrphanIsReapedAndReported(t *testing.T) {
	w := reap(t)
	pipe, gate, away := newPipe(t), newPipe(t), newPipe(t)
	p := w.start(sh(t, `
		setsid sh -c 'exec 3<"$GATE"; echo $$ >"$REPORT"; echo >"$AWAY"; read x <&3; exit 7' &
		read x <"$AWAY"
		exit 0`), "REPORT="+pipe.path, "GATE="+gate.path, "AWAY="+away.path)
	orphan := pipe.number()
	if e := w.exit(p); e.Status != exited(0) || !e.Alone {
		t.Errorf("got %#x, alone %v, want exit 0, alone", uint32(e.Status), e.Alone)
	}
	gate.file.Close()
	if r := fact(w, func(r Reaped) bool { return r.Pid == orphan }); r.Status != exited(7) {
		t.Errorf("got %#x, want exit 7", uint32(r.Status))
	}
	if s := state(orphan); s != 0 {
		t.Errorf("it is still there, in state %c", s)
	}
}

// Without a child of its own the reaper waits for a signal, which it does not
// want while it has one.
func TestStrangerIsReapedWhenThereWasNoChildToWaitFor(t *testing.T) {
	w := reap(t)
	for range 3 {
		p, err := w.Start(Command{Path: "/bin/true", Env: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		<-p.Exited
		eventually(t, "a reaper that waits for a signal", func() bool { return handled(unix.SIGCHLD) })
		stranger, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 7"}, &syscall.ProcAttr{Env: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		if r := fact(w, func(r Reaped) bool { return r.Pid == stranger }); r.Status != exited(7) {
			t.Errorf("stranger: got status %v, want exit 7", r.Status)
		}
	}
}

// As long as there is a child to wait for, no signal wakes a thread.
func TestNoSignalTellsOfAnEndThatIsWaitedFor(t *testing.T) {
	w := reap(t)
	p, err := w.Start(Command{Path: "/bin/sleep", Args: []string{"1000"}, Env: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a reaper that waits for a child", func() bool { return !handled(unix.SIGCHLD) })
	unix.Kill(p.Pid, unix.SIGKILL)
	<-p.Exited
}

// handled tells whether this process has a handler for a signal
// (proc_pid_status(5)).
func handled(sig unix.Signal) bool {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "SigCgt:\t")
	mask, _ := strconv.ParseUint(rest[:min(16, len(rest))], 16, 64)
	return mask>>(sig-1)&1 == 1
}

func TestHundredsOfOrphansLeaveNoZombie(t *testing.T) {
	w := reap(t)
	const n = 300
	p := w.start(sh(t, fmt.Sprintf(`
		i=0
		while [ $i -lt %d ]; do (sh -c 'exit 5' &) ; i=$((i+1)); done
		exit 0`, n)))
	if e := w.exit(p); !e.Alone {
		w.drained(p)
	}
	eventually(t, "no child", func() bool { return len(children()) == 0 })
	if got := len(facts[Reaped](w)); got > n {
		t.Errorf("got %d reports, want at most %d", got, n)
	}
	for _, r := range facts[Reaped](w) {
		if r.Status != exited(5) && r.Status != exited(0) {
			t.Errorf("%+v: want exit 5", r)
		}
	}
}

// The control: without PR_SET_CHILD_SUBREAPER an orphan passes the daemon by.
// Here it comes to us, who are the next above it.
func TestOrphanComesOnlyToASubreaper(t *testing.T) {
	for adopt, comes := range map[string]bool{"yes": true, "no": false} {
		t.Run(adopt, func(t *testing.T) {
			w := reap(t)
			pipe, gate := newPipe(t), newPipe(t)
			service := sh(t, `
				setsid sh -c 'exec 3<"$GATE"; echo orphan $$ >"$REPORT"; read x <&3' &
				exit 0`)
			p := w.play("daemon", "ADOPT="+adopt, "SERVICE="+service, "REPORT="+pipe.path, "GATE="+gate.path)
			orphan := pipe.after("orphan")
			parent := p.Pid
			if !comes {
				parent = os.Getpid()
			}
			eventually(t, "it has its new parent", func() bool { return parentOf(orphan) == parent })
			gate.file.Close()
			if comes {
				if got := pipe.after("reaped"); got != orphan {
					t.Errorf("reaped %d, want %d", got, orphan)
				}
			} else {
				fact(w, func(r Reaped) bool { return r.Pid == orphan })
			}
			w.SignalGroup(p.Pid, unix.SIGKILL)
			w.exit(p)
		})
	}
}
