package actor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sysmgr/internal/needs"
	"sysmgr/internal/rundir"
)

// moments are when each service began to stop and was down, in seconds since
// begin: "a 0-1".
func (b *bench) moments(begin Moment) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	stopping, down := make(map[string]time.Duration), make(map[string]time.Duration)
	for _, f := range b.facts {
		c, ok := f.(Changed)
		if !ok || c.New.Since.Before(begin) {
			continue
		}
		switch c.New.Phase {
		case Stopping:
			if c.Old.Phase == Up {
				stopping[c.Service] = c.New.Since.Sub(begin)
			}
		case Down:
			down[c.Service] = c.New.Since.Sub(begin)
		}
	}
	var words []string
	for name, at := range down {
		words = append(words, fmt.Sprintf("%s %v-%v", name, round(stopping[name]), round(at)))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// round drops what expect has waited.
func round(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// up starts services that behave as the kernel is set to; needs says whom the
// last of them needs.
func (b *bench) up(v *Supervisor, services []string, need string) {
	b.t.Helper()
	v.Found(entries(services...))
	name := services[len(services)-1]
	b.expect(name, "up")
	if need != "" {
		b.write(name, rundir.Needs, strings.ReplaceAll(need, " ", "\n")+"\n")
	}
}

func TestAShutdownStopsDependentsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = time.Second
		v, stop := b.supervise()
		b.up(v, []string{"net"}, "")
		b.up(v, []string{"net", "db"}, "net nosuch")
		b.up(v, []string{"net", "db", "web"}, "db\nnet")
		b.up(v, []string{"net", "db", "web", "other"}, "")
		b.up(v, []string{"net", "db", "web", "other", "asks"}, "")
		b.write("asks", rundir.Waiting, "other\n") // which is a need too
		begin := Now()
		stop()
		if got, want := b.moments(begin), "asks 0-1, db 1-2, net 2-3, other 1-2, web 0-1"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// It may have said so a moment ago.
func TestAShutdownStopsAServiceAsItSays(t *testing.T) {
	for file, content := range map[string]string{rundir.StopSignal: "INT\n", rundir.StopTimeout: "3\n"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.kernel.deaf = file == rundir.StopTimeout
			v, stop := b.supervise()
			b.up(v, []string{"web"}, "")
			b.write("web", file, content)
			begin := Now()
			stop()
			signals, want := b.kernel.told(), []string{"web INT", "web CONT"}
			took, limit := round(Now().Sub(begin)), 0.0
			if b.kernel.deaf {
				want, limit = []string{"web TERM", "web CONT", "web group KILL"}, 3
			}
			if !slices.Equal(signals, want) || took != limit {
				t.Errorf("%s: got %q and %v s, want %q and %v s", file, signals, took, want, limit)
			}
		})
	}
}

func TestACircleOrADeafDependentDelaysNothingBeyondItsTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = time.Second
		v, stop := b.supervise()
		b.up(v, []string{"a"}, "b c")
		b.up(v, []string{"a", "b"}, "a b")
		b.up(v, []string{"a", "b", "c"}, "")
		b.kernel.deaf = true
		b.up(v, []string{"a", "b", "c", "deaf"}, "c")
		begin := Now()
		stop()
		if got, want := b.moments(begin), "a 0-1, b 0-1, c 10-11, deaf 0-10"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	// Not even KILL ends it: then that is what counts.
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.stopTime = time.Second
		v, stop := b.supervise()
		b.up(v, []string{"c"}, "")
		b.kernel.undead = true
		b.kernel.deaf = true
		b.up(v, []string{"c", "undead"}, "c")
		begin := Now()
		v.Shutdown()
		time.Sleep(20 * time.Second)
		if got, want := b.moments(begin), "c 10.25-11.25"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		b.kernel.mu.Lock()
		undead := b.kernel.running[102]
		b.kernel.mu.Unlock()
		b.kernel.end(undead, 9)
		stop()
	})
}

func TestAShutdownStartsNothingAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		v, stop := b.supervise()
		b.kernel.life = 30 * time.Second
		b.up(v, []string{"dies"}, "")
		b.kernel.life = 0
		b.kernel.stopTime = 5 * time.Second
		b.up(v, []string{"dies", "asked"}, "")
		b.kernel.stopTime = time.Minute
		b.config.Manner.Grace = 2 * time.Minute
		b.up(v, []string{"dies", "asked", "last"}, "dies asked fails")
		b.kernel.refuse = os.ErrPermission
		v.Found(entries("dies", "asked", "last", "fails"))
		b.expect("fails", "blocked")
		b.kernel.refuse = nil
		begin, starts := Now(), len(b.kernel.started())
		v.Shutdown()
		for _, k := range []Kind{Restart, Start, Once, Released} {
			for _, name := range []string{"asked", "fails", "dies"} {
				v.Deliver(name, order(k))
			}
		}
		b.expect("asked", "up")
		v.Deliver("asked", order(Stop)) // that still counts
		stop()
		// dies ends by itself while last stops.
		if got, want := b.moments(begin), "asked 0-5, dies 30-30, fails 0-0, last 0-60"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if n := len(b.kernel.started()) - starts; n != 0 {
			t.Errorf("got %d starts since, want none", n)
		}
	})
}

