package scanner

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// calming is a world whose slow check comes every 20 ms, and when it is calm
// not at all: what is seen then is seen without it.
type calming struct {
	*world
	ticks chan struct{}
	count atomic.Int64
}

func newCalming(t *testing.T, dir string, ways ...string) *calming {
	t.Helper()
	c := &calming{world: newWorld(t, dir), ticks: make(chan struct{}, 1)}
	c.s.slow, c.s.calm = 20*time.Millisecond, time.Hour
	c.s.config.Ways = ways
	c.s.config.Tick = func() {
		c.count.Add(1)
		select {
		case c.ticks <- struct{}{}:
		default:
		}
	}
	return c
}

// aged is a directory with these services that has not changed for an hour: the
// scanner looks once more at one that has just changed.
func aged(t *testing.T, names ...string) string {
	t.Helper()
	dir := services(t, names...)
	age(t, dir)
	return dir
}

func age(t testing.TB, dir string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(dir, old, old))
}

// begin runs the scanner until the end of the test.
func (c *calming) begin() *calming {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.s.Run(ctx) }()
	c.t.Cleanup(func() { cancel(); <-done })
	return c
}

// becomesCalm waits until the next slow check is an hour away.
func (c *calming) becomesCalm(what string) {
	c.t.Helper()
	for late := time.Now().Add(soon); c.s.mood.Load() != calm; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			c.t.Fatalf("%s: not calm after %v", what, soon)
		}
	}
}

// neverCalm waits for many slow checks, of which the third at the latest would
// have been the last.
func (c *calming) neverCalm(what string) {
	c.t.Helper()
	late := time.After(soon)
	for enough := c.count.Load() + 20; c.count.Load() < enough; {
		select {
		case <-c.ticks:
		case <-late:
			c.t.Fatalf("%s: it is calm, want slow checks", what)
		}
	}
}

// awaitTick waits for a slow check that is yet to come.
func (c *calming) awaitTick(what string, do func()) {
	c.t.Helper()
	before := c.count.Load()
	do()
	for late := time.After(soon); c.count.Load() == before; {
		select {
		case <-c.ticks:
		case <-late:
			c.t.Fatalf("%s: no slow check after %v", what, soon)
		}
	}
}

func TestAtRestTheSlowCheckIsRareUntilSomethingHappens(t *testing.T) {
	t.Parallel()
	dir, elsewhere := aged(t, "web"), filepath.Join(tempDir(t), "own")
	must(t, os.WriteFile(elsewhere, nil, 0o644))
	c := newCalming(t, dir, elsewhere).begin()
	for what, do := range map[string]func(){
		"Stir":        c.s.Stir,
		"Rescan":      c.s.Rescan,
		"a new entry": func() { put(t, filepath.Join(dir, "new"), script, 0o755); age(t, dir) },
		"another's file replaced": func() {
			put(t, elsewhere+"2", "", 0o644)
			must(t, os.Rename(elsewhere+"2", elsewhere))
		},
	} {
		c.becomesCalm("before " + what)
		c.awaitTick(what, do)
	}
	c.becomesCalm("at last")
	if got := text(c.last()); got != "new web" {
		t.Errorf("got %q, want both", got)
	}
}

