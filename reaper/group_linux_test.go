package reaper

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keeper leaves the group of the service that started it, puts a member into
// it and is that one's parent: so we do not hear of the member's end, and
// unless the keeper reaps it, it stays a zombie.
func keeper() {
	group, _ := unix.Getpgid(0)
	if err := unix.Setpgid(0, 0); err != nil {
		panic(err)
	}
	member, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "1000"}, &syscall.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{Setpgid: true, Pgid: group},
	})
	if err != nil {
		panic(err)
	}
	report("member", member)
	if os.Getenv("REAPS") == "yes" {
		syscall.Wait4(member, nil, 0, nil)
		report("reaped", member)
	}
	time.Sleep(time.Hour)
}

// keep starts a service whose main process ends and whose group has a member
// that is the keeper's child.
func keep(t *testing.T, w *world, reaps string) (p Process, member int, pipe *pipe) {
	t.Helper()
	pipe = newPipe(t)
	gate := newPipe(t)
	p = w.start(sh(t, `"$SELF" & read x <"$GATE"; exit 0`), "SELF="+self(), part+"=keeper", "REAPS="+reaps,
		"REPORT="+pipe.path, "GATE="+gate.path, "GORACE=atexit_sleep_ms=0")
	member = pipe.after("member")
	gate.file.WriteString("\n")
	if e := w.exit(p); e.Alone {
		t.Fatal("got alone, want not: the member is in the group")
	}
	return p, member, pipe
}

// A member that is not our child ends unheard; a probe sees it.
func TestProbeSeesTheEndOfAMemberThatIsNotOurChild(t *testing.T) {
	w := reap(t)
	p, member, pipe := keep(t, w, "yes")
	w.Probe(p.Pid, false)
	w.Probe(p.Pid, true)
	w.lives(p)
	if err := w.SignalGroup(p.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := pipe.after("reaped"); got != member {
		t.Errorf("got %d, want %d", got, member)
	}
	w.lives(p) // nobody has told us
	w.Probe(p.Pid, false)
	w.drained(p)
	w.Probe(p.Pid, false) // which must not close it twice
}

// A member that is dead and that nobody reaps holds nothing: it counts for a
// soft probe, and not for a hard one.
func TestHardProbePassesOverZombies(t *testing.T) {
	w := reap(t)
	p, member, _ := keep(t, w, "no")
	w.SignalGroup(p.Pid, unix.SIGKILL)
	eventually(t, "a zombie", func() bool { return state(member) == 'Z' })
	w.Probe(p.Pid, false)
	w.lives(p)
	w.Probe(p.Pid, true)
	w.drained(p)
}

// thread is a process whose first thread ends while another runs.
func thread() {
	go func() {
		for state(os.Getpid()) != 'Z' {
			time.Sleep(time.Millisecond)
		}
		report("member", os.Getpid())
		time.Sleep(time.Hour)
	}()
	runtime.LockOSThread() // main runs on the first thread: see init below
	syscall.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

func init() {
	if os.Getenv(part) == "thread" {
		runtime.LockOSThread()
	}
}

// A process looks like a zombie when its first thread has ended. It runs on
// in the others, with all its files and ports.
func TestProcessWithoutItsFirstThreadIsNoZombie(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	p := w.start(sh(t, `"$SELF" & exit 0`), "SELF="+self(), part+"=thread", "REPORT="+pipe.path, "GORACE=atexit_sleep_ms=0")
	member := pipe.after("member")
	w.exit(p)
	if got := state(member); got != 'Z' {
		t.Fatalf("state: got %c, want Z", got)
	}
	w.Probe(p.Pid, true)
	w.lives(p)
	w.SignalGroup(p.Pid, unix.SIGKILL)
	w.drained(p)
}

// What left the group is told of once, when its service has ended.
func TestEscapedProcessIsToldOfOnce(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	path := sh(t, `setsid sh -c 'echo $$ >"$REPORT"; exec sleep 1000' & exit 0`)
	escape := func(name string) int {
		p := w.start(path, "SYSMGR_NAME="+name, "REPORT="+pipe.path)
		pid := pipe.number()
		w.exit(p)
		return pid
	}
	first := escape("a web server")
	if e := fact(w, func(e Escaped) bool { return e.Pid == first }); e.Service != "a web server" {
		t.Errorf("got service %q, want %q", e.Service, "a web server")
	}
	// When the second has been told of, there was another look at the first.
	second := escape("db")
	fact(w, func(e Escaped) bool { return e.Pid == second && e.Service == "db" })
	n := 0
	for _, e := range facts[Escaped](w) {
		if e.Pid == first {
			n++
		}
	}
	if n != 1 {
		t.Errorf("told of %d times, want once", n)
	}
	unix.Kill(first, unix.SIGKILL)
	if r := fact(w, func(r Reaped) bool { return r.Pid == first }); r.Status != killed(unix.SIGKILL) {
		t.Errorf("its end: got %#x, want KILL", uint32(r.Status))
	}
}

// A child of a service that runs is no stranger, even if its parent is gone
// and it has become our child.
func TestMemberOfARunningServiceHasNotEscaped(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	running := w.start(sh(t, `
		(sleep 1000 & echo $! >"$REPORT")
		exec sleep 1000`), "REPORT="+pipe.path)
	member := pipe.number()
	eventually(t, "it is our child", func() bool { return parentOf(member) == os.Getpid() })
	// One that did escape shows that we have looked.
	ended := w.start(sh(t, `setsid sh -c 'echo $$ >"$REPORT"; exec sleep 1000' & exit 0`), "REPORT="+pipe.path)
	escaped := pipe.number()
	w.exit(ended)
	fact(w, func(e Escaped) bool { return e.Pid == escaped })
	for _, e := range facts[Escaped](w) {
		if e.Pid != escaped {
			t.Errorf("got %+v, a member of a service that runs", e)
		}
	}
	w.SignalGroup(running.Pid, unix.SIGKILL)
	if e := w.exit(running); !e.Alone {
		w.drained(running)
	}
}

// Where services end all the time, escaped processes are told of all the same.
func TestEscapedProcessIsToldOfAmongManyExits(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	p := w.start(sh(t, `setsid sh -c 'echo $$ >"$REPORT"; exec sleep 1000' & exit 0`), "REPORT="+pipe.path)
	escaped := pipe.number()
	w.exit(p)
	for end := time.Now().Add(soon); ; {
		w.exit(w.start("/bin/true"))
		if all := facts[Escaped](w); len(all) > 0 {
			if all[0].Pid != escaped {
				t.Errorf("got %+v, want %d", all, escaped)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not told of after %v of exits", soon)
		}
		time.Sleep(orphanDelay / 10)
	}
}

// pidOne is a daemon as PID 1 of a namespace of its own, where numbers can be
// given out at will and /proc can be taken away.
func pidOne() {
	if os.Getpid() != 1 {
		report("cannot be PID 1")
		return
	}
	// New runs before the orphan comes, and does not ask to be a subreaper.
	r, done := run(func(f Fact) {
		if f, ok := f.(Reaped); ok {
			report("reaped", f.Pid)
		}
	})
	defer done()
	report("reuse", reuse(r))
	report("blind", blind(r))
}

// reuse lets an orphan end while a start is under way that hangs in execve,
// and then gives its number to a new service.
func reuse(r *Reaper) string {
	finish := pretendToFork(r)
	defer finish()
	for range 50 {
		orphan, err := orphanNumber(r)
		if err != nil {
			return err.Error()
		}
		// The next number that clone(2) gives out (proc_sys_kernel(5)).
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(orphan-1)), 0); err != nil {
			return "cannot choose numbers: " + err.Error()
		}
		p, err := r.Start(Command{Path: os.Getenv("SLEEPER")})
		if err != nil {
			return err.Error()
		}
		var early *Exit
		select {
		case e := <-p.Exited:
			early = &e
		default:
		}
		if early != nil {
			return "it has the exit of an orphan: " + strconv.Itoa(early.Status.ExitStatus())
		}
		if err := r.Signal(p.Pid, unix.SIGKILL); err != nil {
			return "it cannot be signalled: " + err.Error()
		}
		if e := <-p.Exited; e.Status != killed(unix.SIGKILL) {
			return "its exit: " + strconv.Itoa(int(e.Status))
		}
		if p.Pid == orphan {
			return "ok"
		}
		// A thread of ours was faster, and keeps the number: another orphan.
	}
	return "the number never came again"
}

// orphanNumber makes an orphan and waits until its exit is kept.
func orphanNumber(r *Reaper) (int, error) {
	known := make(map[int]bool)
	r.mu.Lock()
	for pid := range r.early {
		known[pid] = true
	}
	r.mu.Unlock()
	p, err := r.Start(Command{Path: os.Getenv("ORPHAN"), Env: os.Environ()})
	if err != nil {
		return 0, err
	}
	<-p.Exited
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(time.Millisecond) {
		r.mu.Lock()
		for pid := range r.early {
			if !known[pid] {
				r.mu.Unlock()
				return pid, nil
			}
		}
		r.mu.Unlock()
	}
	return 0, errors.New("no orphan came")
}

// pretendToFork is a start that hangs, as far as the tables know.
func pretendToFork(r *Reaper) (finish func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forking++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.forking--
		clear(r.early)
	}
}

