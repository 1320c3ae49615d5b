package actor

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// kernel is a fake with virtual time: processes that end when they are told
// to, or by themselves after a life.
type kernel struct {
	t  *testing.T
	mu sync.Mutex

	// How the next processes behave.
	refuse   error
	execTime time.Duration // how long Start takes
	life     time.Duration // 0: until signalled
	stopTime time.Duration // from TERM to the end
	deaf     bool          // to all but KILL
	undead   bool          // the next one does not hear KILL either
	left     bool          // a child stays in the group, which ends at TERM after stopTime
	status   syscall.WaitStatus

	findable map[string]int // what Find finds, by mark
	adopted  []reaper.Adoption

	next    int
	running map[int]*fake
	starts  []start
	signals []string
	twins   int // starts while an earlier process of the service lived
}

type start struct {
	at   time.Time
	name string
	env  []string
}

type fake struct {
	pid    int
	name   string
	exited chan reaper.Exit
	main   bool
	left   bool
	ending bool
	deaf   bool
	after  time.Duration
	undead bool
}

func newKernel(t *testing.T) *kernel {
	return &kernel{t: t, running: make(map[int]*fake), next: 100}
}

// tooLate is how long a start takes that the reaper calls late.
const tooLate = 3 * time.Second

func (k *kernel) Start(c reaper.Command) (reaper.Process, error) {
	if k.execTime > tooLate {
		time.Sleep(tooLate)
		c.Late()
	}
	time.Sleep(max(0, k.execTime-tooLate))
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return reaper.Process{}, k.refuse
	}
	name := filepath.Base(c.Path)
	for _, p := range k.running {
		if p.name == name {
			k.twins++
		}
	}
	k.next++
	p := &fake{pid: k.next, name: name, exited: c.Exited, main: true, left: k.left, deaf: k.deaf, after: k.stopTime, undead: k.undead}
	k.running[p.pid] = p
	k.starts = append(k.starts, start{time.Now(), name, c.Env})
	if k.life > 0 {
		status := k.status
		time.AfterFunc(k.life, func() { k.end(p, status) })
	}
	return reaper.Process{Pid: p.pid, Exited: p.exited}, nil
}

// end is the end of a main process.
func (k *kernel) end(p *fake, status syscall.WaitStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !p.main {
		return
	}
	p.main = false
	if !p.left {
		delete(k.running, p.pid)
	}
	p.ending = false
	p.exited <- reaper.Exit{Status: status, Alone: !p.left}
}

// drain is the end of what was left.
func (k *kernel) drain(p *fake) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.main || !p.left {
		return
	}
	p.left = false
	delete(k.running, p.pid)
	p.exited <- reaper.Exit{Drained: true}
}

func (k *kernel) Signal(pid int, sig unix.Signal) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.running[pid]
	if p == nil || !p.main {
		return unix.ESRCH
	}
	k.signals = append(k.signals, fmt.Sprintf("%s %s", p.name, rundir.SignalName(sig)))
	if sig != unix.SIGCONT && sig != unix.SIGHUP && !p.deaf && !p.ending {
		p.ending = true
		// Not before whoever signals has done so: CONT comes behind.
		time.AfterFunc(max(p.after, time.Nanosecond), func() { k.end(p, syscall.WaitStatus(sig)) })
	}
	return nil
}

func (k *kernel) SignalGroup(group int, sig unix.Signal) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.running[group]
	if p == nil {
		return unix.ESRCH
	}
	k.signals = append(k.signals, fmt.Sprintf("%s group %s", p.name, rundir.SignalName(sig)))
	switch {
	case sig == unix.SIGKILL && p.undead:
	case sig == unix.SIGKILL:
		time.AfterFunc(0, func() { k.end(p, syscall.WaitStatus(unix.SIGKILL)); k.drain(p) })
	case sig == unix.SIGTERM && !p.deaf && !p.ending:
		p.ending = true
		time.AfterFunc(max(p.after, time.Nanosecond), func() { k.drain(p) })
	}
	return nil
}

func (k *kernel) Probe(int, bool) {}

// crash ends the main process of a service.
func (k *kernel) crash(name string) {
	k.mu.Lock()
	var dying *fake
	for _, p := range k.running {
		if p.name == name {
			dying = p
		}
	}
	k.mu.Unlock()
	k.end(dying, 1<<8)
}

// Adopt finds what runs; a process that does not has ended, nobody knows how.
func (k *kernel) Adopt(a reaper.Adoption) reaper.Process {
	k.mu.Lock()
	defer k.mu.Unlock()
	told := a
	told.Exited = nil
	k.adopted = append(k.adopted, told)
	if p := k.running[a.Group]; p != nil {
		p.exited = a.Exited
		return reaper.Process{Pid: p.pid, Exited: p.exited}
	}
	if a.Led {
		a.Exited <- reaper.Exit{Status: reaper.Unknown, Alone: true}
	} else {
		a.Exited <- reaper.Exit{Drained: true}
	}
	return reaper.Process{Pid: a.Group, Exited: a.Exited}
}

// Find finds what was said to be found.
func (k *kernel) Find(mark string, _ time.Duration) (a reaper.Adoption, found bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pid, found := k.findable[mark]
	return reaper.Adoption{Group: pid, Led: true, From: 1, To: 2, Mark: mark}, found
}

