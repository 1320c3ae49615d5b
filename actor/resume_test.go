package actor

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// These tests are the second life of a service: what the daemon that was killed
// had written down, what has happened since, and what the next one makes of it.

// anyState draws a state that a daemon can have written down at a moment.
func anyState(t *rapid.T, now Moment) State {
	const reach = 400 * time.Hour
	moment := func(name string) Moment {
		return now.Add(time.Duration(rapid.Int64Range(-int64(reach), int64(reach)).Draw(t, name)))
	}
	maybe := func(name string) Moment {
		if rapid.Bool().Draw(t, name+" set") {
			return moment(name)
		}
		return 0
	}
	s := State{
		Phase:     rapid.SampledFrom(Phases).Draw(t, "phase"),
		Want:      rapid.SampledFrom(Wants).Draw(t, "want"),
		Since:     moment("since"),
		Due:       maybe("due"),
		KillAt:    maybe("kill-at"),
		Killed:    maybe("killed"),
		NotBefore: maybe("not-before"),
		Ended:     maybe("ended"),
		Failures:  rapid.Uint8Range(0, uint8(len(delays))).Draw(t, "failures"),
		Starts:    rapid.Int32Range(0, 1<<30).Draw(t, "starts"),
		Restarts:  rapid.Int32Range(0, 1<<30).Draw(t, "restarts"),
		LastExit:  parseEnding(rapid.SampledFrom([]string{"", "exit 1", "killed by KILL", "unknown", "exit by night"}).Draw(t, "exit")),
		Cause:     rapid.SampledFrom([]string{"", "asked to stop", stuck, "\"quoted\" / cause\n"}).Draw(t, "cause"),
	}
	if s.Phase == Up || s.Phase == Stopping {
		s.Group = rapid.Int32Range(2, 1<<22).Draw(t, "group")
		if s.Phase == Up || rapid.Bool().Draw(t, "led") {
			s.Pid = s.Group
		}
	}
	if (s.Phase == Stopping || s.Phase == Backoff) && s.Due.IsZero() {
		s.Due = moment("due")
	}
	if s.Group == 0 && (s.Want == WantGone || s.Want == WantDown && s.Phase != Down) {
		s.Phase, s.Want = Down, WantDown
	}
	return s
}

// reread is the record as the next daemon reads it from the file.
func reread(t *testing.T, r rundir.Record) rundir.Record {
	t.Helper()
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c, err := dir.Claim()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	records, _, err := c.Records()
	if err != nil || records == nil {
		t.Fatalf("records: %v", err)
	}
	if _, err := records.Write(0, r); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir.Path(), rundir.Private, "records"))
	if err != nil {
		t.Fatal(err)
	}
	r, ok := rundir.ParseRecord(data[len(data)/2:])
	if !ok {
		t.Fatalf("got %q", data)
	}
	return r
}

// TestAStateComesBackFromItsRecord: all of it but what the scanner knows better
// and the two spans that are words by then, and every moment as far away as it
// was, whatever the next daemon counts its Moments from.
func TestAStateComesBackFromItsRecord(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now, clock := Now(), 1000*time.Hour
		before := anyState(rt, now)
		r := before.record(now, clock)
		r.Name = "web"
		if rapid.IntRange(0, 20).Draw(rt, "file") == 0 {
			r = reread(t, r) // slower, and rundir has tests of its own for it
		}
		// The next daemon reads it a while later, and its Moments begin elsewhere.
		passed := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(rt, "passed"))
		later := now.Add(time.Duration(rapid.Int64Range(-1<<59, 1<<59).Draw(rt, "later")))
		after, ok := restored(r, later, clock+passed)
		if !ok {
			rt.Fatalf("refused: %+v", r)
		}
		b, a := reflect.ValueOf(&before).Elem(), reflect.ValueOf(&after).Elem()
		for i := range b.NumField() {
			name := b.Type().Field(i).Name
			switch old := b.Field(i).Interface().(type) {
			case Moment:
				now1 := a.Field(i).Interface().(Moment)
				if old.IsZero() != now1.IsZero() || !old.IsZero() && old.Sub(now) != now1.Sub(later)+passed {
					rt.Errorf("%s: got %v from then, want %v", name, now1.Sub(later)+passed, old.Sub(now))
				}
			default:
				if got := a.Field(i).Interface(); !reflect.DeepEqual(got, old) {
					rt.Errorf("%s: got %v, want %v", name, got, old)
				}
			}
		}
	})
}

// What a cause is made of is not kept; its words are.
func TestTheWordsOfACauseComeBack(t *testing.T) {
	now := Now()
	before := State{
		Phase: Backoff, Want: WantUp, Since: now, Due: now.Add(time.Second),
		Cause: byItself, LastExit: parseEnding("exit 3"), Life: 200 * time.Millisecond, Waited: 4 * time.Second, Bar: "not executable",
	}
	after, ok := restored(before.record(now, time.Hour), now, time.Hour)
	const want = "exit 3 after 200ms and 4s of waiting"
	if !ok || after.Why() != want || after.Cause != want {
		t.Errorf("got %q, %v, want %q", after.Why(), ok, want)
	}
	if after.Bar != "" || after.Life != 0 {
		t.Errorf("got bar %q, life %v, want neither: they are not in a record", after.Bar, after.Life)
	}
}