// blind probes a group that lives, without a /proc to look at.
func blind(r *Reaper) string {
	p, err := r.Start(Command{Path: os.Getenv("LEAVER")})
	if err != nil {
		return err.Error()
	}
	<-p.Exited
	if err := unix.Mount("none", "/proc", "tmpfs", 0, ""); err != nil {
		return "cannot mount: " + err.Error()
	}
	r.Probe(p.Pid, true)
	select {
	case <-p.Exited:
		return "drained, but a member lives"
	default:
	}
	if err := r.SignalGroup(p.Pid, unix.SIGKILL); err != nil {
		return err.Error()
	}
	<-p.Exited
	return "ok"
}

func TestAsPIDOne(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	p := w.start(sh(t, `
		unshare --pid --fork --mount-proc --kill-child true 2>/dev/null || { echo "cannot unshare" >"$REPORT"; exit 0; }
		exec unshare --pid --fork --mount-proc --kill-child "$SELF"`),
		"SELF="+self(), part+"=pid 1", "REPORT="+pipe.path, "GORACE=atexit_sleep_ms=0",
		"ORPHAN="+sh(t, `setsid sh -c 'exit 9' & exit 0`),
		"SLEEPER="+sh(t, `exec sleep 1000`),
		"LEAVER="+sh(t, `sleep 1000 & exit 0`))
	want := map[string]string{
		"reuse": "ok", // an orphan's exit is not that of a service that got its number
		"blind": "ok", // without /proc nothing is known to be dead
	}
	for len(want) > 0 {
		line := pipe.line()
		t.Log(line)
		for what, result := range want {
			if len(line) > len(what) && line[:len(what)] == what {
				if got := line[len(what)+1:]; len(got) > 6 && got[:6] == "cannot" {
					t.Skip(got)
				} else if got != result {
					t.Errorf("%s: got %q, want %q", what, got, result)
				}
				delete(want, what)
			}
		}
		if len(line) > 6 && line[:6] == "cannot" {
			t.Skip(line)
		}
	}
	w.exit(p)
}