// Whatever the needs and in whatever order services end, each has its turn,
// and none before those that need it are gone.
func TestLawsOfFarewell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c", "d", "e", "f"}
		graph := make(needs.Graph)
		for _, name := range names {
			graph[name] = rapid.SliceOfN(rapid.SampledFrom(names), 0, 3).Draw(t, name)
		}
		before := graph.Dependents()
		f := newFarewell(graph)
		var told []string
		for _, name := range names {
			if f.turn(name) {
				told = append(told, name)
			}
		}
		gone := make(map[string]bool)
		for len(gone) < len(names) {
			if len(told) == 0 {
				t.Fatalf("stuck: gone are %v", gone)
			}
			name := rapid.SampledFrom(told).Draw(t, "gone")
			for _, dependent := range before[name] {
				if !gone[dependent] {
					t.Fatalf("%s was told before %s was gone", name, dependent)
				}
			}
			gone[name] = true
			told = slices.DeleteFunc(told, func(n string) bool { return n == name })
			told = append(told, f.gone(name)...)
			if again := f.gone(name); again != nil {
				t.Fatalf("the end of %s counted twice: %v", name, again)
			}
		}
	})
}

func TestWaitingIsNeitherLifeNorFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.life = 40 * time.Second
		b.run("late")
		b.write("late", rundir.Waited, "total 39.5\nsince 0\ncalls 1\n")
		time.Sleep(40 * time.Second)
		s := b.expect("late", "backoff")
		if s.RetryIn != time.Second || s.Cause != "exit 0 after 500ms and 40s of waiting" || s.Failures != 1 {
			t.Errorf("got retry-in %v, cause %q, failures %d", s.RetryIn, s.Cause, s.Failures)
		}
		// What it says of itself makes it no older, and is forgotten.
		time.Sleep(time.Second)
		b.expect("late", "up")
		if got := b.file("late", rundir.Waited); got != "absent" {
			t.Errorf("the next run has a past: %s", got)
		}
		b.write("late", rundir.Waited, "total 1e9\nsince 0\n")
		time.Sleep(40 * time.Second)
		if s := b.expect("late", "backoff"); s.RetryIn != 2*time.Second || s.Cause != "exit 0 after 0s and 40s of waiting" {
			t.Errorf("got retry-in %v, cause %q", s.RetryIn, s.Cause)
		}
		time.Sleep(2 * time.Second)
		b.expect("late", "up")
		b.write("late", rundir.Waited, "total -5\nsince x\n")
		time.Sleep(40 * time.Second)
		b.expect("late", "up") // a whole life
	})
}

// How often a run will wait is known from the last one of the same file.
func TestCallsAreRememberedForTheSameFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Sysdir = t.TempDir()
		file := filepath.Join(b.config.Sysdir, "web")
		if err := os.WriteFile(file, []byte("1"), 0o755); err != nil {
			t.Fatal(err)
		}
		s := b.run("web")
		again := func(after time.Duration, want int, what string) {
			t.Helper()
			time.Sleep(after)
			s.Tell(order(Restart))
			if got := b.expect("web", "up").Calls; got != want {
				t.Errorf("%s: got %d calls to come, want %d", what, got, want)
			}
		}
		if got := b.expect("web", "up").Calls; got != -1 {
			t.Errorf("at first: got %d, want -1", got)
		}
		again(31*time.Second, 0, "it did not call")
		again(20*time.Second, -1, "it had no time to")
		b.write("web", rundir.Waited, "total 0\nsince 0\ncalls 2\n")
		again(31*time.Second, 2, "it called twice")
		b.write("web", rundir.Waited, "total 5\nsince 0\ncalls 1\n")
		again(31*time.Second, -1, "it had no time besides waiting")
		again(31*time.Second, 0, "it did not call")
		if err := os.WriteFile(file, []byte("22"), 0o755); err != nil {
			t.Fatal(err)
		}
		again(31*time.Second, -1, "another file")
	})
}
