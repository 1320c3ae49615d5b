//go:build linux

package torture

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// A kind of crash points: how the tracer counts, and how far it got when
// nothing was in its way.
type crashKind struct {
	fault   string
	options []string
	play    func(*traced) // what the daemon is killed in
	adopt   bool          // the daemon that is killed has a predecessor that was killed too

	meanwhile func(*world) // what is done while there is no daemon
}

var crashKinds = []crashKind{
	{fault: "killed before a system call", play: live},
	{fault: "killed after a system call", options: []string{"-after"}, play: live},
	{fault: "killed beside an unborn service", options: []string{"-child"}, play: live},
	{fault: "killed beside a service whose execve hangs", options: []string{"-child", "-hold"}, play: live},
	{fault: "killed while it takes over", play: takeOver, adopt: true},
	{fault: "killed beside an unborn service while it takes over", options: []string{"-child"}, play: takeOver, adopt: true},
	{fault: "killed while it shuts down", play: shutDown},
	{fault: "killed beside an unborn service that is held then", options: []string{"-child"}, play: live, meanwhile: holdAll},
	{fault: "killed beside an unborn service that dies then", options: []string{"-child"}, play: live, meanwhile: behead},
	{fault: "killed, and locks change while there is no daemon", play: live, meanwhile: holdAll},
	{fault: "killed, and services die while there is no daemon", play: live, meanwhile: behead},
	{fault: "killed while it replaces itself", play: replaced},
	{fault: "killed beside an unborn service while it replaces itself", options: []string{"-child"}, play: replaced},
}

// live is a daemon's life, from its start.
func live(c *traced) { (&scenario{world: c.world}).replay() }

