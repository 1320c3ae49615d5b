package reaper

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { parts["first"] = first }

// first is the daemon before us, which has made the processes that are adopted.
// It lives on, because somebody has to be their parent who is not us; what it
// is told comes from a FIFO.
func first() {
	f, err := os.OpenFile(os.Getenv("COMMANDS"), os.O_RDONLY, 0)
	if err != nil {
		panic(err)
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		key, _, _ := strings.Cut(e, "=")
		return slices.Contains([]string{part, "COMMANDS", "REPORT"}, key)
	})
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Split(lines.Text(), "\t")
		switch words[0] {
		case "start": // a program and its mark
			pid, err := syscall.ForkExec(words[1], words[1:2], &syscall.ProcAttr{
				Env: append(env[:len(env):len(env)], words[2:]...), Files: []uintptr{0, 1, 2},
				Sys: &syscall.SysProcAttr{Setsid: true},
			})
			if err != nil {
				panic(err)
			}
			report("leader", pid)
		case "reap":
			pid, _ := strconv.Atoi(words[1])
			syscall.Wait4(pid, nil, 0, nil)
			report("reaped", pid)
		}
	}
}

// before is the test's end of it.
type before struct {
	w                 *world
	commands, answers *pipe
}

func newBefore(w *world) *before {
	w.t.Helper()
	b := &before{w, newPipe(w.t), newPipe(w.t)}
	w.play("first", "COMMANDS="+b.commands.path, "REPORT="+b.answers.path)
	return b
}

// mark is one that no other run of these tests has, which may be going on at the
// same time: Find looks at every process of the machine.
var mark = "SYSMGR_DIR=/run/" + rand.Text() + "/web"

// start has it start a program, and returns what it would have written down.
func (b *before) start(path string, env ...string) Adoption {
	b.w.t.Helper()
	from := BootTime()
	fmt.Fprintln(b.commands.file, strings.Join(append([]string{"start", path}, env...), "\t"))
	pid := b.answers.after("leader")
	return Adoption{Group: pid, Led: true, From: from, To: BootTime(), Mark: mark}
}

// sleeper is start of a process that does nothing.
func (b *before) sleeper() Adoption {
	b.w.t.Helper()
	return b.start(sh(b.w.t, "exec sleep 1000"), mark)
}

// reap has it reap a child that has ended, as init does.
func (b *before) reap(pid int) {
	b.w.t.Helper()
	fmt.Fprintf(b.commands.file, "reap\t%d\n", pid)
	if got := b.answers.after("reaped"); got != pid {
		b.w.t.Fatalf("reaped %d, want %d", got, pid)
	}
}

// zombie waits until a process is one.
func zombie(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "a zombie", func() bool { return state(pid) == 'Z' })
}

// quiet fails the test if a process has been said to have ended.
func (w *world) quiet(p Process) {
	w.t.Helper()
	select {
	case e := <-p.Exited:
		w.t.Errorf("%d: got exit %#x, but it lives", p.Pid, uint32(e.Status))
	default:
	}
}

// once fails the test if a process has ended twice.
func (w *world) once(p Process) {
	w.t.Helper()
	select {
	case e := <-p.Exited:
		w.t.Errorf("%d: got a second exit, %#x", p.Pid, uint32(e.Status))
	default:
	}
}

// swept probes until the group of an adopted process is said to be empty, as
// the actor does: those who are not our children end unheard.
func (w *world) swept(p Process) {
	w.t.Helper()
	eventually(w.t, "the group is empty", func() bool {
		w.Probe(p.Pid, false)
		select {
		case e := <-p.Exited:
			return e.Drained
		default:
			return false
		}
	})
}

