//go:build linux

package torture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// begin starts a daemon and returns when it has claimed its run directory.
func (w *world) begin(args ...string) {
	w.t.Helper()
	defer func() {
		if w.t.Failed() && !w.lives() {
			w.tellHolders()
		}
	}()
	w.Start(args...)
	w.Until("its number", w.begun, w.Rundir)
	w.daemon.Store(int64(w.Daemon.Pid))
}

// tellHolders prints who has files of the daemon's own open: a successor may
// be waiting for him.
func (w *world) tellHolders() {
	for _, pid := range w.Processes("") {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, link := range links {
			path, _ := os.Readlink(link)
			if strings.HasPrefix(path, filepath.Join(w.Rundir, rundir.Private)) || path == filepath.Join(w.Rundir, rundir.Pid) {
				command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				p, _ := readProcess(pid)
				w.t.Logf("process %d (%c, %q) has %s", pid, p.state, command, path)
			}
		}
	}
}

// traced is a daemon that runs under the tracer.
type traced struct {
	*world
	report string
	pid    int
}

// beginTraced starts a daemon under the tracer, and waits for nothing but its
// number.
func (w *world) beginTraced(options ...string) *traced {
	w.t.Helper()
	c := &traced{world: w, report: filepath.Join(w.top, "report")}
	os.Remove(c.report)
	tracer := rig.Program(w.t, rig.Plain, "tracer")
	w.pace.Store(&tracedPace)
	tracedPace.set(0, func() *exec.Cmd { return exec.Command(tracer, rig.Program(w.t, rig.Plain, "svctl"), "-V") })
	w.LaunchUnder(slices.Concat([]string{tracer, "-report", c.report, "-under", w.Rundir + "," + w.Sysdir}, options), nil, "-v")
	for deadline := time.Now().Add(rig.Patience); ; time.Sleep(time.Millisecond) {
		if word := c.says("pid"); word != "" {
			c.pid, _ = strconv.Atoi(word)
			break
		}
		if time.Now().After(deadline) {
			w.t.Fatal("the tracer says nothing")
		}
	}
	w.daemon.Store(int64(c.pid))
	return c
}

// says is what the tracer's report has behind a word, the first time.
func (c *traced) says(word string) string {
	text, _ := os.ReadFile(c.report)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, word+" "); ok && strings.HasSuffix(rest, "\n") {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// meddle tells the tracer to begin or to end.
func (c *traced) meddle(on bool) {
	c.t.Helper()
	sig, word := unix.SIGUSR1, "lifted"
	if on {
		sig, word = unix.SIGUSR2, "armed"
	}
	c.Daemon.Signal(sig)
	done := func() bool {
		text, _ := os.ReadFile(c.report)
		return strings.Contains("\n"+string(text), "\n"+word+"\n")
	}
	for deadline := time.Now().Add(rig.Patience); !done() && c.lives(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("the tracer is not %s", word)
		}
	}
}

// claimed tells whether a daemon has the run directory.
func (w *world) claimed() bool {
	dir, err := rundir.Open(w.Rundir)
	if err != nil {
		return false
	}
	defer dir.Close()
	witness, err := dir.Daemon()
	if err != nil {
		return false
	}
	witness.Close()
	return true
}

// begun tells whether the daemon has begun. A lock on the pid file, which is what
// claimed looks at, may be that of anybody: of a child, too, that the daemon
// before was just starting.
func (w *world) begun() bool {
	text, _ := os.ReadFile(filepath.Join(w.Rundir, rundir.Pid))
	return string(text) == string(rundir.PidLine(w.Daemon.Pid)) && w.claimed()
}

// lives tells whether there is a daemon that has not ended.
func (w *world) lives() bool {
	select {
	case <-w.Ended():
		return false
	default:
		return true
	}
}

// crash kills the daemon and waits for its end.
func (w *world) crash() {
	w.Daemon.Kill()
	<-w.Ended()
	w.died()
}

// died is called when a daemon has been killed: it remembers what ran then.
func (w *world) died() {
	w.daemon.Store(0)
	for _, s := range w.all() {
		s.mu.Lock()
		s.leader = w.leaderOf(s.name)
		s.starts = len(w.Journalled("start", s.name))
		s.mu.Unlock()
	}
}

