//go:build linux

package torture

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// pace is how fast the machine is just now: svctl is started and waits for
// something in vain, again and again, in a run directory that has nothing to do
// with any of the worlds and no daemon that could be slow. What takes long for a
// daemon is held against what that took at the same time; for a daemon under the
// tracer, which every system call of its own keeps waiting for another process,
// against a program that does nothing under the tracer.
var pace, tracedPace pacer

// often enough to meet each pause that matters, and next to no load.
const paceEvery = 200 * time.Millisecond

// patience is how many laps an answer may take longer than the law says: a
// restart and an exec of the daemon are some starts of programs each, and of
// larger ones.
const patience = 10

type pacer struct {
	once  sync.Once
	mu    sync.Mutex
	laps  []lap
	under time.Time // when the one began that is under way; zero: none is
}

// idleWait is how long that svctl waits, which is no part of a lap.
const idleWait = 50 * time.Millisecond

// lap is one start, up to its end being known; or a pause between two that was
// longer than it should be, by that much.
type lap struct {
	end  time.Time
	took time.Duration
}

// set begins the laps, which then go on until the tests end.
func (p *pacer) set(own time.Duration, prepare func() *exec.Cmd) {
	p.once.Do(func() {
		first := prepare()
		go func() {
			for {
				p.begin(time.Now().Add(own))
				cmd := *first
				cmd.Run()
				p.done(time.Now())
				p.begin(time.Now().Add(paceEvery))
				time.Sleep(paceEvery)
				p.done(time.Now())
			}
		}()
	})
}

// waiter makes a run directory that looks as if a daemon had it, which is us,
// and an svctl that waits there for what does not come.
func waiter(t testing.TB) *exec.Cmd {
	dir, err := os.MkdirTemp("", "torture-pace-")
	if err != nil {
		t.Fatal(err)
	}
	afterwards = append(afterwards, func() { os.RemoveAll(dir) })
	run := filepath.Join(dir, "run")
	err = errors.Join(os.MkdirAll(filepath.Join(run, "web"), 0o755),
		os.WriteFile(filepath.Join(run, "web", rundir.State), []byte("phase down\nwanted down\nclock 1\n"), 0o644),
		os.WriteFile(filepath.Join(run, rundir.Pid), rundir.PidLine(os.Getpid()), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(filepath.Join(run, rundir.Pid))
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX) // for the rest of our life
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(rig.Program(t, rig.Plain, "svctl"), "-q", "-w", fmt.Sprint(idleWait.Seconds()), "wait", "up", "web")
	cmd.Env = append(os.Environ(), "SYSDIR="+dir, "RUNDIR="+run)
	check := *cmd
	if check.Run(); check.ProcessState.ExitCode() != 3 {
		t.Fatalf("svctl that waits in vain: %v, want exit status 3", check.ProcessState)
	}
	afterwards = append(afterwards, func() { lock.Close() })
	return cmd
}

// afterwards is what is done when all tests are over.
var afterwards []func()

func (p *pacer) begin(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.under = now
}

func (p *pacer) done(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.laps = append(p.laps, lap{now, now.Sub(p.under)})
	p.under = time.Time{}
}

// longest is the longest lap of which a part was after a moment.
func (p *pacer) longest(since, now time.Time) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.under.IsZero() {
		longest = now.Sub(p.under)
	}
	for i := len(p.laps) - 1; i >= 0 && p.laps[i].end.After(since); i-- {
		longest = max(longest, p.laps[i].took)
	}
	return longest
}

// lag is how much longer than the law says something may take that has been
// under way since a moment. The laps around it count: the load is the same.
func (w *world) lag(since time.Time) time.Duration {
	return patience * w.pace.Load().longest(since.Add(-2*paceEvery), time.Now())
}

// A lap counts for what it overlaps, and for nothing else.
func TestPaceIsThatOfTheMoment(t *testing.T) {
	var p pacer
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	for _, l := range [][2]int{{0, 300}, {400, 410}, {500, 520}} {
		p.begin(at(l[0]))
		p.done(at(l[1]))
	}
	for _, c := range []struct{ since, now, want int }{{100, 600, 300}, {350, 600, 20}, {530, 600, 0}} {
		if got, want := p.longest(at(c.since), at(c.now)), time.Duration(c.want)*time.Millisecond; got != want {
			t.Errorf("since %d ms: got %s, want %s", c.since, got, want)
		}
	}
	p.begin(at(600))
	if got, want := p.longest(at(530), at(1600)), time.Second; got != want {
		t.Errorf("under way: got %s, want %s", got, want)
	}
}