func TestAdoptedProcessIsSignalledAndItsEndHeard(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	a := b.sleeper()
	if parentOf(a.Group) == os.Getpid() {
		t.Fatal("it is our own child: this test shows nothing")
	}
	p := w.Adopt(a)
	if p.Pid != a.Group {
		t.Errorf("got process %d, want %d", p.Pid, a.Group)
	}
	w.quiet(p)
	w.Reaper.mu.Lock()
	heard, looked := len(w.adopted.by), len(w.adopted.bare)
	w.Reaper.mu.Unlock()
	if heard != 1 || looked != 0 {
		t.Errorf("got %d watched by handle, %d looked at now and then; want 1, 0", heard, looked)
	}
	if err := w.Signal(p.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stopped", func() bool { return state(p.Pid) == 'T' })
	if err := w.SignalGroup(p.Pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool { return state(p.Pid) == 'S' })
	w.quiet(p)
	if err := w.Signal(p.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// Its parent has not reaped it, and may never do.
	if e := w.exit(p); e.Status != killed(unix.SIGTERM) || !e.Alone {
		t.Errorf("got %#x, alone %v; want TERM, true", uint32(e.Status), e.Alone)
	}
	for _, err := range []error{w.Signal(p.Pid, 0), w.SignalGroup(p.Pid, 0)} {
		if err != unix.ESRCH {
			t.Errorf("signal after its end: got %v, want %v", err, unix.ESRCH)
		}
	}
	b.reap(p.Pid)
	w.once(p)
}

func TestExitStatusOfAnAdoptedProcessIsThatOfItsZombie(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	gate := newPipe(t)
	a := b.start(sh(t, `read x <"$GATE"; exit 7`), mark, "GATE="+gate.path)
	p := w.Adopt(a)
	gate.file.WriteString("\n")
	if e := w.exit(p); e.Status != exited(7) || !e.Alone {
		t.Errorf("got %#x, alone %v; want exit 7, true", uint32(e.Status), e.Alone)
	}
}

// tellsExits says whether the kernel tells how somebody else's child has ended,
// once that has been reaped (Linux 6.15).
func tellsExits() bool {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	if err != nil {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	syscall.Wait4(pid, nil, 0, nil)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
	return errno == 0 && info.Mask&unix.PIDFD_INFO_EXIT != 0
}

// Once init has reaped it, only the handle still knows how it ended.
func TestExitStatusOfAnAdoptedProcessThatWasReapedIsThatOfItsHandle(t *testing.T) {
	want := Unknown
	if tellsExits() {
		want = exited(7)
	}
	w := reap(t)
	b := newBefore(w)
	gate := newPipe(t)
	a := b.start(sh(t, `read x <"$GATE"; exit 7`), mark, "GATE="+gate.path)
	p := w.Adopt(a)
	w.Hold() // so that its end is looked at too late
	gate.file.WriteString("\n")
	zombie(t, p.Pid)
	b.reap(p.Pid)
	w.quiet(p)
	w.Resume()
	if e := w.exit(p); e.Status != want || !e.Alone {
		t.Errorf("got %#x, alone %v; want %#x, true", uint32(e.Status), e.Alone, uint32(want))
	}
}

// What the main process leaves in its group is found, signalled and waited for.
func TestGroupOfAnAdoptedProcessIsSwept(t *testing.T) {
	for _, marked := range []bool{true, false} {
		t.Run(fmt.Sprintf("marked %v", marked), func(t *testing.T) {
			w := reap(t)
			b := newBefore(w)
			pipe, gate := newPipe(t), newPipe(t)
			member := "sleep 1000 &"
			if !marked {
				// It was there before the end, so it is known without.
				member = "env -i sleep 1000 &"
			}
			a := b.start(sh(t, member+`echo $! >"$OUT"; read x <"$GATE"; exit 3`), mark, "OUT="+pipe.path, "GATE="+gate.path)
			left := pipe.number()
			executed(t, left, "sleep")
			p := w.Adopt(a)
			gate.file.WriteString("\n")
			if e := w.exit(p); e.Status != exited(3) || e.Alone {
				t.Fatalf("got %#x, alone %v; want exit 3, and that a member is left", uint32(e.Status), e.Alone)
			}
			w.Probe(p.Pid, false)
			w.Probe(p.Pid, true)
			w.lives(p)
			if err := w.Signal(p.Pid, 0); err != unix.ESRCH {
				t.Errorf("signal to the main process: got %v, want %v", err, unix.ESRCH)
			}
			if err := w.SignalGroup(p.Pid, unix.SIGTERM); err != nil {
				t.Errorf("signal to the group: %v", err)
			}
			eventually(t, "the member ends", func() bool { return state(left) == 0 })
			w.swept(p)
			if err := w.SignalGroup(p.Pid, 0); err != unix.ESRCH {
				t.Errorf("signal to the empty group: got %v, want %v", err, unix.ESRCH)
			}
			w.once(p)
		})
	}
}

// canary is a process that would tell of signals, and that nobody may touch.
type canary struct {
	t    *testing.T
	pipe *pipe
	Adoption
}

func newCanary(t *testing.T, b *before, env ...string) canary {
	t.Helper()
	c := canary{t: t, pipe: newPipe(t)}
	c.Adoption = b.start(sh(t, `
		for sig in HUP INT TERM CONT USR1; do trap "echo signalled >'$OUT'" $sig; done
		echo ready >"$OUT"
		while :; do read x <"$NEVER"; done`), append(env, "OUT="+c.pipe.path, "NEVER="+newPipe(t).path)...)
	if got := c.pipe.line(); got != "ready" {
		t.Fatalf("canary: got %q", got)
	}
	return c
}

// sings fails the test if it was signalled or has ended: what is asked of it
// now comes first among what it answers.
func (c canary) sings() {
	c.t.Helper()
	if got := state(c.Group); got == 0 || got == 'Z' {
		c.t.Errorf("the stranger has ended")
		return
	}
	c.pipe.file.WriteString("last\n")
	if got := c.pipe.line(); got != "last" {
		c.t.Errorf("the stranger was %s", got)
	}
}

// A number that has come to somebody else is not his whose it was: not to be
// signalled, nor to be waited for.
func TestRecycledNumberIsLeftAlone(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	c := newCanary(t, b, "SYSMGR_DIR=/run/test/other")
	s, err := readStat(strconv.Itoa(c.Group))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Duration(s.start) * tick
	for what, between := range map[string][2]time.Duration{
		"long before": {1, 2},
		"just before": {start - time.Second, start - 1},
		"just after":  {start + tick, start + time.Second},
		"long after":  {start + time.Hour, start + 2*time.Hour},
		"no time":     {0, 0},
	} {
		for _, led := range []bool{true, false} {
			a := Adoption{Group: c.Group, Led: led, From: between[0], To: between[1], Mark: mark}
			p := w.Adopt(a)
			if led {
				if e := w.exit(p); e.Status != Unknown || !e.Alone {
					t.Errorf("%s: got %#x, alone %v; want unknown, true", what, uint32(e.Status), e.Alone)
				}
			} else {
				w.drained(p)
			}
			for _, sig := range []unix.Signal{0, unix.SIGTERM, unix.SIGCONT} {
				if err := w.Signal(p.Pid, sig); err != unix.ESRCH {
					t.Errorf("%s: signal: got %v, want %v", what, err, unix.ESRCH)
				}
				if err := w.SignalGroup(p.Pid, sig); err != unix.ESRCH {
					t.Errorf("%s: signal to the group: got %v, want %v", what, err, unix.ESRCH)
				}
			}
			w.Probe(p.Pid, true)
			w.once(p)
		}
	}
	c.sings()
	// The control: it is the time alone.
	p := w.Adopt(Adoption{Group: c.Group, Led: true, From: start, To: start, Mark: mark})
	w.quiet(p)
	w.Signal(p.Pid, unix.SIGKILL)
	w.exit(p)
}

// Nobody adopts what is no main process, or what may not be signalled.
func TestWhatIsNoMainProcessIsNotAdopted(t *testing.T) {
	w := reap(t)
	newBefore(w)
	runs := make(chan int)
	stop := make(chan struct{})
	defer close(stop)
	go func() { runs <- unix.Gettid(); <-stop }()
	thread := <-runs
	for thread == os.Getpid() { // of several, at most one is the first
		go func() { runs <- unix.Gettid(); <-stop }()
		thread = <-runs
	}
	for what, pid := range map[string]int{"nobody": 1 << 22, "a thread": thread} {
		p := w.Adopt(Adoption{Group: pid, Led: true, From: 0, To: BootTime(), Mark: mark})
		if e := w.exit(p); e.Status != Unknown || !e.Alone {
			t.Errorf("%s: got %#x, alone %v; want unknown, true", what, uint32(e.Status), e.Alone)
		}
	}
}

func TestMainProcessThatEndedBetweenDaemonsHasEnded(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	// As a zombie, which tells its status.
	a := b.start("/bin/false", mark)
	zombie(t, a.Group)
	p := w.Adopt(a)
	if e := w.exit(p); e.Status != exited(1) || !e.Alone {
		t.Errorf("zombie: got %#x, alone %v; want exit 1, true", uint32(e.Status), e.Alone)
	}
	if err := w.Signal(p.Pid, 0); err != unix.ESRCH {
		t.Errorf("signal to a zombie: got %v, want %v", err, unix.ESRCH)
	}
	// Reaped: nobody knows.
	b.reap(a.Group)
	p = w.Adopt(a)
	if e := w.exit(p); e.Status != Unknown || !e.Alone {
		t.Errorf("reaped: got %#x, alone %v; want unknown, true", uint32(e.Status), e.Alone)
	}
}

// A group whose main process has ended between daemons is known by the mark of
// a member, and by nothing else.
func TestGroupThatIsLeftOverIsKnownByItsMark(t *testing.T) {
	for _, reaped := range []bool{false, true} {
		for _, led := range []bool{true, false} {
			t.Run(fmt.Sprintf("reaped %v, led %v", reaped, led), func(t *testing.T) {
				w := reap(t)
				b := newBefore(w)
				pipe := newPipe(t)
				a := b.start(sh(t, `sleep 1000 & echo $! >"$OUT"`), mark, "OUT="+pipe.path)
				member := pipe.number()
				executed(t, member, "sleep")
				zombie(t, a.Group)
				status := exited(0)
				if reaped {
					b.reap(a.Group)
					status = Unknown
				}
				for _, another := range []string{mark + "x", strings.TrimSuffix(mark, "b")} {
					if !reaped { // the number is still that of the zombie
						break
					}
					other := a
					other.Mark = another
					p := w.Adopt(other)
					if e := w.exit(p); !e.Alone {
						t.Errorf("with the mark %q: got a group, want none", another)
					}
					if err := w.SignalGroup(p.Pid, unix.SIGKILL); err != unix.ESRCH {
						t.Errorf("with the mark %q: got %v, want %v", another, err, unix.ESRCH)
					}
					if got := state(member); got == 0 || got == 'Z' {
						t.Fatalf("with the mark %q: the member was signalled", another)
					}
				}
				a.Led = led
				p := w.Adopt(a)
				if led {
					if e := w.exit(p); e.Status != status || e.Alone {
						t.Errorf("got %#x, alone %v; want %#x, false", uint32(e.Status), e.Alone, uint32(status))
					}
				}
				w.lives(p)
				w.quiet(p)
				w.Probe(p.Pid, true)
				w.lives(p)
				if err := w.SignalGroup(p.Pid, unix.SIGKILL); err != nil {
					t.Errorf("signal to the group: %v", err)
				}
				eventually(t, "the member ends", func() bool { return state(member) == 0 })
				w.swept(p)
				w.quiet(p)
			})
		}
	}
}

// A main process whose first thread has ended runs on in the others.
func TestAdoptedProcessWithoutItsFirstThreadLives(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	pipe := newPipe(t)
	a := b.start(self(), mark, part+"=thread", "REPORT="+pipe.path, "GORACE=atexit_sleep_ms=0")
	if got := pipe.after("member"); got != a.Group {
		t.Fatalf("got %d, want %d", got, a.Group)
	}
	p := w.Adopt(a)
	w.quiet(p)
	if err := w.Signal(p.Pid, unix.SIGKILL); err != nil {
		t.Errorf("signal: %v", err)
	}
	if e := w.exit(p); e.Status != killed(unix.SIGKILL) {
		t.Errorf("got %#x, want KILL", uint32(e.Status))
	}
}

func TestManyAdoptedProcessesEndAtOnce(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	var all []Process
	var pids []int
	path := sh(t, "exec sleep 1000")
	for range 100 {
		a := b.start(path, mark)
		pids = append(pids, a.Group)
		all = append(all, w.Adopt(a))
	}
	for _, p := range all {
		w.Signal(p.Pid, unix.SIGKILL)
	}
	for _, p := range all {
		if e := w.exit(p); e.Status != killed(unix.SIGKILL) || !e.Alone {
			t.Errorf("%d: got %#x, alone %v; want KILL, true", p.Pid, uint32(e.Status), e.Alone)
		}
	}
	for i, pid := range pids {
		b.reap(pid)
		w.once(all[i])
	}
	w.Reaper.mu.Lock()
	if len(w.main) != 1 || len(w.foreign) != 0 || len(w.draining) != 0 || len(w.adopted.by) != 0 {
		t.Errorf("left in the tables: %d, %d, %d, %d, want only their parent", len(w.main), len(w.foreign), len(w.draining), len(w.adopted.by))
	}
	w.Reaper.mu.Unlock()
	// No handle is kept of what has ended.
	eventually(t, "no handle is left", func() bool {
		left := 0
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.Contains(to, "pidfd") {
				left++
			}
		}
		return left == 0
	})
}

// Without a descriptor there is no handle: it is looked at now and then.
func TestAdoptedProcessWithoutAHandleIsLookedAt(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	a, gone := b.sleeper(), b.sleeper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	var taken []*os.File
	restore := func() {
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		for _, f := range taken {
			f.Close()
		}
		taken = nil
	}
	defer restore()
	few := limit
	few.Cur = 100
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		taken = append(taken, f)
	}
	p, q := w.Adopt(a), w.Adopt(gone)
	w.quiet(p)
	unix.Kill(q.Pid, unix.SIGKILL)
	restore()
	if e := w.exit(q); !e.Alone {
		t.Error("got not alone, want alone")
	}
	w.quiet(p)
	if err := w.Signal(p.Pid, unix.SIGKILL); err != nil {
		t.Errorf("signal without a handle: %v", err)
	}
	w.exit(p)
}

// found is Find, which must find.
func (w *world) found(mark string, from time.Duration) Adoption {
	w.t.Helper()
	a, ok := w.Find(mark, from)
	if !ok {
		w.t.Fatalf("%s: nobody found", mark)
	}
	return a
}

// later waits until start times are others.
func later() time.Duration {
	for end := BootTime() + 3*tick; BootTime() < end; {
		time.Sleep(tick)
	}
	return BootTime()
}

func TestFindFindsTheLeaderWithTheMark(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	pipe := newPipe(t)
	from := later()
	// Others have marks that are similar, or are members with this one.
	b.start(sh(t, "exec sleep 1000"), mark+"x")
	b.start(sh(t, "exec sleep 1000"), "X"+mark)
	b.start(sh(t, "exec sleep 1000"), strings.TrimSuffix(mark, "b"))
	b.start(sh(t, "exec sleep 1000"), "NOTE=x "+mark)
	if a, ok := w.Find(mark, from); ok {
		t.Fatalf("before it is there: got %+v, want nobody", a)
	}
	path := sh(t, `sleep 1000 & echo $! >"$OUT"; exec sleep 1001`)
	want := b.start(path, mark, "OUT="+pipe.path)
	executed(t, pipe.number(), "sleep")
	got := w.found(mark, from)
	if got.Group != want.Group || !got.Led || got.Mark != mark {
		t.Errorf("got %+v, want the leader %d", got, want.Group)
	}
	// Its start time is known now, to the hundredth of a second.
	if got.To-got.From != tick || got.To <= want.From || got.From > want.To {
		t.Errorf("got from %v to %v, want a hundredth of a second within %v to %v", got.From, got.To, want.From, want.To)
	}
	p := w.Adopt(got)
	w.quiet(p)
	w.SignalGroup(p.Pid, unix.SIGKILL)
	if e := w.exit(p); !e.Alone { // the member is a moment later
		w.swept(p)
	}
	if a, ok := w.Find(mark, later()); ok {
		t.Errorf("after its end: got %+v, want nobody", a)
	}
}

// What was started before that start is another run.
func TestFindFindsNoneThatIsOlder(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	old := b.sleeper()
	from := later()
	if a, ok := w.Find(mark, from); ok {
		t.Errorf("got %+v, want nobody", a)
	}
	young := b.sleeper()
	if got := w.found(mark, from); got.Group != young.Group {
		t.Errorf("got %d, want the younger one, %d", got.Group, young.Group)
	}
	// Of two that are young enough it is the elder: the other is its work.
	if got := w.found(mark, old.From); got.Group != old.Group {
		t.Errorf("got %d, want the elder one, %d", got.Group, old.Group)
	}
}

// If the main process has ended already, what it has left bears the mark.
func TestFindFindsWhatTheMainProcessHasLeft(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	pipe := newPipe(t)
	from := later()
	a := b.start(sh(t, `sleep 1000 & echo $! >"$OUT"`), mark, "OUT="+pipe.path)
	member := pipe.number()
	executed(t, member, "sleep")
	zombie(t, a.Group)
	b.reap(a.Group)
	got := w.found(mark, from)
	if got.Group != a.Group {
		t.Fatalf("got group %d, want %d", got.Group, a.Group)
	}
	// Where there is a leader, what is left elsewhere is not it, though older.
	if leader := b.sleeper(); w.found(mark, from).Group != leader.Group {
		t.Errorf("got %d, want the leader, %d", w.found(mark, from).Group, leader.Group)
	}
	p := w.Adopt(got)
	if e := w.exit(p); e.Alone {
		t.Error("got alone, want not: the member is there")
	}
	w.SignalGroup(p.Pid, unix.SIGKILL)
	eventually(t, "the member ends", func() bool { return state(member) == 0 })
	w.swept(p)
}

// A zombie is nobody.
func TestFindPassesOverZombies(t *testing.T) {
	w := reap(t)
	b := newBefore(w)
	a := b.start("/bin/true", mark)
	zombie(t, a.Group)
	if got, ok := w.Find(mark, a.From); ok {
		t.Errorf("got %+v, want nobody", got)
	}
}

// While a Hold lasts, what ends stays for the program that is executed in our
// place. Everything else goes on.
func TestHoldKeepsExitsForTheNextProgram(t *testing.T) {
	w := reap(t)
	p, q := w.start("/bin/sleep"), Process{}
	w.exit(p) // it complains of its arguments
	p = w.start(sh(t, "exec sleep 1000"))
	w.Hold()
	q = w.start(sh(t, "exec sleep 1000"))
	if err := w.Signal(p.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	zombie(t, p.Pid)
	// Here the next program would come; its wait4(2) finds it.
	var info struct {
		signo, errno, code, _ int32
		pid                   int32
		_                     [108]byte
	}
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(p.Pid), uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT, 0, 0)
	if errno != 0 || int(info.pid) != p.Pid {
		t.Errorf("waitid: got process %d, %v, want %d", info.pid, errno, p.Pid)
	}
	w.quiet(p)
	w.quiet(q)
	// It did not come to that.
	w.Resume()
	if e := w.exit(p); e.Status != killed(unix.SIGTERM) || !e.Alone {
		t.Errorf("got %#x, alone %v; want TERM, true", uint32(e.Status), e.Alone)
	}
	w.Signal(q.Pid, unix.SIGKILL)
	if e := w.exit(q); e.Status != killed(unix.SIGKILL) {
		t.Errorf("started meanwhile: got %#x, want KILL", uint32(e.Status))
	}
}

// successor is the reaper of the program that was executed in our place: it has
// our children, and nothing of what we knew.
func successor(t *testing.T, expect ...int) (w *world, run func()) {
	t.Helper()
	w = &world{t: t, news: make(chan struct{}, 1)}
	r, err := New(func(f Fact) {
		w.mu.Lock()
		w.facts = append(w.facts, f)
		w.mu.Unlock()
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Reaper = r
	if expect != nil {
		r.Expect(expect...)
	}
	return w, func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		t.Cleanup(func() {
			for end := time.Now().Add(soon); len(children()) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
				for _, pid := range children() {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
			w.empty()
			cancel()
			<-done
			w.over()
		})
	}
}

// born makes a child of ours, as the program before us did.
func born(t *testing.T, path string, env ...string) Adoption {
	t.Helper()
	from := BootTime()
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{
		Env: append(os.Environ(), append(env, mark)...), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return Adoption{Group: pid, Led: true, From: from, To: BootTime(), Mark: mark}
}

func TestExpectedExitIsNotLostBeforeItsAdoption(t *testing.T) {
	for what, test := range map[string]struct {
		path string
		want syscall.WaitStatus
	}{"ended before Run": {"/bin/false", exited(1)}, "alive": {"", killed(unix.SIGTERM)}} {
		t.Run(what, func(t *testing.T) {
			path := test.path
			if path == "" {
				path = sh(t, "exec sleep 1000")
			}
			a := born(t, path)
			if test.path != "" {
				zombie(t, a.Group)
			}
			w, run := successor(t, a.Group)
			run()
			if test.path != "" {
				eventually(t, "it is reaped", func() bool { return state(a.Group) == 0 })
			}
			p := w.Adopt(a)
			if test.path == "" {
				w.quiet(p)
				w.Reaper.mu.Lock()
				c, known := w.child(a.Group)
				own := known && c.away == nil
				w.Reaper.mu.Unlock()
				if !own {
					t.Error("it is not watched as our own child")
				}
				if err := w.Signal(a.Group, unix.SIGTERM); err != nil {
					t.Error(err)
				}
			}
			if e := w.exit(p); e.Status != test.want || !e.Alone {
				t.Errorf("got %#x, alone %v; want %#x, true", uint32(e.Status), e.Alone, uint32(test.want))
			}
			w.once(p)
			if strangers := facts[Reaped](w); len(strangers) != 0 {
				t.Errorf("told of as strangers: %+v", strangers)
			}
		})
	}
}

// What an expected main process has left in its group is ours to wait for.
func TestGroupOfAnExpectedExitIsWaitedFor(t *testing.T) {
	pipe := newPipe(t)
	a := born(t, sh(t, `sleep 1000 & echo $! >"$OUT"; exit 5`), "OUT="+pipe.path)
	member := pipe.number()
	executed(t, member, "sleep")
	w, run := successor(t, a.Group)
	run()
	eventually(t, "it is reaped", func() bool { return state(a.Group) == 0 })
	p := w.Adopt(a)
	if e := w.exit(p); e.Status != exited(5) || e.Alone {
		t.Errorf("got %#x, alone %v; want exit 5, false", uint32(e.Status), e.Alone)
	}
	w.lives(p)
	if err := w.SignalGroup(p.Pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	w.drained(p) // as it is our orphan, we hear of it
}

// The program before us had reaped the main process, and waited for the rest.
func TestGroupWithoutAMainProcessIsKeptInAReplacedProgram(t *testing.T) {
	pipe := newPipe(t)
	a := born(t, sh(t, `sleep 1000 & echo $! >"$OUT"; exit 5`), "OUT="+pipe.path)
	member := pipe.number()
	executed(t, member, "sleep")
	zombie(t, a.Group)
	// The member comes to us as an orphan, if we were asked to be there for it.
	w, run := successor(t, []int{}...)
	syscall.Wait4(a.Group, nil, 0, nil)
	w.Expect()
	run()
	a.Led = false
	p := w.Adopt(a)
	w.lives(p)
	if err := w.SignalGroup(p.Pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	w.swept(p)
	if got := state(member); got != 0 {
		t.Errorf("the member is there still: %c", got)
	}
	// And of another, nothing was left.
	p = w.Adopt(a)
	w.drained(p)
	w.quiet(p)
}

// A number in the records of a replaced program that is not our child, or not
// that one any more, is nobody's.
func TestStrangerIsNotKeptInAReplacedProgram(t *testing.T) {
	a := born(t, sh(t, "exec sleep 1000"))
	wrong := a
	wrong.From, wrong.To, wrong.Mark = a.To+time.Hour, a.To+2*time.Hour, mark+"x"
	w, run := successor(t, a.Group)
	run()
	p := w.Adopt(wrong)
	if e := w.exit(p); e.Status != Unknown {
		t.Errorf("got %#x, want unknown", uint32(e.Status))
	}
	if err := w.Signal(p.Pid, unix.SIGKILL); err != unix.ESRCH {
		t.Errorf("signal: got %v, want %v", err, unix.ESRCH)
	}
	if got := state(a.Group); got == 0 || got == 'Z' {
		t.Error("the stranger was signalled")
	}
}