func (k *kernel) told() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.signals)
}

func (k *kernel) started() []start {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.starts)
}

// bench is what a test of the actors stands on.
type bench struct {
	t      *testing.T
	dir    *rundir.Dir
	kernel *kernel
	config *Config
	facts  []Fact
	mu     sync.Mutex
}

func newBench(t *testing.T) *bench {
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	b := &bench{t: t, dir: dir, kernel: newKernel(t)}
	b.config = &Config{
		Sysdir:    "/sys/dir",
		Rundir:    dir,
		Env:       []string{"A=b"},
		Manner:    rundir.Manner{Signal: unix.SIGTERM, Grace: 10 * time.Second},
		Processes: b.kernel,
		Debug:     func() bool { return true },
		Report: func(f Fact) {
			b.mu.Lock()
			b.facts = append(b.facts, f)
			b.mu.Unlock()
		},
	}
	return b
}

// run starts the actor of a service; at the end of the test it is shut down.
func (b *bench) run(name string) *Service {
	return b.live(NewService(b.config, name, ""))
}

// live runs an actor until the end of the test.
func (b *bench) live(s *Service) *Service {
	done := make(chan struct{})
	go func() {
		s.Run(WantUp)
		close(done)
	}()
	b.t.Cleanup(func() {
		s.Shutdown()
		<-done
		if b.kernel.twins > 0 {
			b.t.Errorf("%d times two processes of one service", b.kernel.twins)
		}
	})
	synctest.Wait()
	return s
}

func (b *bench) status(name string) rundir.Status {
	b.t.Helper()
	f, err := b.dir.Folder(name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	s, err := f.ReadStatus()
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) file(name, file string) string {
	data, err := os.ReadFile(filepath.Join(b.dir.Path(), name, file))
	if err != nil {
		return "absent"
	}
	return strings.TrimSpace(string(data))
}

func (b *bench) write(name, file, content string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.dir.Path(), name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir.Path(), name, file), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// expect waits, for a nanosecond, until nothing moves and compares the phase.
func (b *bench) expect(name, phase string) rundir.Status {
	b.t.Helper()
	time.Sleep(time.Nanosecond) // what is due now may happen
	synctest.Wait()
	s := b.status(name)
	if s.Phase == "up" && phase == "stopping" {
		time.Sleep(brief) // which is told of when it takes as long
		synctest.Wait()
		s = b.status(name)
	}
	if s.Phase != phase {
		b.t.Fatalf("%s: got %s (%s), want %s", name, s.Phase, s.Cause, phase)
	}
	return s
}

func order(k Kind) Order { return Order{Event: Event{Kind: k}} }

func TestAServiceIsPublishedWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.run("web")
		status := b.expect("web", "up")
		if pid, sys := b.file("web", "pid"), b.file("web", "syspid"); pid != "101" || sys != "101" || status.Pid != 101 {
			t.Errorf("got pid %s, syspid %s, status %d; want 101", pid, sys, status.Pid)
		}
		if got, want := b.kernel.starts[0].env, []string{"A=b", "SYSMGR_NAME=web", "SYSMGR_DIR=" + b.dir.Path() + "/web"}; !slices.Equal(got, want) {
			t.Errorf("environment: got %q, want %q", got, want)
		}
		s.Tell(order(Stop))
		b.expect("web", "down")
		if pid, sys := b.file("web", "pid"), b.file("web", "syspid"); pid != "absent" || sys != "absent" {
			t.Errorf("got pid %s, syspid %s; want them gone", pid, sys)
		}
	})
}

// The start comes first, unless it takes long; and a service that starts nothing
// is attended to as well.
func TestRequestsAreTakenOfAServiceHoweverItBegins(t *testing.T) {
	for name, prepare := range map[string]func(*bench){
		"it starts":         func(*bench) {},
		"its start hangs":   func(b *bench) { b.kernel.execTime = time.Hour },
		"it does not start": func(b *bench) { b.kernel.refuse = &reaper.StartError{Errno: unix.EACCES, Reason: "refused"} },
		"it is held":        func(b *bench) { b.write("web", rundir.Lock, "TERM\n") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				prepare(b)
				attended := make(chan string, 2)
				b.config.Attend = func(name string) { attended <- name }
				b.run("web")
				time.Sleep(2 * tooLate)
				if len(attended) != 1 {
					t.Errorf("attended to %d times, want once", len(attended))
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// From its death to its next start nobody listens, and no longer than that:
// what the new process writes is heard.
func TestNobodyListensBetweenADeathAndTheNextStart(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*bench)
		after   time.Duration
		phase   string
		want    string
	}{
		"it is started again": {func(b *bench) {}, 0, "up", "mute, start, heed"},
		"it waits":            {func(b *bench) { time.Sleep(lived); b.kernel.crash("web"); time.Sleep(2 * lived) }, 0, "backoff", "mute, heed"},
		"its start hangs":     {func(b *bench) { b.kernel.execTime = time.Hour }, tooLate, "down", "mute, heed"},
		"it is held":          {func(b *bench) { b.write("web", rundir.Lock, "TERM\n") }, 0, "down", "mute, heed a lock that was read"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var mu sync.Mutex
				var told []string
				starts := 0
				tell := func(what string) {
					mu.Lock()
					defer mu.Unlock()
					if now := len(b.kernel.started()); now > starts {
						told, starts = append(told, "start"), now
					}
					told = append(told, what)
				}
				b.config.Attend = func(string) {}
				b.config.Mute = func(string) { tell("mute") }
				b.config.Heed = func(_ string, f *rundir.Folder, read bool) {
					switch {
					case read:
						tell("heed a lock that was read")
					case f == nil || !f.Has(rundir.State):
						tell("heed without a folder")
					case b.file("web", rundir.Pid) == "102":
						tell("heed when it is published")
					default:
						tell("heed")
					}
				}
				b.run("web")
				c.prepare(b)
				time.Sleep(2 * lived)
				mu.Lock()
				told, starts = nil, len(b.kernel.started())
				mu.Unlock()
				b.kernel.crash("web")
				time.Sleep(c.after)
				b.expect("web", c.phase)
				mu.Lock()
				defer mu.Unlock()
				if got := strings.Join(told, ", "); got != c.want {
					t.Errorf("got %s; want %s", got, c.want)
				}
			})
		})
	}
}

