package actor

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sysmgr/internal/rundir"
)

// heard is a bench with somebody who listens to what services say.
func heard(t *testing.T, f func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Attend = func(string) {}
		f(t, b)
	})
}

// says is what a status repeats of what its service says.
func (b *bench) says(name string) string {
	b.t.Helper()
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	s := b.status(name).Said
	var words []string
	switch {
	case !s.Heard:
		words = append(words, "unheard")
	case s.Ready:
		words = append(words, "ready")
	}
	if len(s.Waiting) > 0 {
		words = append(words, "waiting for "+strings.Join(s.Waiting, ","))
	}
	if s.Pid != 0 {
		words = append(words, "pid "+string(rundir.PidLine(s.Pid)))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

func (b *bench) remove(name, file string) {
	b.t.Helper()
	if err := os.Remove(filepath.Join(b.dir.Path(), name, file)); err != nil {
		b.t.Fatal(err)
	}
}

// writes is another number whenever the status of a service has been written.
func (b *bench) writes(name string) rundir.Version {
	f, err := b.dir.Folder(name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	return f.Stamp(rundir.State).Version()
}

func TestTheStatusRepeatsWhatTheServiceSays(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := b.run("web")
		b.expect("web", "up")
		pid := b.file("web", "pid")
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"nothing", func() {}, ""},
			{"ready", func() { b.write("web", "ready", "") }, "ready"},
			{"it waits", func() { b.write("web", "waiting", "db\nthe cache\n") }, "ready waiting for db,the cache"},
			{"for less", func() { b.write("web", "waiting", "the cache\n") }, "ready waiting for the cache"},
			{"no more", func() { b.remove("web", "waiting") }, "ready"},
			{"a number of its own", func() { b.write("web", "pid", "4711\n") }, "ready pid 4711"},
			{"another", func() { b.write("web", "pid", "4712\n") }, "ready pid 4712"},
			{"nonsense", func() { b.write("web", "pid", "none\n") }, "ready"},
			{"ours", func() { b.write("web", "pid", pid+"\n") }, "ready"},
			{"not ready after all", func() { b.remove("web", "ready") }, ""},
		} {
			step.do()
			s.Tell(Order{Said: true})
			if got := b.says("web"); got != step.want {
				t.Errorf("%s: got %q, want %q", step.what, got, step.want)
			}
			if got := b.status("web"); got.Phase != "up" || got.Wanted != "up" || got.Pid != 101 || got.Starts != 1 {
				t.Errorf("%s: got %+v, want all else as it was", step.what, got)
			}
			written := b.writes("web")
			s.Tell(Order{Said: true})
			b.says("web")
			if b.writes("web") != written {
				t.Errorf("%s: told twice, the status was written twice", step.what)
			}
		}
	})
}

// A stop tells too; what does not run says nothing, whatever it has left.
func TestOnlyWhatRunsSaysSomething(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		b.kernel.stopTime = time.Second
		s := b.run("web")
		b.write("web", "ready", "")
		s.Tell(Order{Said: true})
		s.Tell(order(Stop))
		b.expect("web", "stopping")
		if got := b.says("web"); got != "ready" {
			t.Errorf("stopping: got %q, want ready", got)
		}
		time.Sleep(2 * time.Second)
		b.expect("web", "down")
		s.Tell(Order{Said: true})
		if got := b.says("web"); got != "unheard" {
			t.Errorf("down: got %q, want nothing", got)
		}
	})
}

