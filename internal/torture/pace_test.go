//go:build linux

package torture

import (
	"os/exec"
	"sync"
	"testing"
	"time"
)

// pace is how fast the machine is just now: a program that does nothing is
// started and waited for again and again, beside all worlds. What takes long
// for the daemon is held against what that took at the same time; for a daemon
// under the tracer, which every system call of its own keeps waiting for
// another process, against the same program under the tracer.
var pace, tracedPace pacer

// often enough to meet each pause that matters, and next to no load.
const paceEvery = 200 * time.Millisecond

// patience is how many starts of a program that does nothing an answer may
// take longer than the law says: svctl, a restart and an exec of the daemon
// are some starts each, and of larger programs.
const patience = 10

type pacer struct {
	once  sync.Once
	mu    sync.Mutex
	laps  []lap
	under time.Time // when the one began that is under way; zero: none is
}

// lap is one start, up to its end being known; or a pause between two that was
// longer than it should be, by that much.
type lap struct {
	end  time.Time
	took time.Duration
}

// set begins the laps, which then go on until the tests end.
func (p *pacer) set(words ...string) {
	p.once.Do(func() {
		go func() {
			for {
				p.begin(time.Now())
				exec.Command(words[0], words[1:]...).Run()
				p.done(time.Now())
				p.begin(time.Now().Add(paceEvery))
				time.Sleep(paceEvery)
				p.done(time.Now())
			}
		}()
	})
}

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