// order gives one order with svctl and tells whether it was acknowledged. If
// the daemon has died, nobody knows what came of it; from one that lives every
// order has to come to its end.
func (w *world) order(s *service, verb string) bool {
	w.t.Helper()
	s.mu.Lock()
	began := rundir.Clock()
	s.maybe = append(s.maybe, verb)
	switch verb {
	case "once":
		s.onces++
		s.held = 0
	case "start", "restart":
		s.held = 0
	}
	s.mu.Unlock()
	old := w.leaderOf(s.name)
	_, complaint, code := w.Ask("-w", "20", verb, s.name)
	// A service of which the last daemon had not written anything waits for those
	// that leave, and says so.
	for waits := time.Now(); code == 1 && strings.Contains(complaint, "perhaps renamed from ") && time.Since(waits) < w.Patience; {
		time.Sleep(20 * time.Millisecond)
		_, complaint, code = w.Ask("-w", "20", verb, s.name)
	}
	if code != 0 {
		// It may be dying this very moment.
		select {
		case <-w.Ended():
		case <-time.After(time.Second):
			if !w.lenient || code != 1 {
				s.suspect.Store(true)
				w.t.Errorf("svctl %s %s: got exit status %d, want 0: %s", verb, s.name, code, complaint)
			}
		}
		return false
	}
	w.done(s, verb, began, old)
	return true
}

// done is called when an order was acknowledged.
func (w *world) done(s *service, verb string, began time.Duration, old int) {
	w.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maybe = nil
	s.want = verb
	switch verb {
	case "stop", "kill":
		if left := w.Processes(s.name); len(left) > 0 {
			broken(w.t, 2, "%s of %s: processes %v are there", verb, s.name, left)
		}
		s.held = rundir.Clock()
		s.onces = 0
	case "start", "restart":
		s.want = "start"
		now := w.leaderOf(s.name)
		if now == 0 && s.calm && !s.touched && w.startsSince(s.name, began) == 0 && !w.unborn(s.name) {
			s.suspect.Store(true)
			broken(w.t, 5, "%s is not up", s.name)
		}
		if verb == "restart" && old != 0 && now == old {
			broken(w.t, 7, "%s is still process %d", s.name, old)
		}
		if verb == "restart" && old != 0 && alive(old) && w.Owns(old, s.name) {
			broken(w.t, 7, "old process %d of %s is there", old, s.name)
		}
	}
}

// unborn tells whether a service has a process that has not come to its journal
// yet, which on a busy machine may take longer than the second after which a
// start is done.
func (w *world) unborn(name string) bool {
	v, _, _ := w.view(name)
	return v.Phase == rundir.Up && alive(v.Pid) && w.Owns(v.Pid, name)
}

// await waits until a service is as a want says, or the daemon has died.
func (w *world) await(s *service, want string) bool {
	w.t.Helper()
	for deadline := time.Now().Add(w.rest); ; time.Sleep(10 * time.Millisecond) {
		problem := w.fits(s, want)
		if problem == "" {
			return true
		}
		if !w.lives() {
			return false
		}
		if time.Now().After(deadline) {
			w.t.Errorf("%s, which is to be %s: %s", s.name, want, problem)
			return false
		}
	}
}

// view is the status of a service; false: it has none.
func (w *world) view(name string) (control.View, bool, error) {
	dir, err := rundir.Open(w.Rundir)
	if err != nil {
		return control.View{}, false, err
	}
	defer dir.Close()
	v, err := control.Look(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return v, false, nil
	}
	return v, err == nil, err
}

// fits says in what way a service is not as it is wanted, or nothing.
func (w *world) fits(s *service, want string) string {
	v, there, err := w.view(s.name)
	if err != nil {
		return err.Error()
	}
	is := fmt.Sprintf("it is %s and wanted %s, cause %q", v.Phase, v.Wanted, v.Cause)
	if want == "gone" {
		if there {
			return is
		}
		if left := w.Processes(s.name); len(left) > 0 {
			return fmt.Sprintf("processes %v are left", left)
		}
		return ""
	}
	if !there {
		return "it has no status"
	}
	ok := false
	switch want {
	case "start":
		ok = v.Wanted == rundir.Up && (v.Phase == rundir.Up || !s.calm && v.Phase == rundir.Backoff)
	case "stop", "kill":
		ok = v.Wanted == rundir.Down && v.Phase == rundir.Down
	case "once":
		ok = v.Phase == rundir.Up && v.Wanted == "once" || !s.calm && v.Phase == rundir.Down && v.Wanted == rundir.Down
	case "blocked":
		ok = v.Phase == rundir.Blocked
	}
	if !ok {
		return is
	}
	switch leader := w.leaderOf(s.name); {
	case v.Phase == rundir.Up && s.calm && leader == 0:
		return is + ", but it has no process"
	case v.Phase == rundir.Up && s.calm && v.Pid != leader:
		return fmt.Sprintf("%s, process %d, but its process is %d", is, v.Pid, leader)
	case v.Phase == rundir.Down:
		if left := w.Processes(s.name); len(left) > 0 {
			return fmt.Sprintf("%s, but processes %v are left", is, left)
		}
	}
	return ""
}