// Every state that Step comes to, by whatever way, can be taken over.
func TestEveryReachableStateCanBeTakenOver(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, w, now, starting := State{Since: t0}, world{pid: 100}, t0, false
		for i, c := range rapid.SliceOfN(rapid.Byte(), 60, 200).Draw(rt, "choices") {
			e, ok := w.event(c, s, starting, now)
			if !ok {
				continue
			}
			if e.Kind == Timer && e.At > now {
				now = e.At
			}
			now = now.Add(time.Duration(c) * 7 * time.Millisecond)
			e.At, e.Manner = now, rundir.Manner{Signal: unix.SIGTERM, Grace: time.Duration(i%3) * 5 * time.Second}
			var effects []Effect
			s, effects = Step(s, e)
			if slices.ContainsFunc(effects, func(f Effect) bool { return f.Action == Retire }) {
				return // its record is dropped
			}
			starting = slices.ContainsFunc(effects, func(f Effect) bool { return f.Action == Spawn })
			if slices.ContainsFunc(effects, func(f Effect) bool { return f.Signal == unix.SIGKILL }) {
				w.killed = true
			}
			after, ok := restored(s.record(now, 1000*time.Hour), now, 1000*time.Hour)
			if after.Bar = s.Bar; !ok || after.Phase != s.Phase || after.Want != s.Want || after.Group != s.Group || after.Pid != s.Pid {
				rt.Fatalf("after %v: got %+v, %v\nwant %+v", e.Kind, after, ok, s)
			}
		}
	})
}

// contradictory changes a good record of a phase into one that no daemon has
// written.
var contradictory = []struct {
	what   string
	phase  Phase
	change func(*rundir.Record)
}{
	{"up without a process", Up, func(r *rundir.Record) { r.Pid, r.Group = 0, 0 }},
	{"up without a main process", Up, func(r *rundir.Record) { r.Pid = 0 }},
	{"up, process and group differ", Up, func(r *rundir.Record) { r.Pid++ }},
	{"up without a group", Up, func(r *rundir.Record) { r.Group = 0 }},
	{"stopping without a group", Stopping, func(r *rundir.Record) { r.Pid, r.Group = 0, 0 }},
	{"stopping, never looked at again", Stopping, func(r *rundir.Record) { r.Due = 0 }},
	{"stopping, process and group differ", Stopping, func(r *rundir.Record) { r.Pid++ }},
	{"down with a process", Down, func(r *rundir.Record) { r.Pid, r.Group = 100, 100 }},
	{"down with a group", Down, func(r *rundir.Record) { r.Group = 100 }},
	{"back-off with a process", Backoff, func(r *rundir.Record) { r.Pid, r.Group = 100, 100 }},
	{"back-off without an end", Backoff, func(r *rundir.Record) { r.Due = 0 }},
	{"blocked with a group", Blocked, func(r *rundir.Record) { r.Group = 100 }},
	{"back-off, and to be down", Backoff, func(r *rundir.Record) { r.Wanted = "down" }},
	{"blocked, and to be down", Blocked, func(r *rundir.Record) { r.Wanted = "down" }},
	{"down, and to end", Down, func(r *rundir.Record) { r.Wanted = "gone" }},
	{"since never", Up, func(r *rundir.Record) { r.Since = 0 }},
}

// survivor is a process of the daemon before this one.
func (k *kernel) survivor(name string) *fake {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	p := &fake{pid: k.next, name: name, exited: make(chan reaper.Exit, 2),
		main: true, left: k.left, deaf: k.deaf, after: k.stopTime, undead: k.undead}
	k.running[p.pid] = p
	return p
}

// past is a good record of a service in a state, of a process if it has one.
func past(name string, s State, p *fake) rundir.Record {
	now := Now()
	if s.Since.IsZero() {
		s.Since = now.Add(-time.Minute)
	}
	if s.Phase == Up || s.Phase == Stopping {
		s.Group = int32(p.pid)
		if p.main {
			s.Pid = int32(p.pid)
		}
	}
	if (s.Phase == Stopping || s.Phase == Backoff) && s.Due.IsZero() {
		s.Due = now.Add(time.Hour)
	}
	r := s.record(now, rundir.Clock())
	r.Name = name
	if r.Group != 0 {
		r.From, r.To = 17, 18
	}
	return r
}

// locked writes a lock file and notes in a record that it was acted upon.
func (b *bench) locked(r *rundir.Record, content string) {
	b.t.Helper()
	b.write(r.Name, "lock", content)
	f, err := b.dir.Folder(r.Name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	stamp := f.Stamp("lock")
	r.HoldIno, r.HoldCtime = stamp.Ino, stamp.Ctime
}

// resume goes on with a service; at the end of the test it is shut down.
func (b *bench) resume(r rundir.Record, bar string) *Service {
	b.t.Helper()
	s := Resume(b.config, r, bar)
	done := make(chan struct{})
	go func() {
		s.Run(WantUp)
		close(done)
	}()
	b.t.Cleanup(func() {
		s.Shutdown()
		synctest.Wait()
		b.kernel.endAll() // also those that are deaf
		<-done
		if b.kernel.twins > 0 {
			b.t.Errorf("%d times two processes of one service", b.kernel.twins)
		}
	})
	synctest.Wait()
	return s
}

// endAll ends everything that runs.
func (k *kernel) endAll() {
	k.mu.Lock()
	var all []*fake
	for _, p := range k.running {
		all = append(all, p)
	}
	k.mu.Unlock()
	for _, p := range all {
		k.end(p, 0)
		k.drain(p)
	}
}

// adoptions are those that were asked for.
func (k *kernel) adoptions() []reaper.Adoption {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.adopted)
}

// check compares how often the service was adopted and started, and what it
// was told.
func (b *bench) check(adopted, started int, told ...string) {
	b.t.Helper()
	if got := len(b.kernel.adoptions()); got != adopted {
		b.t.Errorf("adopted: got %d times, want %d", got, adopted)
	}
	if got := len(b.kernel.started()); got != started {
		b.t.Errorf("started: got %d times, want %d", got, started)
	}
	if got := b.kernel.told(); !slices.Equal(got, told) {
		b.t.Errorf("told: got %q, want %q", got, told)
	}
}

// resumed runs a test of one service in virtual time.
func resumed(t *testing.T, name string, f func(*testing.T, *bench)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, newBench(t)) })
	})
}