// One round of the slow check is not enough: whatever happened in it may have
// left something behind that shows only then.
func TestAfterAStirTheSlowCheckComesAgain(t *testing.T) {
	t.Parallel()
	c := newCalming(t, aged(t, "web"))
	c.s.slow, c.s.calm = time.Hour, 2*time.Hour // the test moves it
	c.still()
	expect := func(what string, calm bool) {
		t.Helper()
		due, next := c.s.check()
		if due || calm && next != c.s.calm || !calm && next != c.s.slow {
			t.Errorf("%s: got %v, %v", what, due, next)
		}
	}
	c.s.Stir()
	expect("the round in which something happened", false)
	expect("the next", true)
	expect("another", true)
	c.s.Stir()
	c.s.Stir()
	if len(c.s.stir) != 1 {
		t.Error("who waits is not told")
	}
	<-c.s.stir
	expect("the round in which it was stirred", false)
	c.s.Stir()
	if len(c.s.stir) != 0 {
		t.Error("it was told although the slow check is near")
	}
	expect("the round after, in which it was stirred again", false)
	c.s.config.Restless = func() []string { c.s.Stir(); return nil }
	expect("a stir in the middle of the check", false)
	c.s.config.Restless = nil
	expect("the round after that", false)
	expect("and at rest", true)
	c.s.covered = false
	expect("a way was not covered", false)
	c.s.laid = time.Now().Add(-c.s.calm)
	expect("that was long ago", true)

	c.s.hung["web"] = nil
	expect("a file system that does not answer", false)
	delete(c.s.hung, "web")
	expect("it has answered", true)
	web := c.s.known.get("web")
	c.s.known.set(seen{entry: web.entry, missing: time.Now()})
	expect("an entry that is missing", false)
	c.s.known.set(seen{entry: web.entry, young: time.Now()})
	expect("an entry that is perhaps being made", false)
	c.s.known.set(web)
	expect("an entry like others", true)

	put(t, filepath.Join(c.dir, "new"), script, 0o755)
	if due, next := c.s.check(); !due || next != c.s.slow {
		t.Errorf("something to be read: got %v, %v, want a scan", due, next)
	}
	c.s.scan()
	if due, next := c.s.check(); !due || next != c.s.slow {
		t.Errorf("a directory that has just changed: got %v, %v, want another scan", due, next)
	}
}

func TestSlowCheckGoesOnAsLongAsItMayFindSomething(t *testing.T) {
	t.Parallel()
	for what, prepare := range map[string]func(c *calming) (mend func()){
		"a service that cannot be run": func(c *calming) func() {
			target := filepath.Join(tempDir(c.t), "target")
			must(c.t, os.Symlink(target, filepath.Join(c.dir, "link")))
			age(c.t, c.dir)
			return func() { put(c.t, target, script, 0o755) }
		},
		"a service in back-off": func(c *calming) func() {
			c.restless = []string{"web"}
			return func() { c.mu.Lock(); c.restless = nil; c.mu.Unlock() }
		},
		"an empty directory, which may go unseen": func(c *calming) func() {
			must(c.t, os.Remove(filepath.Join(c.dir, "web")))
			age(c.t, c.dir)
			return func() { put(c.t, filepath.Join(c.dir, "web"), script, 0o755); age(c.t, c.dir) }
		},
		"a file system that others may change": func(c *calming) func() {
			link := filepath.Join(tempDir(c.t), "link")
			must(c.t, os.Symlink("/proc/self/root"+c.dir, link))
			c.s.config.Dir = link
			return nil
		},
		"another's file that is missing": func(c *calming) func() {
			file := filepath.Join(tempDir(c.t), "own")
			c.s.config.Ways = []string{file}
			return func() { must(c.t, os.WriteFile(file, nil, 0o644)); c.s.Stir() }
		},
		"somebody who always stirs": func(c *calming) func() {
			var content atomic.Bool
			tick := c.s.config.Tick
			c.s.config.Tick = func() {
				tick()
				if !content.Load() {
					c.s.Stir()
				}
			}
			return func() { content.Store(true) }
		},
		"no inotify": func(c *calming) func() {
			c.s.polls = true
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := newCalming(t, aged(t, "web"))
			mend := prepare(c)
			c.begin()
			c.neverCalm(what)
			if mend != nil {
				mend()
				c.becomesCalm("put right")
			}
		})
	}
}

func TestDirectoryThatLeavesItsPathIsMissedWithoutASlowCheck(t *testing.T) {
	t.Parallel()
	for what, leave := range map[string]func(top string) error{
		"an ancestor renamed": func(top string) error { return os.Rename(filepath.Join(top, "a"), filepath.Join(top, "x")) },
		"a link removed":      func(top string) error { return os.Remove(filepath.Join(top, "link")) },
		"itself renamed":      func(top string) error { return os.Rename(filepath.Join(top, "a/b"), filepath.Join(top, "a/x")) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			top := tempDir(t)
			must(t, os.MkdirAll(filepath.Join(top, "a"), 0o755))
			must(t, os.Rename(aged(t, "web"), filepath.Join(top, "a/b")))
			must(t, os.Symlink("a/b", filepath.Join(top, "link")))
			c := newCalming(t, filepath.Join(top, "link")).begin()
			c.becomesCalm("at first")
			must(t, leave(top))
			awaitFact[Unreadable](c.world, 1)
			c.neverCalm("while it is gone")
			if got := text(c.last()); got != "web" {
				t.Errorf("got %q, want web kept", got)
			}
		})
	}
}