// Where nobody tells what a service says, as under runsyssv and where folders are
// polled, its status does not claim to know.
func TestAStatusClaimsNothingThatNobodyTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := b.run("web")
		b.write("web", "ready", "")
		s.Tell(Order{Said: true})
		if got := b.says("web"); got != "unheard" {
			t.Errorf("nobody attends to it: got %q, want nothing", got)
		}
	})
	heard(t, func(t *testing.T, b *bench) {
		v, stop := b.supervise()
		defer stop()
		v.Found(entries("a", "b"))
		b.expect("a", "up")
		b.write("a", "ready", "")
		v.Deliver("a", Order{Said: true})
		if a, b := b.says("a"), b.says("b"); a != "ready" || b != "" {
			t.Errorf("got %q and %q, want a ready", a, b)
		}
		v.Deafen()
		v.Found(entries("a", "b", "c"))
		for _, name := range []string{"a", "b", "c"} {
			b.expect(name, "up")
			if got := b.says(name); got != "unheard" {
				t.Errorf("%s, from then on: got %q, want nothing", name, got)
			}
		}
		v.Deliver("a", Order{Said: true})
		if got := b.says("a"); got != "unheard" {
			t.Errorf("told all the same: got %q, want nothing", got)
		}
	})
}

func TestAScriptThatIsFasterThanItsActorIsShown(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		b.config.Processes = early{b.kernel, func() { b.write("getty", "pid", "4711\n") }}
		b.run("getty")
		status := b.expect("getty", "up")
		if got := b.says("getty"); got != "pid 4711" || status.Pid != 101 {
			t.Errorf("got %q and pid %d, want its own 4711, and 101", got, status.Pid)
		}
	})
}

// The doorbell may ring late, when another run is there.
func TestAStaleBellDoesNotBringBackWhatTheLastRunSaid(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := b.run("web")
		b.write("web", "ready", "")
		b.write("web", "waiting", "db\n")
		b.write("web", "pid", "4711\n")
		s.Tell(Order{Said: true})
		if got := b.says("web"); got != "ready waiting for db pid 4711" {
			t.Fatalf("got %q", got)
		}
		s.Tell(order(Restart))
		b.expect("web", "up")
		if got := b.says("web"); got != "" {
			t.Errorf("after a restart: got %q, want nothing", got)
		}
		s.Tell(Order{Said: true})
		if got := b.says("web"); got != "" {
			t.Errorf("and a stale bell: got %q, want nothing", got)
		}

		// In back-off the files of the last run are still there.
		b.write("web", "ready", "")
		b.kernel.crash("web")
		b.expect("web", "backoff")
		s.Tell(Order{Said: true})
		if got := b.says("web"); got != "unheard" {
			t.Errorf("in back-off: got %q, want nothing", got)
		}
		time.Sleep(2 * time.Second)
		b.expect("web", "up")
		if got := b.says("web"); got != "" {
			t.Errorf("after it: got %q, want nothing", got)
		}
	})
}

// Somebody is just removing the folder: nothing is put in his way.
func TestWhoeverIsToldOfWordsMakesNoFolder(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := b.run("web")
		b.write("web", "ready", "")
		b.remove("web", "status")
		s.Tell(Order{Said: true})
		synctest.Wait()
		if got := b.file("web", "status"); got != "absent" {
			t.Errorf("got a status: %q", got)
		}
		folder := filepath.Join(b.dir.Path(), "web")
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
		s.Tell(Order{Said: true})
		synctest.Wait()
		if _, err := os.Stat(folder); err == nil {
			t.Error("the folder has been made anew")
		}
		// It was an order to start, and takes along what was said.
		s.Tell(Order{Event: Event{Kind: Start}, Lost: true})
		b.expect("web", "up")
		if got := b.says("web"); got != "" {
			t.Errorf("in the new folder: got %q, want nothing", got)
		}
		// If only the status was taken, all is there still.
		b.write("web", "ready", "")
		b.write("web", "pid", "4711\n")
		b.remove("web", "status")
		s.Tell(Order{Event: Event{Kind: Start}, Lost: true})
		b.expect("web", "up")
		if got := b.says("web"); got != "ready pid 4711" {
			t.Errorf("status removed: got %q, want all that is there", got)
		}
	})
}