// Each phase with each want, as the next daemon finds it while nothing has
// happened in between: no process is made that was there, and none is missing
// that is wanted.
func TestEveryPhaseAndWantGoesOn(t *testing.T) {
	for _, test := range []struct {
		phase   Phase
		want    Want
		lock    string // what holds it, already acted upon
		after   string
		wanted  string
		started int
	}{
		{Up, WantUp, "", "up", "up", 0},
		{Up, WantOnce, "once\n", "up", "once", 0},
		{Stopping, WantUp, "", "stopping", "up", 0},
		{Stopping, WantDown, "TERM\n", "stopping", "down", 0},
		{Stopping, WantOnce, "once\n", "stopping", "once", 0},
		{Stopping, WantGone, "", "stopping", "up", 0},         // it was to end with the daemon, or with
		{Stopping, WantGone, "TERM\n", "stopping", "down", 0}, // its entry, which is there again
		{Stopping, WantGone, "once\n", "stopping", "down", 0}, // it has run
		{Down, WantDown, "TERM\n", "down", "down", 0},
		{Down, WantDown, "once\n", "down", "down", 0}, // it has run
		{Down, WantUp, "", "up", "up", 1},             // its start had been asked for, and not begun
		{Backoff, WantUp, "", "backoff", "up", 0},
		{Backoff, WantOnce, "once\n", "backoff", "once", 0},
		{Blocked, WantUp, "", "up", "up", 1}, // tried again: the file may be another one
		{Blocked, WantOnce, "once\n", "up", "once", 1},
	} {
		resumed(t, test.phase.String()+" "+test.want.String()+" "+strings.TrimSpace(test.lock), func(t *testing.T, b *bench) {
			var p *fake
			adopted := 0
			if test.phase == Up || test.phase == Stopping {
				b.kernel.deaf = true
				p, adopted = b.kernel.survivor("web"), 1
			}
			r := past("web", State{Phase: test.phase, Want: test.want, Starts: 5, Restarts: 3}, p)
			if test.lock != "" {
				b.locked(&r, test.lock)
			}
			b.resume(r, "")
			status := b.expect("web", test.after)
			if status.Wanted != test.wanted || status.Starts != 5+test.started || status.Restarts != 3 {
				t.Errorf("got wanted %s, %d starts, %d restarts; want %s, %d, 3", status.Wanted, status.Starts, status.Restarts, test.wanted, 5+test.started)
			}
			b.check(adopted, test.started)
			time.Sleep(10 * time.Minute)
			if b.kernel.twins > 0 {
				t.Errorf("%d times two processes", b.kernel.twins)
			}
		})
	}
}

// A pair of phase and want that no daemon writes does no harm either.
func TestAnyPhaseAndWantDoesNoHarm(t *testing.T) {
	for _, phase := range Phases {
		for _, want := range Wants {
			for _, lock := range []string{"", "TERM\n", "KILL\n", "once\n", "\n"} {
				resumed(t, phase.String()+" "+want.String()+" "+strings.TrimSpace(lock), func(t *testing.T, b *bench) {
					var p *fake
					if phase == Up || phase == Stopping {
						p = b.kernel.survivor("web")
						time.AfterFunc(time.Hour, func() { b.kernel.end(p, 0) }) // at the latest
					}
					r := past("web", State{Phase: phase, Want: want}, p)
					if lock != "" {
						b.write("web", "lock", lock)
					}
					b.resume(r, "")
					time.Sleep(2 * time.Hour)
					synctest.Wait()
					status, held := b.status("web"), lock == "TERM\n" || lock == "KILL\n"
					if n := len(b.kernel.started()); n > 1 || held && status.Phase != "down" {
						t.Errorf("two hours later: got %s, wanted %s, after %d starts", status.Phase, status.Wanted, n)
					}
				})
			}
		}
	}
}

func TestARunningServiceIsAdoptedAsItIs(t *testing.T) {
	resumed(t, "alive", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		attended := ""
		b.config.Attend = func(name string) { attended = name }
		s := b.resume(past("web", State{Phase: Up, Want: WantUp, Starts: 4}, p), "")
		want := reaper.Adoption{Group: p.pid, Led: true, From: 17, To: 18, Mark: "SYSMGR_DIR=" + b.dir.Path() + "/web"}
		if got := b.kernel.adoptions(); !slices.Equal(got, []reaper.Adoption{want}) {
			t.Errorf("adopted: got %+v, want %+v", got, want)
		}
		status := b.expect("web", "up")
		if pid := b.file("web", "pid"); pid != "101" || b.file("web", "syspid") != "101" || status.Pid != 101 {
			t.Errorf("got pid %s, status %d; want 101", pid, status.Pid)
		}
		if age := time.Since(status.Since); age < time.Minute-time.Second || age > time.Minute+soon {
			t.Errorf("up for %v, want the minute that it was", age)
		}
		if attended != "web" {
			t.Errorf("attend: got %q: its requests are not taken", attended)
		}
		b.check(1, 0)
		// Orders reach it, and its end is heard.
		s.Tell(order(Stop))
		b.expect("web", "down")
		b.check(1, 0, "web TERM", "web CONT")
		s.Tell(order(Start))
		b.expect("web", "up")
	})
	resumed(t, "it had written a number of its own", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.write("web", "pid", "777\n")
		b.write("web", "syspid", "101\n")
		b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		b.expect("web", "up")
		if pid := b.file("web", "pid"); pid != "777" {
			t.Errorf("pid: got %s, want 777 still", pid)
		}
	})
	resumed(t, "numbers of a process that is gone", func(t *testing.T, b *bench) {
		b.write("web", "pid", "777\n")
		b.write("web", "syspid", "777\n")
		r := past("web", State{Phase: Down, Want: WantDown}, nil)
		b.locked(&r, "TERM\n")
		b.resume(r, "")
		if pid, sys := b.file("web", "pid"), b.file("web", "syspid"); pid != "absent" || sys != "absent" {
			t.Errorf("got pid %s, syspid %s, want them gone", pid, sys)
		}
	})
}