// A stop that is over at once is told of once.
func TestAStopIsPublishedWhenItTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 2 * brief
		s := b.run("web")
		b.expect("web", "up")
		s.tell(Event{Kind: Removed})
		time.Sleep(brief / 2)
		b.expect("web", "up")
		time.Sleep(brief)
		if got := b.status("web"); got.Phase != "stopping" || got.Cause != "removed" || got.Pid == 0 {
			t.Errorf("got %s (%s), pid %d; want stopping (removed)", got.Phase, got.Cause, got.Pid)
		}
	})
}

// A shutdown of many takes its time with each of them: those that are over
// meanwhile never say that they are stopping, and a slow one says it in time.
func TestAShutdownOfManyPublishesTheSlowStops(t *testing.T) {
	const count = 300
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Debug = func() bool { return false }
		names := make([]string, count)
		for i := range names {
			names[i] = fmt.Sprintf("s%04d", i)
		}
		b.kernel.stopTime = brief + brief/2
		v, stop := b.supervise()
		b.up(v, names, "")
		b.kernel.stopTime = 5 * time.Second
		b.up(v, append(names, "slow"), "")
		go stop()
		time.Sleep(brief + time.Millisecond)
		for _, name := range append(names, "slow") {
			if got := b.status(name).Phase; got != "up" {
				t.Fatalf("%s after %v: got %s, want up", name, brief, got)
			}
		}
		time.Sleep(count * aTurn)
		b.expect("slow", "stopping")
		if left, err := b.dir.Names(); len(left) != 1 {
			t.Errorf("got %d folders, %v, want that of the slow one", len(left), err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
	})
}

func TestAStopOfTenThousandSaysSoInTheEnd(t *testing.T) {
	var c Config
	c.ending.Store(1_000_000)
	if got := c.brief(); got != mostBrief {
		t.Errorf("got %v, want %v", got, mostBrief)
	}
}

// Of the two files that name the process one could be written: it goes all the
// same when the process has ended.
func TestAPidFileThatIsHalfOfItGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.write("web/syspid", "of somebody else", "")
		s := b.run("web")
		if pid := b.file("web", "pid"); pid != "101" {
			t.Fatalf("got pid %s, want 101", pid)
		}
		s.Tell(order(Stop))
		time.Sleep(time.Second)
		if pid := b.file("web", "pid"); pid != "absent" {
			t.Errorf("after the end: got pid %s, want it gone", pid)
		}
		os.Remove(filepath.Join(b.dir.Path(), "web", "syspid", "of somebody else"))
		s.post(publish{})
		b.expect("web", "down")
	})
}

// Half an hour of a service that ends at once, in virtual time.
func TestACrashLoopBacksOffAndNeverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.life, b.kernel.status = 100*time.Millisecond, 1<<8
		begin := time.Now()
		b.run("bad")
		time.Sleep(30 * time.Minute)
		var at []float64
		for _, s := range b.kernel.started() {
			at = append(at, s.at.Sub(begin).Seconds())
		}
		want := []float64{0, 1.1, 3.2, 7.3, 15.4, 31.5, 61.6, 91.7}
		if len(at) < 60 || fmt.Sprintf("%.1f", at[:len(want)]) != fmt.Sprintf("%.1f", want) {
			t.Errorf("got starts at %.1f… (%d of them), want %.1f…", at[:min(len(at), len(want))], len(at), want)
		}
		status := b.expect("bad", "backoff")
		if status.RetryIn != 30*time.Second || status.LastExit != "exit 1" {
			t.Errorf("got retry-in %v, last-exit %q; want 30s, exit 1", status.RetryIn, status.LastExit)
		}
	})
}

func TestAnOrderSkipsTheWait(t *testing.T) {
	for _, k := range []Kind{Start, Restart, Once} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.kernel.life = 1
			s := b.run("bad")
			time.Sleep(20 * time.Second)
			b.expect("bad", "backoff")
			b.kernel.life = 0
			s.Tell(order(k))
			b.expect("bad", "up")
		})
	}
}

func TestAStopIsNeverLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // while the program is being executed
		b := newBench(t)
		b.kernel.execTime = 5 * time.Second
		s := b.run("slow")
		time.Sleep(time.Second)
		s.Tell(order(Stop))
		time.Sleep(3 * time.Second)
		if n := len(b.kernel.started()); n != 0 {
			t.Fatalf("got %d starts, want none yet", n)
		}
		time.Sleep(2 * time.Second)
		b.expect("slow", "down")
		time.Sleep(time.Minute)
		if n := len(b.kernel.started()); n != 1 {
			t.Errorf("got %d starts, want 1", n)
		}
	})
	synctest.Test(t, func(t *testing.T) { // in back-off
		b := newBench(t)
		b.kernel.life = 1
		s := b.run("bad")
		time.Sleep(5 * time.Second)
		b.expect("bad", "backoff")
		s.Tell(order(Stop))
		b.expect("bad", "down")
		n := len(b.kernel.started())
		time.Sleep(time.Hour)
		if got := len(b.kernel.started()); got != n {
			t.Errorf("got %d more starts, want none", got-n)
		}
	})
	synctest.Test(t, func(t *testing.T) { // while it is being restarted
		b := newBench(t)
		b.kernel.stopTime = 3 * time.Second
		s := b.run("slow")
		s.Tell(order(Restart))
		time.Sleep(time.Second)
		b.expect("slow", "stopping")
		s.Tell(order(Stop))
		time.Sleep(5 * time.Second)
		b.expect("slow", "down")
	})
	synctest.Test(t, func(t *testing.T) { // while it is blocked
		b := newBench(t)
		b.kernel.refuse = &reaper.StartError{Errno: unix.EACCES, Reason: "not executable"}
		s := b.run("x")
		b.expect("x", "blocked")
		s.Tell(order(Stop))
		b.expect("x", "down")
		b.kernel.mu.Lock()
		b.kernel.refuse = nil
		b.kernel.mu.Unlock()
		time.Sleep(time.Minute)
		b.expect("x", "down")
	})
}

func TestAStartWaitsForTheOldProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 4 * time.Second
		s := b.run("slow")
		s.Tell(order(Stop))
		time.Sleep(time.Second)
		s.Tell(order(Start))
		time.Sleep(time.Second)
		status := b.expect("slow", "stopping")
		if status.Wanted != "up" || len(b.kernel.started()) != 1 {
			t.Errorf("got wanted %s, %d starts; want up, 1", status.Wanted, len(b.kernel.started()))
		}
		time.Sleep(3 * time.Second)
		b.expect("slow", "up")
	})
}

func TestAStopBecomesKillAtTheTimeOut(t *testing.T) {
	for _, test := range []struct {
		name, timeout, signal string
		first                 string
		kill                  time.Duration
	}{
		{"usual", "", "", "TERM", 10 * time.Second},
		{"its own", "3\n", "INT\n", "INT", 3 * time.Second},
		{"a fraction", "0.5", "SIGQUIT", "QUIT", 500 * time.Millisecond},
		{"nonsense", "soon\n", "LOUD\n", "TERM", 10 * time.Second},
		{"never", "0\n", "", "TERM", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.kernel.deaf = true
				s := b.run("deaf")
				if test.timeout != "" {
					b.write("deaf", "stop-timeout", test.timeout)
				}
				if test.signal != "" {
					b.write("deaf", "stop-signal", test.signal)
				}
				s.Tell(order(Stop))
				limit := test.kill
				if limit == 0 {
					limit = time.Hour
				}
				time.Sleep(limit - time.Millisecond)
				b.expect("deaf", "stopping")
				want := []string{"deaf " + test.first, "deaf CONT"}
				if got := b.kernel.told(); !slices.Equal(got, want) {
					t.Fatalf("got signals %v, want %v", got, want)
				}
				if test.kill == 0 {
					s.Tell(order(Kill)) // the only way out
				}
				time.Sleep(2 * time.Millisecond)
				b.expect("deaf", "down")
				want = append(want, "deaf group KILL")
				if got := b.kernel.told(); !slices.Equal(got, want) {
					t.Errorf("got signals %v, want %v", got, want)
				}
			})
		})
	}
}

func TestWhatIsLeftInTheGroupEndsBeforeTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.left, b.kernel.stopTime, b.kernel.life = true, 2*time.Second, 5*time.Second
		b.run("forks")
		time.Sleep(6 * time.Second)
		b.expect("forks", "stopping")
		if pid := b.file("forks", "pid"); pid != "absent" {
			t.Errorf("got pid %s although the main process is gone", pid)
		}
		time.Sleep(time.Second + time.Millisecond)
		b.expect("forks", "up")
		if n := len(b.kernel.started()); n != 2 {
			t.Errorf("got %d starts, want 2", n)
		}
	})
}

// The end of the main process and that of the rest of its group may be there
// to be noticed at the same moment.
func TestAnEndAndItsDrainAtOnceAreBothSeen(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.kernel.left = true
			s := b.run("forks")
			s.Tell(order(Kill))
			b.expect("forks", "down")
		})
	}
}