// takeOver is what a successor does, who gets orders at once.
func takeOver(c *traced) {
	for !c.claimed() {
		if !c.lives() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	var each sync.WaitGroup
	for name, verbs := range map[string][]string{
		"calm": {"restart"}, "brood": {"stop", "start"}, "twice": {"restart", "kill"}, "slow": {"restart"}, "deaf": {"start"}, "once": {"once"},
	} {
		each.Go(func() {
			for _, verb := range verbs {
				if !c.lives() || !c.order(c.known(name), verb) {
					return
				}
			}
		})
	}
	each.Go(func() {
		prey := c.known("prey")
		prey.mu.Lock()
		prey.touched = true
		prey.mu.Unlock()
		c.Kill(c.leaderOf("prey"))
		c.await(prey, "start")
	})
	each.Wait()
	if c.lives() {
		c.awaitRest()
	}
}

// replaced is a life in which the daemon executes itself anew, twice, while
// orders come in.
func replaced(c *traced) {
	var done sync.WaitGroup
	done.Go(func() { live(c) })
	for range 2 {
		time.Sleep(150 * time.Millisecond)
		unix.Kill(c.pid, unix.SIGUSR2)
	}
	done.Wait()
}

// holdAll holds every service down, with plain tools.
func holdAll(w *world) {
	time.Sleep(20 * time.Millisecond) // what was about to execute has
	for _, s := range w.all() {
		if s.want == "gone" || s.want == "blocked" {
			continue
		}
		folder := filepath.Join(w.Rundir, s.name)
		os.Mkdir(folder, 0o755)
		// A request that waits to be taken would come after the lock.
		os.Remove(filepath.Join(folder, rundir.Control))
		os.Remove(filepath.Join(folder, rundir.Taken))
		w.must(os.WriteFile(filepath.Join(folder, rundir.Lock), []byte("TERM\n"), 0o644))
		w.wants(s, "stop")
	}
}

// behead kills main processes of services that have a child.
func behead(w *world) {
	begin := time.Now()
	for _, s := range w.all() {
		if s.name != "brood" && s.name != "killer" {
			continue
		}
		s.mu.Lock()
		s.touched = true
		s.mu.Unlock()
		// As soon as it has one; if it was about to be made.
		for len(w.Journalled("child", s.name)) < len(w.Journalled("start", s.name)) && time.Since(begin) < time.Second {
			time.Sleep(time.Millisecond)
		}
		if leader := w.leaderOf(s.name); leader != 0 {
			w.Kill(leader)
		}
	}
}

// shutDown is a short life and its end.
func shutDown(c *traced) {
	c.awaitRest()
	c.meddle(true)
	unix.Kill(c.pid, unix.SIGTERM)
	<-c.Ended()
}

// awaitRest waits until every service is as it is wanted, or the daemon dead.
func (w *world) awaitRest() {
	w.t.Helper()
	for begin := time.Now(); w.lives() && len(w.problems()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > w.rest {
			w.suspectAll(w.problems())
			w.t.Errorf("not at rest: %s", strings.Join(w.problems(), "; "))
			return
		}
	}
}

// replay is play for a world that has been prepared before.
func (c *scenario) replay() {
	for _, s := range c.all() {
		switch s.name {
		case "calm":
			c.calm = s
		case "brood":
			c.brood = s
		case "twice":
			c.twice = s
		case "stopper":
			c.stopper = s
		case "killer":
			c.killer = s
		case "deaf":
			c.deaf = s
		case "slow":
			c.slow = s
		case "brief":
			c.brief = s
		case "once":
			c.once = s
		case "prey":
			c.prey = s
		case "old":
			c.old = s
		case "leaving":
			c.leaving = s
		case "plain":
			c.plain = s
		}
	}
	c.play()
}

// crashAt lets the daemon die at the Nth point of a kind, starts another and
// holds the laws against what it makes of it. It returns how many points the
// tracer counted and whether the daemon died of it.
func crashAt(t *testing.T, k crashKind, n int) (points int, hit bool) {
	w := newWorld(t, rig.Plain)
	c := w.prepare()
	w.watch()
	if k.adopt {
		// Its predecessor died somewhere on its way.
		first := w.beginTraced("-armed", "-kill", strconv.Itoa(100+int(rand.New(rand.NewPCG(seed, uint64(n))).IntN(1000))))
		c.play()
		unix.Kill(first.pid, unix.SIGKILL)
		<-w.Ended()
		t.Logf("its predecessor was killed %s", first.says("killed"))
		w.died()
	}
	options := slices.Concat(k.options, []string{"-kill", strconv.Itoa(n)})
	shuts := k.fault == "killed while it shuts down"
	if !shuts {
		options = append(options, "-armed")
	}
	traced := w.beginTraced(options...)
	// A child that is held keeps the tracer, and so the daemon seems to live.
	var dead atomic.Bool
	go func() {
		for !dead.Load() && traced.says("ended") == "" {
			time.Sleep(5 * time.Millisecond)
		}
		dead.Store(true)
	}()
	if tracer := w.Daemon; slices.Contains(k.options, "-hold") {
		go func() {
			for traced.says("held") == "" && !dead.Load() {
				time.Sleep(2 * time.Millisecond)
			}
			// Its successor has a second in which the child is not there yet.
			time.Sleep(time.Second)
			tracer.Signal(unix.SIGUSR1)
		}()
	}
	k.play(traced)
	point := traced.says("killed")
	hit = point != ""
	if !hit && !shuts {
		// Past the last point, or a point that did not come this time.
		w.daemon.Store(0)
		unix.Kill(traced.pid, unix.SIGKILL)
	}
	<-w.Ended()
	dead.Store(true)
	point = traced.says("killed")
	hit = point != ""
	fmt.Sscanf(traced.says("counted"), "%d", &points)
	if !hit && shuts {
		if left := w.Processes(""); len(left) > 0 {
			broken(t, 2, "after an orderly end processes %v are left", left)
		}
		return points, false
	}
	t.Logf("point %d: killed %s", n, point)
	w.died()
	if shuts {
		// What it had already stopped or forgotten may be either way.
		for _, s := range w.all() {
			s.mu.Lock()
			s.maybe, s.held = append(s.maybe, "start", "stop"), 0
			if s.name == "once" {
				s.maybe = append(s.maybe, "once")
			}
			s.mu.Unlock()
		}
	}
	if k.meanwhile != nil {
		k.meanwhile(w)
	}
	w.begin("-v")
	w.adopted(w.Begun())
	w.converge(4)
	w.checkAfterCrash()
	if !t.Failed() {
		w.secondAct()
	}
	return points, hit
}

// adopted holds against a daemon when it was there, of which law 9 says how
// soon that is to be.
func (w *world) adopted(begun time.Time) {
	w.t.Helper()
	if took := time.Since(begun); took > adoption && took > adoption+w.lag(begun) {
		broken(w.t, 9, "the next daemon was there after %s", took)
	}
}

// The daemon is killed at each of its system calls that change anything: all
// of them in the long form, some that are drawn in the others. Without torture
// nobody counts how many there are; a point that is never reached is none.
func TestDaemonCanBeKilledAtAnySystemCall(t *testing.T) {
	t.Parallel()
	if amount == "" {
		for i, k := range some(crashKinds, 3) {
			points := 500
			if slices.Contains(k.options, "-child") {
				points = 60 // three for each start
			}
			n := 1 + rand.New(rand.NewPCG(seed, uint64(i))).IntN(points)
			try(t, k.fault, fmt.Sprintf("SEED=%d %s at %d", seed, k.fault, n), func(t *testing.T) {
				t.Parallel()
				crashAt(t, k, n)
			})
		}
		return
	}
	for i, k := range crashKinds {
		t.Run(strings.ReplaceAll(k.fault, " ", "-"), func(t *testing.T) {
			t.Parallel()
			var points int
			try(t, k.fault, "never", func(t *testing.T) { points, _ = crashAt(t, k, 0) })
			draw := rand.New(rand.NewPCG(seed, uint64(i)))
			order := draw.Perm(points)
			if few := int(number("TORTURE_FEW", uint64(choose(0, 3, points)))); few < points {
				order = order[:few]
			}
			if only := os.Getenv("TORTURE_POINT"); only != "" {
				n, _ := strconv.Atoi(only)
				order = []int{n - 1}
			}
			t.Logf("%d points, of which %d are tried", points, len(order))
			t.Run("at", func(t *testing.T) {
				for _, n := range order {
					try(t, k.fault, strconv.Itoa(n+1), func(t *testing.T) {
						t.Parallel()
						crashAt(t, k, n+1)
					})
				}
			})
		})
	}
}