// soon is what real time may pass while a test in virtual time runs: the two
// clocks meet in a record.
const soon = 15 * time.Second

func TestAnEndThatNobodySawIsAnEnd(t *testing.T) {
	resumed(t, "kept alive", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Up, Want: WantUp, Starts: 4}, p)
		b.kernel.end(p, 0)
		b.resume(r, "")
		status := b.expect("web", "up")
		if status.LastExit != "unknown" || status.Starts != 5 || status.Restarts != 1 {
			t.Errorf("got last-exit %q, %d starts, %d restarts; want unknown, 5, 1", status.LastExit, status.Starts, status.Restarts)
		}
		time.Sleep(time.Hour)
		b.check(1, 1)
	})
	resumed(t, "once", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Up, Want: WantOnce, Starts: 1}, p)
		b.locked(&r, "once\n")
		b.kernel.end(p, 0)
		b.resume(r, "")
		b.expect("web", "down")
		time.Sleep(time.Hour)
		b.check(1, 0)
	})
	resumed(t, "stopping", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Stopping, Want: WantDown}, p)
		b.locked(&r, "TERM\n")
		b.kernel.end(p, 0)
		b.resume(r, "")
		b.expect("web", "down")
		time.Sleep(time.Hour)
		b.check(1, 0)
	})
	resumed(t, "restarting", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Stopping, Want: WantUp}, p)
		b.kernel.end(p, 0)
		b.resume(r, "")
		b.expect("web", "up")
		b.check(1, 1)
	})
}

func TestTheEndOfAnAdoptedServiceIsAnsweredLikeAnyOther(t *testing.T) {
	resumed(t, "restarted", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		b.kernel.end(p, 3<<8)
		if status := b.expect("web", "up"); status.LastExit != "exit 3" || status.Pid == p.pid {
			t.Errorf("got last-exit %q, pid %d; want exit 3 and another process", status.LastExit, status.Pid)
		}
		b.check(1, 1)
	})
	resumed(t, "its group is ended first", func(t *testing.T, b *bench) {
		b.kernel.left, b.kernel.stopTime = true, 3*time.Second
		p := b.kernel.survivor("web")
		b.kernel.left = false
		b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		b.kernel.end(p, 0)
		b.expect("web", "stopping")
		b.check(1, 0, "web group TERM", "web group CONT")
		time.Sleep(4 * time.Second)
		b.expect("web", "up")
	})
	resumed(t, "what was left in the group before", func(t *testing.T, b *bench) {
		b.kernel.left, b.kernel.stopTime = true, 3*time.Second
		p := b.kernel.survivor("web")
		b.kernel.left = false
		b.kernel.end(p, 0)
		<-p.exited // which the last daemon heard
		b.resume(past("web", State{Phase: Stopping, Want: WantUp}, p), "")
		if got := b.kernel.adoptions(); len(got) != 1 || got[0].Led || got[0].Group != p.pid {
			t.Fatalf("adopted: got %+v, want the group without a leader", got)
		}
		b.expect("web", "stopping")
		time.Sleep(time.Minute)
		b.check(1, 0)
		b.kernel.drain(p)
		b.expect("web", "up")
		b.check(1, 1)
	})
}

func TestHeldStaysHeld(t *testing.T) {
	resumed(t, "by its lock", func(t *testing.T, b *bench) {
		r := past("web", State{Phase: Down, Want: WantDown, Cause: "asked to stop"}, nil)
		b.locked(&r, "TERM\n")
		b.resume(r, "")
		time.Sleep(24 * time.Hour)
		if status := b.expect("web", "down"); status.Wanted != "down" || status.Cause != "asked to stop" {
			t.Errorf("got wanted %s, cause %q; want down, asked to stop", status.Wanted, status.Cause)
		}
		b.check(0, 0)
	})
	resumed(t, "although its lock could never be written", func(t *testing.T, b *bench) {
		b.resume(past("web", State{Phase: Down, Want: WantDown}, nil), "")
		time.Sleep(time.Hour)
		b.expect("web", "down")
		if lock := b.file("web", "lock"); lock != "TERM" {
			t.Errorf("lock: got %s, want it written now", lock)
		}
		b.check(0, 0)
	})
	resumed(t, "once, although its lock could never be written", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.resume(past("web", State{Phase: Up, Want: WantOnce}, p), "")
		b.expect("web", "up")
		if lock := b.file("web", "lock"); lock != "once" {
			t.Errorf("lock: got %s, want once written now", lock)
		}
		b.kernel.end(p, 0)
		b.expect("web", "down")
		b.check(1, 0)
	})
	resumed(t, "with something odd for a lock", func(t *testing.T, b *bench) {
		if err := os.MkdirAll(filepath.Join(b.dir.Path(), "web", "lock"), 0o755); err != nil {
			t.Fatal(err)
		}
		b.resume(past("web", State{Phase: Backoff, Want: WantUp}, nil), "")
		time.Sleep(2 * time.Hour)
		b.expect("web", "down")
		b.check(0, 0)
	})
}

