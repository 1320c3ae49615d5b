//go:build linux

package torture

import (
	"fmt"
	"testing"
	"time"

	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// Ten thousand starts and stops leave nothing behind in the daemon. Half of
// the services are those of a daemon that was killed. What is inside, the
// goroutines, package load counts.
func TestTenThousandCyclesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	const services = 50
	rounds := choose(6, 20, 200)
	try(t, "start and stop, again and again", fmt.Sprintf("%d cycles", services*rounds), func(t *testing.T) {
		w := newWorld(t, rig.Plain)
		sleeper := w.Sleeper()
		var names []string
		for i := range services {
			name := fmt.Sprintf("cycle%02d", i)
			names = append(names, name)
			w.Link(name, sleeper)
		}
		w.begin()
		up := func(v control.View) bool { return v.Phase == rundir.Up }
		down := func(v control.View) bool { return v.Phase == rundir.Down }
		w.Await("a start", up, names...)
		w.crash()
		w.begin()
		w.watch()
		w.Await("being taken over", up, names...)
		client := w.Connect()
		defer client.Close()
		cycle := func() {
			for _, step := range []struct {
				verb control.Verb
				goal func(control.View) bool
			}{{control.Stop, down}, {control.Start, up}} {
				targets := make([]*control.Target, len(names))
				for i, name := range names {
					targets[i] = &control.Target{
						Name:    name,
						Request: &control.Request{Verb: step.verb, ID: control.NewID()},
						Goal:    func(v control.View) (bool, time.Duration, error) { return step.goal(v), 0, nil },
					}
				}
				client.Pursue(targets, w.Patience)
				for _, target := range targets {
					if target.Err != nil {
						t.Fatalf("%s %s: %v", step.verb, target.Name, target.Err)
					}
				}
			}
		}
		for range 3 {
			cycle() // what is made at first need is there
		}
		before := w.settled()
		for range rounds / 2 {
			cycle()
		}
		half := w.settled()
		for range rounds - rounds/2 {
			cycle()
		}
		after := w.settled()
		// What is garbage is given back when the daemon has nothing to do for a
		// while; what is not stays for ever.
		for deadline := time.Now().Add(rig.Patience); after.PSS-before.PSS > 4096 && time.Now().Before(deadline); {
			after = w.settled()
		}
		t.Logf("before: %+v; after %d cycles: %+v", before, services*rounds, after)
		// A leak goes on. The runtime makes a thread when one is busy, which on a
		// busy machine may be some at once; and of memory, what is shared with
		// the daemons of other tests counts more when they have ended.
		before.Threads = max(before.Threads, half.Threads)
		before.PSS = max(before.PSS, half.PSS)
		w.leaks(before, after)
		w.finish()
	})
}

// leaks holds what the daemon has now against what it had.
func (w *world) leaks(before, after rig.Usage) {
	w.t.Helper()
	if after.Descriptors > before.Descriptors {
		broken(w.t, 13, "got %d descriptors, want %d", after.Descriptors, before.Descriptors)
	}
	// The runtime makes a thread now and then, when one is busy; one for
	// each thousand cycles would be a leak.
	if after.Threads > before.Threads+4 {
		broken(w.t, 13, "got %d threads, want %d", after.Threads, before.Threads)
	}
	if grown := after.PSS - before.PSS; grown > 4096 {
		broken(w.t, 13, "it grew by %d kB", grown)
	}
}

// settled is what the daemon has when nothing changes any more.
func (w *world) settled() rig.Usage {
	w.t.Helper()
	last := w.Usage()
	for steady, deadline := 0, time.Now().Add(rig.Patience); steady < 10 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		now := w.Usage()
		if now.Descriptors != last.Descriptors || now.Threads != last.Threads {
			steady = 0
		}
		steady++
		last = now
	}
	return last
}