// A word is no order: it ends no hold and no shutdown, nor is it a lock that was
// acted upon.
func TestAWordIsNoOrder(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := b.run("web")
		b.write("web", "lock", "TERM\n")
		f, err := b.dir.Folder("web")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s.Tell(Order{Event: Event{Kind: Stop}, Lock: f.Stamp("lock")})
		b.expect("web", "down")
		acted := s.acted
		s.Tell(Order{Said: true})
		synctest.Wait()
		if b.expect("web", "down"); s.acted != acted || acted == (version{}) {
			t.Errorf("acted upon: got %v, want %v", s.acted, acted)
		}
		if got := b.file("web", "lock"); got != "TERM" {
			t.Errorf("lock: got %q, want TERM still", got)
		}
		if n := len(b.kernel.started()); n != 1 {
			t.Errorf("got %d starts, want 1", n)
		}
	})
}

// Control says of each service that comes what is in its pid file. Who has written
// that, and nothing else is said, is not woken.
func TestOneWhoseServiceSaysNothingIsNotWoken(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := b.run("web")
		b.expect("web", "up")
		told := func(o Order) bool {
			b.mu.Lock()
			before := len(b.facts)
			b.mu.Unlock()
			s.Tell(o)
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			return slices.ContainsFunc(b.facts[before:], func(f Fact) bool { _, ok := f.(Taken); return ok })
		}
		if told(Order{Said: true, Pid: 101}) {
			t.Error("its own number: it was woken")
		}
		if !told(Order{Said: true, Pid: 4711}) {
			t.Error("another number: it was not woken")
		}
		if !told(Order{Said: true}) {
			t.Error("there may be something: it was not woken")
		}
		b.write("web", "ready", "")
		s.Tell(Order{Said: true})
		b.says("web")
		b.remove("web", "ready")
		s.Tell(Order{Said: true, Pid: 101})
		if got := b.says("web"); got != "" {
			t.Errorf("what it said is gone: got %q, want nothing", got)
		}
	})
}

func TestWhatWasSaidIsReadByTheNextDaemon(t *testing.T) {
	for _, c := range []struct{ ready, pid, want string }{
		{"", "777\n", "ready pid 777"},
		{"", "101\n", "ready"},
	} {
		heard(t, func(t *testing.T, b *bench) {
			p := b.kernel.survivor("web")
			b.write("web", "pid", c.pid)
			b.write("web", "syspid", "101\n")
			b.write("web", "ready", c.ready)
			b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
			b.expect("web", "up")
			if got := b.says("web"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	// One that is found by its mark has begun before us too.
	heard(t, func(t *testing.T, b *bench) {
		b.findable(b.kernel.survivor("web"))
		b.write("web", "ready", "")
		b.resume(underWay("web", WantUp), "")
		b.expect("web", "up")
		if got := b.says("web"); got != "ready" || len(b.kernel.started()) != 0 {
			t.Errorf("found: got %q and %d starts, want ready and none", got, len(b.kernel.started()))
		}
	})
	// So has one that is looked for only when it is to be started.
	heard(t, func(t *testing.T, b *bench) {
		b.write("web", "lock", "TERM\n")
		s := b.run("web")
		b.expect("web", "down")
		s.legacy = &legacy{doubt: true}
		b.findable(b.kernel.survivor("web"))
		b.write("web", "ready", "")
		s.Tell(order(Start))
		b.expect("web", "up")
		if got := b.says("web"); got != "ready" || len(b.kernel.started()) != 0 {
			t.Errorf("found later: got %q and %d starts, want ready and none", got, len(b.kernel.started()))
		}
	})
}

// As long as the pid file may be another run's, what is in it is not this one's.
func TestANumberThatMayBeAnOldOneIsNotRepeated(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := NewService(b.config, "web", "")
		b.write("web", "pid", "99\n")
		f, err := s.open()
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		s.state.Phase, s.state.Pid, s.state.Group = Up, 100, 100
		for shown, want := range map[int32]int{unknownPid: 0, 0: 0, 100: 99} {
			if s.shownPid = shown; s.pidOfItsOwn(f) != want {
				t.Errorf("we have written %d: got %d, want %d", shown, s.pidOfItsOwn(f), want)
			}
		}
	})
}

// A folder that cannot be opened for the moment is read as soon as it can be.
func TestAWordThatCannotBeReadIsReadLater(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		v, stop := b.supervise()
		defer stop()
		v.Found(entries("web"))
		b.expect("web", "up")
		folder := filepath.Join(b.dir.Path(), "web")
		b.write("web", "ready", "")
		if err := os.Rename(folder, folder+"-"); err != nil {
			t.Fatal(err)
		}
		b.write("", "web", "") // no folder, and not missing
		v.Deliver("web", Order{Said: true})
		synctest.Wait()
		if err := os.Rename(folder+"-", folder+"+"); err != nil {
			t.Fatal(err)
		}
		b.remove("", "web")
		if err := os.Rename(folder+"+", folder); err != nil {
			t.Fatal(err)
		}
		if !v.Publish(false) {
			t.Error("nothing is left to publish")
		}
		if got := b.says("web"); got != "ready" {
			t.Errorf("got %q, want ready", got)
		}
		if i := slices.IndexFunc(b.facts, func(f Fact) bool { _, ok := f.(Unpublished); return ok }); i < 0 {
			t.Error("nothing was told of it")
		}
	})
}