// Who had the lock written or removed while there was no daemon has given an
// order.
func TestOrdersByLockWhileThereWasNoDaemonAreDone(t *testing.T) {
	resumed(t, "TERM", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.write("web", "lock", "TERM\n")
		b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		b.expect("web", "down")
		b.check(1, 0, "web TERM", "web CONT")
	})
	resumed(t, "KILL", func(t *testing.T, b *bench) {
		b.kernel.deaf = true
		p := b.kernel.survivor("web")
		b.write("web", "lock", "KILL\n")
		b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		b.expect("web", "down")
		b.check(1, 0, "web group KILL")
	})
	resumed(t, "KILL while stopping", func(t *testing.T, b *bench) {
		b.kernel.deaf = true
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Stopping, Want: WantDown}, p)
		b.locked(&r, "TERM\n")
		os.Remove(filepath.Join(b.dir.Path(), "web", "lock"))
		b.write("web", "lock", "KILL\n")
		b.resume(r, "")
		b.expect("web", "down")
		b.check(1, 0, "web group KILL")
	})
	resumed(t, "an empty lock", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.write("web", "lock", "")
		b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		b.expect("web", "down")
	})
	resumed(t, "once, of what runs", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.write("web", "lock", "once\n")
		b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		if status := b.expect("web", "up"); status.Wanted != "once" {
			t.Errorf("wanted: got %s, want once", status.Wanted)
		}
		b.kernel.end(p, 0)
		b.expect("web", "down")
		time.Sleep(time.Hour)
		b.check(1, 0)
	})
	resumed(t, "once, of what is held", func(t *testing.T, b *bench) {
		r := past("web", State{Phase: Down, Want: WantDown}, nil)
		b.locked(&r, "TERM\n")
		b.write("web", "lock.new", "once\n")
		if err := os.Rename(filepath.Join(b.dir.Path(), "web", "lock.new"), filepath.Join(b.dir.Path(), "web", "lock")); err != nil {
			t.Fatal(err)
		}
		b.kernel.life = time.Second
		b.resume(r, "")
		b.expect("web", "up")
		time.Sleep(time.Hour)
		b.expect("web", "down")
		b.check(0, 1)
	})
	resumed(t, "removed", func(t *testing.T, b *bench) {
		r := past("web", State{Phase: Down, Want: WantDown}, nil)
		r.HoldIno, r.HoldCtime = 4711, 1
		b.resume(r, "")
		b.expect("web", "up")
		if lock := b.file("web", "lock"); lock != "absent" {
			t.Errorf("lock: got %s, want none", lock)
		}
		b.check(0, 1)
	})
	resumed(t, "removed while stopping", func(t *testing.T, b *bench) {
		b.kernel.deaf = true
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Stopping, Want: WantDown}, p)
		r.HoldIno, r.HoldCtime = 4711, 1
		b.resume(r, "")
		if status := b.expect("web", "stopping"); status.Wanted != "up" {
			t.Errorf("wanted: got %s, want up", status.Wanted)
		}
		b.kernel.end(p, 0)
		b.expect("web", "up")
		b.check(1, 1)
	})
	resumed(t, "removed from what was to run once", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Up, Want: WantOnce}, p)
		r.HoldIno, r.HoldCtime = 4711, 1
		b.resume(r, "")
		if status := b.expect("web", "up"); status.Wanted != "up" {
			t.Errorf("wanted: got %s, want up", status.Wanted)
		}
		b.check(1, 0)
	})
	resumed(t, "written while it waited", func(t *testing.T, b *bench) {
		b.write("web", "lock", "TERM\n")
		b.resume(past("web", State{Phase: Backoff, Want: WantUp}, nil), "")
		b.expect("web", "down")
		b.check(0, 0)
	})
}

// It is removed again when the actor has read it and has not yet acted upon it:
// control, which attends to the service just then, never sees it.
func TestALockThatGoesWhileADaemonTakesOverHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		p := b.kernel.survivor("web")
		b.write("web", "lock", "TERM\n")
		s := Resume(b.config, past("web", State{Phase: Up, Want: WantUp}, p), "")
		b.config.Attend = func(string) {
			os.Remove(filepath.Join(b.dir.Path(), "web", "lock"))
			s.Tell(Order{Event: Event{Kind: Released}})
		}
		go s.Run(WantUp)
		time.Sleep(time.Minute)
		b.expect("web", "up")
		s.Shutdown()
		synctest.Wait()
		b.kernel.endAll()
		synctest.Wait()
	})
}

func TestAOnceThatHasRunIsNotRepeated(t *testing.T) {
	resumed(t, "same lock", func(t *testing.T, b *bench) {
		r := past("web", State{Phase: Down, Want: WantDown, Starts: 1, LastExit: parseEnding("exit 0")}, nil)
		b.locked(&r, "once\n")
		b.resume(r, "")
		time.Sleep(time.Hour)
		if status := b.expect("web", "down"); status.LastExit != "exit 0" || status.Starts != 1 {
			t.Errorf("got last-exit %q, %d starts; want those of the run", status.LastExit, status.Starts)
		}
		b.check(0, 0)
	})
}

func TestBackoffGoesOnWithWhatIsLeftOfIt(t *testing.T) {
	resumed(t, "half way", func(t *testing.T, b *bench) {
		now := Now()
		b.kernel.life = 1
		r := past("web", State{
			Phase: Backoff, Want: WantUp, Since: now.Add(-30 * time.Second), Due: now.Add(30 * time.Second),
			Failures: 3, Cause: "exit 1 after 0s", LastExit: parseEnding("exit 1"), Starts: 9,
		}, nil)
		s := b.resume(r, "")
		status := b.expect("web", "backoff")
		if status.RetryIn != time.Minute || status.Failures != 3 || status.Cause != "exit 1 after 0s" {
			t.Errorf("got retry-in %v, %d failures, %q; want as before", status.RetryIn, status.Failures, status.Cause)
		}
		b.config.restless.Lock()
		_, restless := b.config.restless.names["web"]
		b.config.restless.Unlock()
		if !restless {
			t.Error("the scanner does not watch its file")
		}
		time.Sleep(30*time.Second - soon)
		b.check(0, 0)
		time.Sleep(soon)
		b.check(0, 1)
		// And the ladder from the step where it was.
		if status := b.expect("web", "backoff"); status.RetryIn != delays[3] || status.Failures != 4 || status.Starts != 10 {
			t.Errorf("got retry-in %v, %d failures, %d starts; want %v, 4, 10", status.RetryIn, status.Failures, status.Starts, delays[3])
		}
		b.kernel.life = 0
		s.Tell(order(Start))
		b.expect("web", "up")
	})
	resumed(t, "over meanwhile", func(t *testing.T, b *bench) {
		r := past("web", State{Phase: Backoff, Want: WantUp, Due: Now().Add(-time.Second)}, nil)
		b.resume(r, "")
		b.expect("web", "up")
		b.check(0, 1)
	})
	resumed(t, "an end after that is judged by the one before", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		now := Now()
		r := past("web", State{Phase: Up, Want: WantUp, Since: now.Add(-2 * time.Second), Ended: now.Add(-10 * time.Second)}, p)
		b.resume(r, "")
		b.kernel.end(p, 1<<8)
		b.expect("web", "backoff") // twice within 30 s
	})
	resumed(t, "the delay that an end has earned", func(t *testing.T, b *bench) {
		b.kernel.left, b.kernel.deaf = true, true
		p := b.kernel.survivor("web")
		b.kernel.left = false
		now := Now()
		b.kernel.end(p, 0)
		<-p.exited
		r := past("web", State{Phase: Stopping, Want: WantUp, NotBefore: now.Add(30 * time.Second), Cause: "x"}, p)
		b.resume(r, "")
		b.kernel.drain(p)
		b.expect("web", "backoff")
		time.Sleep(30 * time.Second)
		b.expect("web", "up")
	})
}