// A client that knows only the lock file writes it and then signals the
// process; the end may be noticed before the lock.
func TestTheLockIsLookedAtBeforeARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run("web")
		b.write("web", "lock", "15\n")
		b.kernel.Signal(101, unix.SIGTERM)
		b.expect("web", "down")
		if n := len(b.kernel.started()); n != 1 {
			t.Errorf("got %d starts, want 1", n)
		}
	})
	synctest.Test(t, func(t *testing.T) { // negative control: without a lock it comes back
		b := newBench(t)
		b.run("web")
		time.Sleep(2 * time.Second)
		b.kernel.Signal(101, unix.SIGTERM)
		b.expect("web", "up")
	})
	synctest.Test(t, func(t *testing.T) { // and once is once, even if its order comes late
		b := newBench(t)
		s := b.run("web")
		b.write("web", "lock", "once\n")
		b.kernel.Signal(101, unix.SIGTERM)
		b.expect("web", "down")
		f, _ := b.dir.Folder("web")
		defer f.Close()
		late := order(Once)
		_, late.Lock, _ = f.ReadHold()
		s.Tell(late)
		b.expect("web", "down")
		b.write("web", "lock", "once \n") // written anew, it is a new order
		_, late.Lock, _ = f.ReadHold()
		s.Tell(late)
		b.expect("web", "up")
	})
}

func TestAHeldServiceStaysDownWhenTheActorBegins(t *testing.T) {
	for word, phase := range map[string]string{"TERM\n": "down", "9\n": "down", "whatever": "down", "": "down", "once\n": "up", "0\n": "up"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.write("web", "lock", word)
			b.run("web")
			b.expect("web", phase)
		})
	}
}

func TestOnceIsNotRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.life = 5 * time.Second
		s := b.run("job")
		s.Tell(order(Once)) // while it runs
		time.Sleep(10 * time.Second)
		b.expect("job", "down")
		s.Tell(order(Once)) // while it is down
		b.expect("job", "up")
		time.Sleep(time.Hour)
		b.expect("job", "down")
		if n := len(b.kernel.started()); n != 2 {
			t.Errorf("got %d starts, want 2", n)
		}
	})
}

// A request is taken before the start that it asks for, and answered after it:
// a daemon that is replaced in between leaves the answer to the next one.
func TestRequestIsAnsweredByTheDaemonThatEndsItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		first := NewService(b.config, "web", "")
		first.answer("a1")
		if first.remarks.unseen != "a1" {
			t.Errorf("got %q to be answered, want a1", first.remarks.unseen)
		}
		next := b.live(Resume(b.config, rundir.Record{
			Name: "web", Phase: rundir.Down, Wanted: "up", Since: 1, From: 1, Asked: "a1",
		}, ""))
		if status := b.expect("web", "up"); !status.Acted("a1") {
			t.Errorf("got requests %v, want a1 among them", status.Requests)
		}
		if next.remarks.unseen != "" {
			t.Errorf("it is still to be answered: %q", next.remarks.unseen)
		}
	})
}

func TestRequestIDsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.run("web")
		for i := range 40 {
			o := order(Start)
			o.ID = fmt.Sprint(i)
			s.Tell(o)
		}
		got := b.expect("web", "up").Requests
		if len(got) != rundir.KeptRequests || got[0] != "39" || got[31] != "8" {
			t.Errorf("got %d ids %v, want the last %d, the newest first", len(got), got, rundir.KeptRequests)
		}
		s.Tell(Order{Event: Event{Kind: Signal, Signal: unix.SIGHUP}, ID: "hup"})
		s.Tell(order(Stop))
		b.expect("web", "down")
		s.Tell(Order{Event: Event{Kind: Signal, Signal: unix.SIGHUP}, ID: "late"})
		status := b.expect("web", "down")
		if status.Refused != "late it is not running" || !status.Acted("late") || !status.Acted("hup") {
			t.Errorf("got refused %q, requests %v; want the signal to nobody refused", status.Refused, status.Requests)
		}
		if !slices.Contains(b.kernel.told(), "web HUP") {
			t.Errorf("got signals %v, want HUP among them", b.kernel.told())
		}
	})
}

func TestALostFolderIsPublishedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.run("web")
		if err := os.RemoveAll(filepath.Join(b.dir.Path(), "web")); err != nil {
			t.Fatal(err)
		}
		o := order(Start)
		o.Lost = true
		s.Tell(o)
		b.expect("web", "up")
		if pid, sys := b.file("web", "pid"), b.file("web", "syspid"); pid != "101" || sys != "101" {
			t.Errorf("got pid %s, syspid %s; want 101", pid, sys)
		}
		if n := len(b.kernel.started()); n != 1 {
			t.Errorf("got %d starts, want 1", n)
		}
	})
}

// A signal that is not sent is refused: to a service whose entry is gone, or that
// the daemon ends with itself, nothing is sent any more.
func TestASignalToWhatIsGoingAwayIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 3 * time.Second
		s := b.run("web")
		b.expect("web", "up")
		s.tell(Event{Kind: Removed})
		b.expect("web", "stopping")
		s.Tell(Order{Event: Event{Kind: Signal, Signal: unix.SIGHUP}, ID: "hup"})
		status := b.expect("web", "stopping")
		if status.Refused != "hup it is being stopped for good" {
			t.Errorf("got refused %q, want the signal refused", status.Refused)
		}
		if slices.Contains(b.kernel.told(), "web HUP") {
			t.Errorf("got signals %v, want no HUP", b.kernel.told())
		}
	})
}