// problems lists the services that are not as they are wanted, in one of the
// ways in which they may be.
func (w *world) problems() (list []string) {
	for _, s := range w.all() {
		s.mu.Lock()
		problem := w.fits(s, s.want)
		for _, verb := range s.maybe {
			if problem == "" {
				break
			}
			if verb == "restart" {
				verb = "start"
			}
			if other := w.fits(s, verb); other == "" {
				problem = ""
			} else {
				problem += "; as " + verb + ": " + other
			}
		}
		if problem == "" {
			problem = w.checkPidFiles(s)
		}
		if problem != "" {
			list = append(list, fmt.Sprintf("%s, which is to be %s: %s", s.name, s.want, problem))
		}
		s.mu.Unlock()
	}
	return list
}

// converge waits until every service is as it is wanted, in one of the ways
// in which it may be. It is called when all faults have been lifted.
func (w *world) converge(law int) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for {
		list := w.problems()
		if len(list) == 0 {
			return time.Since(begin)
		}
		if !w.lives() {
			w.t.Fatalf("the daemon has ended: %v", w.State())
		}
		if len(w.doubles()) > 0 {
			w.t.Fatalf("not at rest: %s", strings.Join(list, "; ")) // and never will be
		}
		if time.Since(begin) > w.rest {
			w.suspectAll(list)
			for _, problem := range list {
				broken(w.t, law, "%s", problem)
			}
			return time.Since(begin)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// suspectAll marks the services that a list of problems begins with.
func (w *world) suspectAll(list []string) {
	for _, problem := range list {
		name, _, _ := strings.Cut(problem, ",")
		if s := w.known(name); s != nil {
			s.suspect.Store(true)
		}
	}
}

// checkAfterCrash holds the laws about the death of the daemon against what
// the journal says. It is called when its successor is at rest.
func (w *world) checkAfterCrash() {
	w.t.Helper()
	for _, s := range w.all() {
		s.mu.Lock()
		settled := len(s.maybe) == 0 && !s.touched
		if s.held != 0 && settled {
			if n := w.startsSince(s.name, s.held); n > 0 {
				s.suspect.Store(true)
				broken(w.t, 3, "%s was held, and was started %d times", s.name, n)
			}
		}
		if settled && s.calm && s.leader != 0 && (s.want == "start" || s.want == "once") {
			if now := w.leaderOf(s.name); now != s.leader {
				s.suspect.Store(true)
				broken(w.t, 9, "%s: got process %d, want %d, which it was when the daemon died", s.name, now, s.leader)
			}
			if starts := len(w.Journalled("start", s.name)); starts != s.starts {
				broken(w.t, 9, "%s was started %d times since the daemon died", s.name, starts-s.starts)
			}
		}
		if starts := len(w.Journalled("start", s.name)); s.onces > 0 && !s.calm && starts > s.onces {
			s.suspect.Store(true)
			broken(w.t, 6, "%s: got %d starts for %d requests", s.name, starts, s.onces)
		}
		s.mu.Unlock()
	}
}

// secondAct shows that the daemon is in charge of all services: it restarts
// those that are up and ends in good order.
func (w *world) secondAct() {
	w.t.Helper()
	var each sync.WaitGroup
	for _, s := range w.all() {
		if v, there, _ := w.view(s.name); there && v.Phase == rundir.Up && s.calm {
			each.Go(func() { w.order(s, "restart") })
		}
	}
	each.Wait()
	if !w.t.Failed() {
		w.converge(4)
	}
	w.daemon.Store(0)
	w.End()
}

// scenario is a little of everything that is done to services, all at once;
// it ends early when the daemon dies. Its entries and held services are there
// before the daemon is.
type scenario struct {
	*world
	calm, brood, twice, stopper, killer, deaf, slow, brief, once, flaky, held, prey, old, leaving, bar, plain *service
}

func (w *world) prepare() *scenario {
	w.t.Helper()
	c := &scenario{world: w}
	c.calm = w.add("calm", "ready")
	c.brood = w.add("brood", "ready child")
	c.twice = w.add("twice", "ready")
	c.stopper = w.add("stopper", "ready")
	c.killer = w.add("killer", "ready child")
	c.deaf = w.add("deaf", "ready deaf=-1 grace=0.3")
	c.slow = w.add("slow", "ready deaf=150")
	c.brief = w.add("brief", "life=30 code=0")
	c.once = w.add("once", "ready")
	c.flaky = w.add("flaky", "life=5 code=1")
	c.held = w.add("held", "ready")
	c.prey = w.add("prey", "ready")
	c.old = w.add("old", "ready")
	c.leaving = w.add("leaving", "ready")
	c.plain = w.add("plain", "ready")
	c.bar = w.service("bar", "")
	c.bar.want = "blocked"
	w.Script("bar", "#!/bin/sh\nsleep 1000\n", 0o644)
	for _, s := range []*service{c.held, c.brief} {
		folder := filepath.Join(w.Rundir, s.name)
		if err := errors.Join(os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, "lock"), []byte("TERM\n"), 0o644)); err != nil {
			w.t.Fatal(err)
		}
		s.want, s.held = "stop", rundir.Clock()
	}
	return c
}