func TestAStopGoesOnWithItsOldDeadline(t *testing.T) {
	resumed(t, "KILL at the time-out", func(t *testing.T, b *bench) {
		b.kernel.deaf = true
		p := b.kernel.survivor("web")
		at := Now().Add(30 * time.Second)
		r := past("web", State{Phase: Stopping, Want: WantDown, Due: Now().Add(10 * time.Second), KillAt: at}, p)
		b.locked(&r, "TERM\n")
		b.resume(r, "")
		time.Sleep(30*time.Second - soon)
		b.expect("web", "stopping")
		b.check(1, 0) // it has had its TERM
		time.Sleep(soon)
		b.expect("web", "down")
		b.check(1, 0, "web group KILL")
	})
	resumed(t, "past meanwhile", func(t *testing.T, b *bench) {
		b.kernel.deaf = true
		p := b.kernel.survivor("web")
		already := Now().Add(-time.Second)
		b.resume(past("web", State{Phase: Stopping, Want: WantUp, Due: already, KillAt: already}, p), "")
		b.expect("web", "up")
		b.check(1, 1, "web group KILL")
	})
	resumed(t, "never", func(t *testing.T, b *bench) {
		b.kernel.deaf = true
		p := b.kernel.survivor("web")
		r := past("web", State{Phase: Stopping, Want: WantDown}, p)
		b.locked(&r, "TERM\n")
		b.resume(r, "")
		time.Sleep(24 * time.Hour)
		b.expect("web", "stopping")
		b.check(1, 0)
		b.kernel.end(p, 0)
		b.expect("web", "down")
	})
	resumed(t, "killed already", func(t *testing.T, b *bench) {
		b.kernel.undead = true
		p := b.kernel.survivor("web")
		now := Now()
		r := past("web", State{Phase: Stopping, Want: WantDown, Due: now.Add(time.Second), Killed: now.Add(-time.Second)}, p)
		b.locked(&r, "TERM\n")
		b.resume(r, "")
		time.Sleep(time.Minute)
		if status := b.expect("web", "stopping"); status.Cause != stuck {
			t.Errorf("cause: got %q, want %q", status.Cause, stuck)
		}
		b.kernel.end(p, syscall.WaitStatus(unix.SIGKILL))
		b.expect("web", "down")
	})
}

// findable makes a process one that the last daemon started, without living to
// write it down.
func (b *bench) findable(p *fake) {
	b.kernel.mu.Lock()
	defer b.kernel.mu.Unlock()
	b.kernel.findable = map[string]int{"SYSMGR_DIR=" + b.dir.Path() + "/web": p.pid}
}

// underWay is the record of a start that was begun.
func underWay(name string, want Want) rundir.Record {
	r := past(name, State{Phase: Down, Want: want, Starts: 1}, nil)
	r.From = 17
	return r
}