// What is missing because there was no room for it nobody has removed: a hold that
// could be written nowhere stands.
func TestWhatCouldNotBePublishedIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.run("web")
		b.expect("web", "up")
		folder := filepath.Join(b.dir.Path(), "web")
		if err := errors.Join(os.RemoveAll(folder), os.WriteFile(folder, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		s.Tell(order(Stop))
		time.Sleep(time.Minute)
		s.Tell(Order{Event: Event{Kind: Released}, Lost: true}) // as control says of a status that is missing
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(b.kernel.started()); n != 1 {
			t.Errorf("got %d starts, want 1", n)
		}
		if err := os.Remove(folder); err != nil {
			t.Fatal(err)
		}
		s.post(publish{})
		b.expect("web", "down")
		if lock := b.file("web", "lock"); lock != "TERM" {
			t.Errorf("lock: got %q, want TERM", lock)
		}
		// Now it is known what is there: whoever removes it means it.
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
		s.Tell(Order{Event: Event{Kind: Released}, Lost: true})
		b.expect("web", "up")
	})
}

func TestAServiceMayWriteItsOwnPidFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.execTime = time.Second
		b.config.Processes = early{b.kernel, func() { b.write("getty", "pid", "4711\n") }}
		s := b.run("getty")
		time.Sleep(2 * time.Second)
		b.expect("getty", "up")
		if pid, sys := b.file("getty", "pid"), b.file("getty", "syspid"); pid != "4711" || sys != "101" {
			t.Errorf("got pid %s, syspid %s; want the service's own 4711, and 101", pid, sys)
		}
		s.Tell(order(Stop))
		b.expect("getty", "down")
		if pid := b.file("getty", "pid"); pid != "absent" {
			t.Errorf("got pid %s after the end", pid)
		}
	})
}

// early lets a script act before its actor knows that it runs.
type early struct {
	*kernel
	act func()
}

func (e early) Start(c reaper.Command) (reaper.Process, error) {
	p, err := e.kernel.Start(c)
	e.act()
	return p, err
}

func TestWhatAServiceWroteDoesNotHoldForItsNextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.run("web")
		for _, file := range []string{"ready", "stop-timeout", "stop-signal", "waiting", "needs"} {
			b.write("web", file, "15\n")
		}
		s.Tell(order(Restart))
		b.expect("web", "up")
		for _, file := range []string{"ready", "stop-timeout", "stop-signal", "waiting", "needs"} {
			if got := b.file("web", file); got != "absent" {
				t.Errorf("%s: got %q, want it cleared", file, got)
			}
		}
	})
}

func TestWhatPassesIsWaitedForAndWhatDoesNotIsBlocked(t *testing.T) {
	for _, test := range []struct {
		errno syscall.Errno
		phase string
		again time.Duration
	}{
		{unix.EAGAIN, "backoff", time.Second},
		{unix.ENOMEM, "backoff", time.Second},
		{unix.EMFILE, "backoff", time.Second},
		{unix.ENFILE, "backoff", time.Second},
		{unix.EIO, "backoff", time.Second},
		{unix.ETXTBSY, "backoff", 100 * time.Millisecond},
		{unix.EACCES, "blocked", 5 * time.Second},
		{unix.ENOENT, "blocked", 5 * time.Second},
		{unix.ENOEXEC, "blocked", 5 * time.Second},
		{unix.E2BIG, "blocked", 5 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.kernel.refuse = &reaper.StartError{Errno: test.errno, Reason: "no: " + test.errno.Error()}
			b.run("x")
			status := b.expect("x", test.phase)
			if status.Cause != "no: "+test.errno.Error() || status.Starts != 0 {
				t.Errorf("%v: got cause %q, %d starts", test.errno, status.Cause, status.Starts)
			}
			b.kernel.mu.Lock()
			b.kernel.refuse = nil
			b.kernel.mu.Unlock()
			time.Sleep(test.again)
			b.expect("x", "up")
		})
	}
}

// A blocked service is tried every five seconds; that is no news each time.
func TestABlockedServiceIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.refuse = &reaper.StartError{Errno: unix.EACCES, Reason: "no"}
		b.run("x")
		since := b.expect("x", "blocked").Since
		time.Sleep(time.Hour)
		if got := b.expect("x", "blocked").Since; got != since {
			t.Errorf("got blocked since %v, want %v", got, since)
		}
		told := 0
		for _, f := range b.facts {
			if _, ok := f.(Changed); ok {
				told++
			}
		}
		if told != 1 {
			t.Errorf("told of %d changes, want 1", told)
		}
	})
}

// entries makes a snapshot of runnable entries; a name may be followed by a
// colon and the file it is.
func entries(names ...string) []Entry {
	var out []Entry
	for _, n := range names {
		name, file, ok := strings.Cut(n, ":")
		if !ok {
			file = name
		}
		id := maphash.String(seed, file)
		out = append(out, Entry{Name: name, Stamp: id, File: File{Ino: id}})
	}
	return out
}

// supervise runs a supervisor; stop shuts it down and waits for its end.
func (b *bench) supervise() (v *Supervisor, stop func()) {
	v = NewSupervisor(b.config)
	done := make(chan struct{})
	go func() {
		v.Run()
		close(done)
	}()
	return v, func() {
		v.Shutdown()
		<-done
	}
}

func TestARenamedServiceNeverRunsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 3 * time.Second
		v, stop := b.supervise()
		v.Found(entries("a:file"))
		b.expect("a", "up")
		gone := entries("a:file", "b:file")
		gone[0].Gone = true
		v.Found(gone)
		if s := b.expect("b", "blocked"); s.Cause != "renamed from a, which has not stopped yet" {
			t.Errorf("got cause %q", s.Cause)
		}
		time.Sleep(time.Second)
		v.Found(entries("b:file"))
		b.expect("a", "stopping")
		b.expect("b", "blocked")
		time.Sleep(3 * time.Second)
		b.expect("b", "up")
		if _, err := b.dir.Folder("a"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder of a: got %v, want it gone", err)
		}
		stop()
	})
}

// Early word of an entry starts its service at once. The snapshot that follows
// changes nothing, and one that does not have it any more ends it.
func TestEarlyWordStartsAServiceOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		v, stop := b.supervise()
		v.Found(entries("a", "z"))
		v.Early(entries("m")[0])
		pid := b.expect("m", "up").Pid
		v.Early(entries("m")[0])
		v.Found(entries("a", "m", "z"))
		if now := b.expect("m", "up").Pid; now != pid {
			t.Errorf("got process %d, want %d still", now, pid)
		}
		v.Early(entries("n")[0])
		b.expect("n", "up")
		v.Found(entries("m", "z"))
		time.Sleep(time.Second)
		if got := b.file("n", "status"); got != "absent" {
			t.Errorf("n has gone, got status %q", got)
		}
		stop()
	})
}

// Between the early word and the snapshot other services end for good, which
// makes the supervisor go through all entries.
func TestEarlyWordCountsUntilTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 3 * time.Second
		v, stop := b.supervise()
		v.Found(entries("a"))
		b.expect("a", "up")
		v.Found(nil)
		time.Sleep(time.Second)
		v.Found(entries("a")) // again, while it stops: looked at once it has
		v.Early(entries("m")[0])
		pid := b.expect("m", "up").Pid
		time.Sleep(3 * time.Second)
		b.expect("a", "up")
		if now := b.expect("m", "up").Pid; now != pid {
			t.Errorf("got process %d, want %d still", now, pid)
		}
		stop()
	})
}

// What may be a service under another name, or one that is known, is not
// started upon early word: whether it may be is for the snapshot to say.
func TestEarlyWordOfWhatMayBeKnownStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 3 * time.Second
		v, stop := b.supervise()
		v.Early(entries("first")[0]) // nobody knows yet what the last daemon has left
		synctest.Wait()
		v.Found(entries("a:file"))
		b.expect("a", "up")
		v.Early(entries("b:file")[0]) // a, renamed, of which nobody has told
		gone := entries("a:file")
		gone[0].Gone = true
		v.Found(gone)
		v.Early(entries("b:file")[0]) // nor now, when it is missed
		v.Early(entries("a:2")[0])    // and a is not done with
		v.Found(nil)
		time.Sleep(time.Second)
		b.expect("a", "stopping")
		v.Early(entries("b:file")[0])
		v.Early(entries("a:2")[0])
		synctest.Wait()
		if got := len(b.kernel.started()); got != 1 {
			t.Errorf("got %d starts, want that of a alone", got)
		}
		v.Found(entries("b:file"))
		b.expect("b", "blocked")
		time.Sleep(3 * time.Second)
		b.expect("b", "up")
		v.Shutdown()
		v.Early(entries("late")[0])
		stop()
		if got := len(b.kernel.started()); got != 2 {
			t.Errorf("got %d starts, want those of a and b", got)
		}
	})
}

func TestAStopSurvivesThatTheEntryIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		v, stop := b.supervise()
		v.Found(entries("a", "b"))
		b.expect("a", "up")
		b.write("a", "lock", "TERM\n") // as control does
		v.Deliver("a", order(Stop))
		b.expect("a", "down")
		v.Found(entries("b"))
		synctest.Wait()
		if got := b.file("a", "status"); got != "absent" {
			t.Errorf("the removed service still has a status: %s", got)
		}
		v.Found(entries("a", "b"))
		b.expect("a", "down")
		b.expect("b", "up")
		stop()
	})
}

// The entry comes back while its service is still being stopped.
func TestAServiceThatComesBackWhileItStopsRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 3 * time.Second
		v, stop := b.supervise()
		v.Found(entries("a"))
		synctest.Wait()
		v.Found(nil)
		time.Sleep(time.Second)
		b.expect("a", "stopping")
		v.Found(entries("a"))
		time.Sleep(3 * time.Second)
		b.expect("a", "up")
		stop()
	})
}

func TestAChangedFileIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.life = 1
		v, stop := b.supervise()
		v.Found(entries("a:1"))
		time.Sleep(20 * time.Second)
		b.expect("a", "backoff")
		if got := v.Restless(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("restless: got %v, want a", got)
		}
		b.kernel.mu.Lock()
		b.kernel.life = 0
		b.kernel.mu.Unlock()
		v.Found(entries("a:2"))
		status := b.expect("a", "up")
		if got := v.Restless(); len(got) != 0 {
			t.Errorf("restless: got %v, want none", got)
		}
		v.Found(entries("a:3")) // while it runs, a new file changes nothing
		if now := b.expect("a", "up"); now.Pid != status.Pid {
			t.Errorf("got pid %d, want %d", now.Pid, status.Pid)
		}
		stop()
	})
}