// Another directory under the path is read at once, and then watched in turn.
func TestLinkOnTheWayThatIsReplacedIsFollowedWithoutASlowCheck(t *testing.T) {
	t.Parallel()
	one, two := aged(t, "a"), aged(t, "b")
	link := filepath.Join(tempDir(t), "link")
	must(t, os.Symlink(one, link))
	c := newCalming(t, link).begin()
	for i, to := range []string{two, one, two} {
		c.becomesCalm("before it leads to " + to)
		must(t, os.Symlink(to, link+"2"))
		must(t, os.Rename(link+"2", link))
		awaitFact[Replaced](c.world, i+1)
		c.awaitText("a b")
	}
	c.becomesCalm("before a new entry")
	put(t, filepath.Join(two, "c"), script, 0o755)
	c.awaitText("a b c")
}

// Nobody waits for the first slow check to be told at once.
func TestWayIsWatchedFromTheBeginning(t *testing.T) {
	t.Parallel()
	dirs := []string{aged(t, "a"), aged(t, "b")}
	link := filepath.Join(tempDir(t), "link")
	must(t, os.Symlink(dirs[0], link))
	c := newCalming(t, link)
	c.s.slow = time.Hour
	c.begin()
	c.await("the first snapshot", func([]Entry) bool { return true })
	late := time.Now().Add(soon)
	for i := 1; ; i++ { // the first may have been too early
		must(t, os.Symlink(dirs[i%2], link+"2"))
		must(t, os.Rename(link+"2", link))
		time.Sleep(3 * prompt)
		if n, _ := count[Replaced](c.world); n > 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("a link on the way was replaced: not seen after %v", soon)
		}
	}
}

// What is lost at the beginning is told of at once.
func TestWhatIsMissingAtTheBeginningIsToldOf(t *testing.T) {
	t.Parallel()
	c := newCalming(t, aged(t, "web"), filepath.Join(tempDir(t), "own"))
	c.s.slow = time.Hour
	c.awaitTick("another's file", func() { c.begin() })
}

// What is lost later may be made anew by whoever is told, and has to be watched
// again soon.
func TestWhatIsLostIsSoonLookedForAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(tempDir(t), "own")
	c := newCalming(t, aged(t, "web"), file)
	c.s.slow, c.s.calm = time.Hour, 2*time.Hour
	c.still()
	c.s.hasten = prompt // a way has rung
	for _, want := range []time.Duration{prompt, 2 * prompt, 4 * prompt} {
		if _, next := c.s.check(); next != want {
			t.Errorf("still missing: the next check in %v, want %v", next, want)
		}
	}
	must(t, os.WriteFile(file, nil, 0o644))
	if _, next := c.s.check(); !c.s.covered || next < c.s.slow {
		t.Errorf("made anew: got covered %v, the next check in %v, want that it is and no hurry", c.s.covered, next)
	}
	c.s.covered = false // on a file system that others may change
	if _, next := c.s.check(); c.s.covered || next < c.s.slow {
		t.Errorf("not covered for another reason: got covered %v, the next check in %v, want no hurry", c.s.covered, next)
	}
}

// What a scan leaves behind is garbage when the tick comes.
func TestTheTickComesAfterTheScan(t *testing.T) {
	c := newCalming(t, services(t, "web")) // just made: the check has it read again
	var scans atomic.Int64
	report := c.s.config.Report
	c.s.config.Report = func(f Fact) {
		if _, ok := f.(Scanned); ok {
			scans.Add(1)
		}
		report(f)
	}
	before := make(chan int64, 1)
	c.s.config.Tick = func() {
		select {
		case before <- scans.Load():
		default:
		}
	}
	c.begin()
	select {
	case n := <-before:
		if n != 2 {
			t.Errorf("scans before the first tick: got %d, want the first and that of the check", n)
		}
	case <-time.After(soon):
		t.Fatalf("no tick after %v", soon)
	}
}