func TestAStartThatWasUnderWayIsNotMadeTwice(t *testing.T) {
	resumed(t, "found", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.findable(p)
		s := b.resume(underWay("web", WantUp), "")
		status := b.expect("web", "up")
		if status.Pid != p.pid || b.file("web", "pid") != "101" || status.Starts != 2 || status.Wanted != "up" {
			t.Errorf("got %+v, want process %d, its second start", status, p.pid)
		}
		want := reaper.Adoption{Group: p.pid, Led: true, From: 1, To: 2, Mark: s.mark()}
		if got := b.kernel.adoptions(); !slices.Equal(got, []reaper.Adoption{want}) {
			t.Errorf("adopted: got %+v, want what was found, %+v", got, want)
		}
		b.check(1, 0)
		// From then on it is like any other, and the next start is made.
		b.kernel.end(p, 0)
		time.Sleep(time.Minute)
		if status := b.expect("web", "up"); status.Pid == p.pid {
			t.Error("got the old process")
		}
		b.check(1, 1)
	})
	resumed(t, "not found", func(t *testing.T, b *bench) {
		b.resume(underWay("web", WantUp), "")
		b.expect("web", "up")
		time.Sleep(time.Hour)
		b.check(0, 1)
	})
	resumed(t, "found, to run once", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.findable(p)
		r := underWay("web", WantOnce)
		b.locked(&r, "once\n")
		b.resume(r, "")
		if status := b.expect("web", "up"); status.Wanted != "once" || status.Pid != p.pid {
			t.Errorf("got wanted %s, pid %d; want once, %d", status.Wanted, status.Pid, p.pid)
		}
		b.kernel.end(p, 0)
		b.expect("web", "down")
		b.check(1, 0)
	})
	resumed(t, "not found, to run once", func(t *testing.T, b *bench) {
		r := underWay("web", WantOnce)
		b.locked(&r, "once\n")
		s := b.resume(r, "")
		time.Sleep(time.Hour)
		status := b.expect("web", "down")
		if !strings.Contains(status.Cause, "may have run") {
			t.Errorf("cause: got %q, want that it may have run", status.Cause)
		}
		b.check(0, 0)
		s.Tell(order(Once)) // it is not held for ever
		b.expect("web", "up")
		b.check(0, 1)
	})
	resumed(t, "found, held meanwhile", func(t *testing.T, b *bench) {
		b.findable(b.kernel.survivor("web"))
		b.write("web", "lock", "TERM\n")
		b.resume(underWay("web", WantUp), "")
		b.expect("web", "down")
		b.check(1, 0, "web TERM", "web CONT")
	})
	resumed(t, "not found, held meanwhile", func(t *testing.T, b *bench) {
		b.write("web", "lock", "TERM\n")
		s := b.resume(underWay("web", WantUp), "")
		time.Sleep(time.Hour)
		b.expect("web", "down")
		b.check(0, 0)
		s.Tell(order(Start))
		b.expect("web", "up")
		b.check(0, 1)
	})
	resumed(t, "not found, once asked for meanwhile", func(t *testing.T, b *bench) {
		b.write("web", "lock", "once\n")
		b.resume(underWay("web", WantUp), "")
		if status := b.expect("web", "up"); status.Wanted != "once" {
			t.Errorf("wanted: got %s, want once", status.Wanted)
		}
		b.check(0, 1)
	})
	resumed(t, "found, stopped right after", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.findable(p)
		s := b.resume(underWay("web", WantUp), "")
		s.Tell(order(Stop))
		b.expect("web", "down")
		b.check(1, 0, "web TERM", "web CONT")
	})
	resumed(t, "never begun", func(t *testing.T, b *bench) {
		// Then whoever bears the mark is somebody else.
		b.findable(b.kernel.survivor("other"))
		r := underWay("web", WantUp)
		r.From = 0
		b.resume(r, "")
		b.expect("web", "up")
		b.check(0, 1)
	})
}

// Its file may be unfit by now: what was started of it runs all the same, and
// a stop has to find it.
func TestAStartThatWasUnderWayIsFoundAlthoughItsFileIsUnfitNow(t *testing.T) {
	resumed(t, "found", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.findable(p)
		s := b.resume(underWay("web", WantUp), "not executable")
		if status := b.expect("web", "up"); status.Pid != p.pid {
			t.Errorf("pid: got %d, want %d", status.Pid, p.pid)
		}
		s.Tell(order(Restart))
		if status := b.expect("web", "blocked"); status.Cause != "not executable" {
			t.Errorf("cause: got %q, want not executable", status.Cause)
		}
		b.check(1, 0, "web TERM", "web CONT")
	})
	resumed(t, "not found", func(t *testing.T, b *bench) {
		s := b.resume(underWay("web", WantUp), "not executable")
		time.Sleep(time.Hour)
		if status := b.expect("web", "blocked"); status.Cause != "not executable" || status.Wanted != "up" {
			t.Errorf("got cause %q, wanted %s; want not executable, up", status.Cause, status.Wanted)
		}
		b.check(0, 0)
		s.tell(Event{Kind: Appeared})
		b.expect("web", "up")
		b.check(0, 1)
	})
}

// Its child has the guard until it has executed: that is waited for, and an
// order that comes meanwhile is not lost.
func TestAStartThatStillHangsIsWaitedFor(t *testing.T) {
	resumed(t, "and adopted", func(t *testing.T, b *bench) {
		f, err := b.dir.MakeFolder("web")
		if err != nil {
			t.Fatal(err)
		}
		guard, err := f.Grab() // as the child has it
		if err != nil {
			t.Fatal(err)
		}
		p := b.kernel.survivor("web")
		s := Resume(b.config, underWay("web", WantUp), "")
		done := make(chan struct{})
		go func() { s.Run(WantUp); close(done) }()
		time.Sleep(5 * time.Second)
		if status := b.status("web"); status.Cause != "its start hangs" {
			t.Errorf("cause: got %q, want its start hangs", status.Cause)
		}
		b.check(0, 0)
		s.Tell(order(Stop))
		b.findable(p) // it has executed
		guard.Release()
		f.Close()
		time.Sleep(time.Second)
		b.expect("web", "down")
		b.check(1, 0, "web TERM", "web CONT")
		s.Shutdown()
		<-done
	})
}

func TestABlockedServiceIsLookedAtAgain(t *testing.T) {
	resumed(t, "still unfit", func(t *testing.T, b *bench) {
		now := Now().Add(-time.Hour)
		s := b.resume(past("web", State{Phase: Blocked, Want: WantUp, Since: now, Cause: "not executable"}, nil), "not executable")
		time.Sleep(time.Hour)
		b.expect("web", "blocked")
		b.check(0, 0)
		s.tell(Event{Kind: Appeared})
		b.expect("web", "up")
	})
	resumed(t, "held meanwhile", func(t *testing.T, b *bench) {
		b.write("web", "lock", "TERM\n")
		b.resume(past("web", State{Phase: Blocked, Want: WantUp}, nil), "not executable")
		b.expect("web", "down")
		b.check(0, 0)
	})
}

// A record that makes no sense is no reason to touch anybody.
func TestAContradictoryRecordBeginsAnew(t *testing.T) {
	for _, test := range contradictory {
		resumed(t, test.what, func(t *testing.T, b *bench) {
			stranger := b.kernel.survivor("stranger")
			r := past("web", State{Phase: test.phase, Want: WantUp, Starts: 7}, stranger)
			if _, ok := restored(r, Now(), rundir.Clock()); !ok {
				t.Fatal("refused before the change")
			}
			test.change(&r)
			b.resume(r, "")
			if status := b.expect("web", "up"); status.Starts != 1 || status.Pid == stranger.pid {
				t.Errorf("got %+v, want a first start", status)
			}
			b.check(0, 1)
		})
		resumed(t, test.what+", held", func(t *testing.T, b *bench) {
			r := past("web", State{Phase: test.phase, Want: WantUp}, b.kernel.survivor("stranger"))
			test.change(&r)
			b.write("web", "lock", "TERM\n")
			b.resume(r, "")
			b.expect("web", "down")
			b.check(0, 0)
		})
	}
}