func TestAShutdownStopsAllAtOnceAndNamesWhatHoldsItUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = 3 * time.Second
		v, stop := b.supervise()
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprintf("s%02d", i))
		}
		v.Found(entries(names...))
		synctest.Wait()
		begin := time.Now()
		v.Shutdown()
		time.Sleep(time.Second)
		v.Shutdown()                   // a second one changes nothing
		v.Found(entries("late"))       // nor does a rescan
		v.Deliver("s00", order(Start)) // nor an order
		stop()
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("took %v, want 3s: the moment the last one is gone", took)
		}
		var held []string
		for _, f := range b.facts {
			if h, ok := f.(HeldUp); ok {
				held = append(held, h.Services...)
			}
		}
		if !slices.Equal(held, names) {
			t.Errorf("named %d services after 2s, want all %d", len(held), len(names))
		}
		if n := len(b.kernel.started()); n != 100 {
			t.Errorf("got %d starts, want 100", n)
		}
	})
}

func TestTheEssentialServiceEndsTheDaemonOnlyByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var ended []syscall.WaitStatus
		b.config.Essential = "main"
		b.config.Ended = func(s syscall.WaitStatus) { ended = append(ended, s) }
		v, stop := b.supervise()
		v.Found(entries("main"))
		b.expect("main", "up")
		v.Deliver("main", order(Restart))
		b.expect("main", "up")
		if len(ended) != 0 {
			t.Fatal("a restart ended the daemon")
		}
		b.kernel.mu.Lock()
		p := b.kernel.running[102]
		b.kernel.mu.Unlock()
		b.kernel.end(p, 7<<8)
		b.expect("main", "down")
		if len(ended) != 1 || ended[0].ExitStatus() != 7 {
			t.Errorf("got %v, want one end with 7", ended)
		}
		stop()
	})
}

// A pause hears the exits that there are. What was put into the mailbox
// meanwhile is read after it.
func TestAPauseLeavesTheMailboxAsItIs(t *testing.T) {
	s := NewService(&Config{}, "web", "")
	s.post(publish{})
	s.hearAll()
	if got := len(s.news); got != 1 {
		t.Errorf("waiting for the actor: got %d, want the ring of the mailbox", got)
	}
	s.post(publish{}) // which rings no second time
	if got := len(s.news); got != 1 {
		t.Errorf("with two messages: got %d rings, want 1", got)
	}
}

// The next program reaps nothing that this one has reaped: an exit that an actor
// has been told of before a pause is written down before it rests.
func TestAnExitBeforeAPauseIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.life, b.kernel.status = time.Hour, 0
		s := NewService(b.config, "web", "")
		s.handle(Event{Kind: Start}, true) // nobody waits for its news
		time.Sleep(2 * time.Hour)
		resting, gate := make(chan struct{}, 1), make(chan struct{})
		close(gate)
		s.take(pause{resting, gate})
		if starts := len(b.kernel.starts); s.state.LastExit.String() != "exit 0" || starts != 2 {
			t.Errorf("at rest: got last exit %q after %d starts, want exit 0 and 2", s.state.LastExit, starts)
		}
		s.handle(Event{Kind: Shutdown}, true)
		time.Sleep(3 * time.Hour)
	})
}

// The reaper holds its lock while it tells of an exit: it must not wait for an
// actor that is busy, whatever else that one has not heard yet.
func TestWhoeverHasNewsNeverWaits(t *testing.T) {
	s := NewService(&Config{}, "web", "")
	for _, news := range []reaper.Exit{rung, {}, {Drained: true}} {
		select {
		case s.news <- news:
		default:
			t.Fatalf("no room for %+v beside %d others", news, len(s.news))
		}
	}
}

// Control says of each service that comes that it has no lock. Whoever knows of
// none is not woken for that; whoever does, or is about to look, is.
func TestThatThereIsNoLockIsNewsOnlyToWhoeverKnowsOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.run("web")
		b.expect("web", "up")
		released := Order{Event: Event{Kind: Released}}
		s.Tell(released)
		if n := len(s.mail.take()); n != 0 {
			t.Errorf("kept alive, no lock: got %d messages, want none", n)
		}

		// The folder went with all that was in it: that is news.
		os.RemoveAll(filepath.Join(b.dir.Path(), "web"))
		s.Tell(Order{Event: Event{Kind: Released}, Lost: true})
		b.expect("web", "up")

		// A lock that only the actor has seen, at the end of a process.
		b.write("web", "lock", "TERM\n")
		b.kernel.crash("web")
		b.expect("web", "down")
		if err := os.Remove(filepath.Join(b.dir.Path(), "web", "lock")); err != nil {
			t.Fatal(err)
		}
		s.Tell(released)
		b.expect("web", "up")

		b.kernel.execTime = tooLate + time.Second
		time.Sleep(time.Minute) // or it would be in back-off, and at rest
		b.kernel.crash("web")
		time.Sleep(time.Second / 2)
		synctest.Wait()
		if s.free.Load() != 0 {
			t.Error("it has looked for a lock and starts again: got free, want not")
		}
	})
}
