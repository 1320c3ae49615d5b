package actor

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// slow starts nothing until it may, and then all at once.
type slow struct {
	may chan struct{}

	mu     sync.Mutex // guards exited, between actors
	exited map[int]chan reaper.Exit
}

func (p *slow) Start(c reaper.Command) (reaper.Process, error) {
	<-p.may
	p.mu.Lock()
	defer p.mu.Unlock()
	pid := 1<<30 + len(p.exited)
	p.exited[pid] = c.Exited
	return reaper.Process{Pid: pid, Exited: p.exited[pid]}, nil
}

func (p *slow) Signal(pid int, sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sig == unix.SIGTERM {
		p.exited[pid] <- reaper.Exit{Status: syscall.WaitStatus(unix.SIGTERM), Alone: true}
	}
	return nil
}

func (p *slow) SignalGroup(int, unix.Signal) error { return nil }
func (p *slow) Probe(int, bool)                    {}

func (p *slow) Adopt(reaper.Adoption) reaper.Process                       { panic("nothing to adopt") }
func (p *slow) Find(string, time.Duration) (a reaper.Adoption, found bool) { return a, false }

// A guard is a descriptor. With one for each service that waits for its turn
// to be forked, a daemon that may have 1024 of them cannot start more
// services than that at once, and every fork copies them all.
func TestServicesThatWaitToBeStartedHoldNoDescriptors(t *testing.T) {
	const count, most = 200, 64
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := descriptors()
	synctest.Test(t, func(t *testing.T) {
		processes := &slow{may: make(chan struct{}), exited: make(map[int]chan reaper.Exit)}
		up := make(chan struct{}, count)
		config := &Config{
			Sysdir: "/services", Rundir: dir, Processes: processes,
			Manner: rundir.Manner{Signal: unix.SIGTERM, Grace: 10 * time.Second},
			Debug:  func() bool { return false },
			Report: func(f Fact) {
				if c, ok := f.(Changed); ok && c.New.Phase == Up {
					up <- struct{}{}
				}
			},
		}
		var services []*Service
		var ended sync.WaitGroup
		for i := range count {
			s := NewService(config, fmt.Sprintf("s%03d", i), "")
			services = append(services, s)
			ended.Go(func() { s.Run(WantUp) })
		}
		synctest.Wait()
		if got := descriptors() - before; got > most {
			t.Errorf("descriptors while %d services wait to be started: got %d, want at most %d", count, got, most)
		}
		close(processes.may)
		for range count {
			<-up
		}
		synctest.Wait() // each has published that, too
		if got := descriptors() - before; got > 0 {
			t.Errorf("descriptors when all are up: got %d, want none", got)
		}
		for _, s := range services {
			s.Shutdown()
		}
		ended.Wait()
	})
}

// A service whose folder cannot be opened when it comes, for want of something
// that passes, may be held: it waits until control can tell.
func TestAServiceWaitsUntilItsFolderCanBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.write("web", "lock", "TERM\n")
		var old unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		none := unix.Rlimit{Cur: 3, Max: old.Max}
		unix.Setrlimit(unix.RLIMIT_NOFILE, &none)
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		s := b.run("web")
		synctest.Wait()
		if n := len(b.kernel.started()); n != 0 {
			t.Errorf("its folder cannot be opened: got %d starts, want 0", n)
		}
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		s.Tell(order(Stop)) // as control says of that lock
		b.expect("web", "down")
		b.write("other", "leftover", "")
		unix.Setrlimit(unix.RLIMIT_NOFILE, &none)
		s = b.run("other")
		synctest.Wait()
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		s.post(publish{lost: true}) // which writes the locks of those that are held
		synctest.Wait()
		if _, err := os.Lstat(filepath.Join(b.dir.Path(), "other", "lock")); err == nil {
			t.Error("got a lock that nobody has asked for")
		}
		s.Tell(order(Released)) // and as it says if there is none
		b.expect("other", "up")
	})
}