// What a service writes without end keeps no order waiting, and is not kept.
func TestOneLookIsEnoughForAllThatWasSaid(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := b.run("web")
		b.expect("web", "up")
		b.kernel.execTime = 2 * tooLate // it hears nothing as long as it starts
		s.Tell(order(Restart))
		time.Sleep(tooLate / 2)
		synctest.Wait()
		b.mu.Lock()
		b.facts = nil
		b.mu.Unlock()
		for range 1000 {
			s.Tell(Order{Said: true})
		}
		s.Tell(order(Stop))
		for range 1000 {
			s.Tell(Order{Said: true})
		}
		kept := 0
		for l := s.mail.last.Load(); l != nil; l = l.before {
			kept++
		}
		if kept != 3 {
			t.Errorf("got %d messages in the mailbox, want 3", kept)
		}
		time.Sleep(2 * tooLate)
		b.expect("web", "down")
		var taken []string
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, f := range b.facts {
			if f, ok := f.(Taken); ok && f.Order.Said {
				taken = append(taken, "said")
			} else if ok {
				taken = append(taken, f.Order.Event.Kind.String())
			}
		}
		if got := strings.Join(taken, " "); got != "stop said" {
			t.Errorf("got %q, want the stop first, and one look", got)
		}
	})
}

// The status keeps no more than it shows.
func TestNamesWithoutEndAreNotKept(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		s := b.run("web")
		b.expect("web", "up")
		var names []string
		for i := range 2000 {
			names = append(names, strconv.Itoa(i))
		}
		b.write("web", "waiting", string(rundir.Names(names)))
		s.Tell(Order{Said: true})
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		got := b.status("web").Said.Waiting
		if len(got) == 0 || len(got) == len(names) || !slices.Equal(got, names[:len(got)]) || !slices.Equal(got, s.remarks.said.Waiting) {
			t.Errorf("got %d names in the status and %d kept, want the same, the first of %d", len(got), len(s.remarks.said.Waiting), len(names))
		}
	})
}

// The number goes with the process that it stands for.
func TestANumberOfItsOwnEndsWithTheMainProcess(t *testing.T) {
	heard(t, func(t *testing.T, b *bench) {
		b.kernel.left, b.kernel.stopTime = true, time.Minute
		s := b.run("web")
		b.expect("web", "up")
		b.write("web", "pid", "4711\n")
		b.write("web", "ready", "")
		s.Tell(Order{Said: true})
		if got := b.says("web"); got != "ready pid 4711" {
			t.Fatalf("got %q", got)
		}
		b.kernel.crash("web")
		b.expect("web", "stopping")
		if got := b.says("web"); got != "ready" {
			t.Errorf("when it has ended: got %q, want ready only", got)
		}
	})
}