// Whoever waited for an answer of the last daemon finds it still.
func TestAnswersAreKept(t *testing.T) {
	resumed(t, "ids", func(t *testing.T, b *bench) {
		p := b.kernel.survivor("web")
		b.write("web", "status", string(rundir.Status{Phase: "up", Wanted: "up", Pid: p.pid, Requests: []string{"id2", "id1"}, Refused: "id1 no sense"}.Encode()))
		s := b.resume(past("web", State{Phase: Up, Want: WantUp}, p), "")
		status := b.expect("web", "up")
		if !slices.Equal(status.Requests, []string{"id2", "id1"}) || status.Refused != "id1 no sense" {
			t.Errorf("got %q, %q; want both ids and the refusal", status.Requests, status.Refused)
		}
		o := order(Restart)
		o.ID = "id3"
		s.Tell(o)
		synctest.Wait()
		if status := b.status("web"); !slices.Equal(status.Requests, []string{"id3", "id2", "id1"}) {
			t.Errorf("got %q, want the new one too", status.Requests)
		}
	})
}

// A service writes its record where it was, all of it, so that the next daemon
// can do the same.
func TestAThirdDaemonTakesOverWhatTheSecondDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		claim, err := b.dir.Claim()
		if err != nil {
			t.Fatal(err)
		}
		defer claim.Release()
		records, _, err := claim.Records()
		if err != nil || records == nil {
			t.Fatalf("records: %v", err)
		}
		p := b.kernel.survivor("web")
		first := past("web", State{Phase: Up, Want: WantUp, Starts: 4, Failures: 2, Restarts: 3}, p)
		b.config.Records = records
		if _, err := records.Write(0, past("other", State{Phase: Down, Want: WantDown}, nil)); err != nil {
			t.Fatal(err)
		}
		if _, err := records.Write(0, first); err != nil {
			t.Fatal(err)
		}
		read := func() (all []rundir.Record) {
			data, err := os.ReadFile(filepath.Join(b.dir.Path(), rundir.Private, "records"))
			if err != nil {
				t.Fatal(err)
			}
			const length = 1024
			for at := length; at < len(data); at += length {
				if r, ok := rundir.ParseRecord(data[at : at+length]); ok {
					all = append(all, r)
				}
			}
			return all
		}
		again, r, err := claim.Records() // as the next daemon does
		if err != nil || len(r) != 2 {
			t.Fatalf("got %+v, %v, want both records", r, err)
		}
		b.config.Records = again
		s := b.resume(r[1], "")
		got := read()
		if len(got) != 2 {
			t.Fatalf("got %d records, want 2 still", len(got))
		}
		second := got[1]
		if d := second.Since - first.Since; d < -soon || d > soon {
			t.Errorf("since: got %v away from what it was", d)
		}
		second.Since = first.Since
		if second != first {
			t.Errorf("got  %+v\nwant %+v", second, first)
		}
		s.Tell(order(Stop))
		b.expect("web", "down")
		if got := read(); len(got) != 2 || got[1].Wanted != "down" || got[1].Pid != 0 || got[1].From != 0 || got[1].HoldIno == 0 && b.file("web", "lock") != "absent" {
			t.Errorf("stopped: got %+v", got)
		}
	})
}

// The supervisor takes over each service once: those whose entries are there,
// and those whose entries went meanwhile, which are ended.
func TestServicesWhoseEntriesWentAreEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		here, gone := b.kernel.survivor("here"), b.kernel.survivor("gone")
		held := past("held", State{Phase: Down, Want: WantDown}, nil)
		b.locked(&held, "TERM\n")
		v := NewSupervisor(b.config,
			past("here", State{Phase: Up, Want: WantUp}, here), past("gone", State{Phase: Up, Want: WantUp}, gone), held)
		done := make(chan struct{})
		go func() { v.Run(); close(done) }()
		synctest.Wait()
		select {
		case <-v.Begun():
			t.Error("begun before the entries are known")
		default:
		}
		b.check(0, 0)
		// What is new may be what is gone, renamed: it waits for its end.
		gone.after = 3 * time.Second
		v.Found(entries("here:1", "held:2", "new:3"))
		synctest.Wait()
		<-v.Begun()
		v.Early(entries("early:6")[0]) // and so may this be
		synctest.Wait()
		b.check(2, 0, "gone TERM", "gone CONT")
		for range 2 {
			if s := b.expect("new", "blocked"); s.Cause != "perhaps renamed from gone, which has not stopped yet" {
				t.Errorf("new: got cause %q", s.Cause)
			}
			v.Found(entries("here:1", "held:2", "new:4")) // and touched: it is still not known
		}
		time.Sleep(3 * time.Second)
		b.check(2, 1, "gone TERM", "gone CONT")
		if pid := b.expect("here", "up").Pid; pid != here.pid {
			t.Errorf("here: got process %d, want %d", pid, here.pid)
		}
		b.expect("held", "down")
		b.expect("new", "up")
		if status := b.file("gone", "status"); status != "absent" {
			t.Errorf("gone: got %q, want no folder any more", status)
		}
		// Its name is free: a new entry is a new service.
		v.Found(entries("here:1", "held:2", "new:4", "gone:5"))
		if status := b.expect("gone", "up"); status.Starts != 1 {
			t.Errorf("gone, back again: got %d starts, want 1", status.Starts)
		}
		v.Shutdown()
		<-done
		if b.kernel.twins > 0 {
			t.Errorf("%d times two processes of one service", b.kernel.twins)
		}
	})
}