// play plays the scenario and returns when it is over or the daemon is dead.
func (c *scenario) play() {
	c.t.Helper()
	if !c.await(c.calm, "start") {
		return
	}
	var parts sync.WaitGroup
	part := func(steps ...func() bool) {
		parts.Go(func() {
			for _, step := range steps {
				if !c.lives() || !step() {
					return
				}
			}
		})
	}
	do := func(s *service, verb string) func() bool { return func() bool { return c.order(s, verb) } }
	up := func(s *service) func() bool { return func() bool { return c.await(s, "start") } }
	part(up(c.brood), do(c.brood, "restart"))
	part(do(c.twice, "restart"), do(c.twice, "restart"))
	part(do(c.stopper, "stop"), do(c.stopper, "start"), do(c.stopper, "stop"))
	part(up(c.killer), do(c.killer, "kill"), do(c.killer, "start"))
	part(up(c.deaf), do(c.deaf, "stop"))
	part(up(c.slow), do(c.slow, "restart"))
	part(do(c.brief, "once"))
	part(do(c.once, "stop"), do(c.once, "once"))
	part(up(c.prey), func() bool {
		c.prey.mu.Lock()
		c.prey.touched = true
		c.prey.mu.Unlock()
		c.Kill(c.leaderOf("prey"))
		return true
	})
	part(up(c.old), func() bool {
		c.wants(c.old, "gone")
		c.service("new", "ready")
		return c.must(os.Rename(filepath.Join(c.Sysdir, "old"), filepath.Join(c.Sysdir, "new")))
	}, func() bool { return c.await(c.known("new"), "start") })
	part(up(c.leaving), func() bool {
		c.wants(c.leaving, "gone")
		return c.must(os.Remove(filepath.Join(c.Sysdir, "leaving")))
	}, func() bool { return c.await(c.leaving, "gone") })
	part(func() bool { c.add("late", "ready"); return c.await(c.known("late"), "start") })
	lock := filepath.Join(c.Rundir, "plain", "lock")
	part(up(c.plain), func() bool {
		c.plain.mu.Lock()
		c.plain.maybe = []string{"stop"}
		c.plain.mu.Unlock()
		return c.must(os.WriteFile(lock, []byte("TERM\n"), 0o644))
	}, func() bool { return c.await(c.plain, "stop") }, func() bool {
		c.plain.mu.Lock()
		c.plain.want, c.plain.maybe = "stop", []string{"start"}
		c.plain.mu.Unlock()
		return c.must(os.Remove(lock))
	}, up(c.plain), func() bool { c.wants(c.plain, "start"); return true })
	parts.Wait()
}

// wants says what a service is to be like from now on, for sure.
func (w *world) wants(s *service, want string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want, s.maybe, s.held = want, nil, 0
}

func (w *world) known(name string) *service {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.services[name]
}

func (w *world) must(err error) bool {
	if err != nil {
		w.t.Error(err)
	}
	return err == nil
}

// The scenario comes to its end when nobody is in its way.
func TestScenarioWithoutFaultsKeepsEveryLaw(t *testing.T) {
	t.Parallel()
	try(t, "no fault", "scenario", func(t *testing.T) {
		w := newWorld(t, rig.Race)
		c := w.prepare()
		w.begin()
		w.watch()
		c.play()
		w.converge(4)
		w.checkAfterCrash()
		w.secondAct()
	})
}
