package actor

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// world is a service's processes as the kernel would have them, and what may
// happen to them next.
type world struct {
	main   bool // the main process lives
	others int  // so many others live in its group
	pid    int  // of the group
	killed bool // KILL went to the group
}

// walk feeds Step with what the bytes choose among the events that can
// happen, the way the actor would, and holds it to the laws.
func walk(t *testing.T, choices []byte) {
	s := State{}
	w := world{pid: 100}
	now := t0
	starting, retired := false, false
	var trail []string
	fail := func(format string, args ...any) {
		t.Helper()
		t.Logf("trail: %v", trail)
		t.Fatalf(format+" (state %+v, world %+v)", append(args, s, w)...)
	}
	for i, c := range choices {
		e, ok := w.event(c, s, starting, now)
		if !ok {
			continue
		}
		if e.Kind == Timer && e.At > now {
			now = e.At
		}
		now = now.Add(time.Duration(c) * 7 * time.Millisecond)
		e.At = now
		e.Manner = rundir.Manner{Signal: unix.SIGTERM, Grace: time.Duration(i%3) * 5 * time.Second}
		old := s
		var effects []Effect
		s, effects = Step(s, e)
		trail = append(trail, e.Kind.String()+">"+s.Phase.String()+"/"+s.Want.String())
		if len(trail) > 12 {
			trail = trail[1:]
		}
		starting = false
		for _, f := range effects {
			switch f.Action {
			case Spawn:
				if w.main || w.others > 0 {
					fail("two processes: spawn while one lives")
				}
				if starting || retired {
					fail("spawn twice, or after the end")
				}
				starting = true
			case Tell:
				if s.Pid == 0 || !w.main {
					fail("signal %v to a main process that is not there", f.Signal)
				}
			case TellGroup:
				if s.Group == 0 || !w.main && w.others == 0 {
					fail("signal %v to a group that is not there", f.Signal)
				}
				if f.Signal == unix.SIGKILL {
					early := e.Kind != Kill && (old.Killed.IsZero() && (old.KillAt.IsZero() || now.Before(old.KillAt)))
					if early {
						fail("KILL before the time-out")
					}
					w.killed = true
				}
			case Retire:
				if w.main || w.others > 0 || s.Want != WantGone {
					fail("retired while something lives or is wanted")
				}
				if retired {
					fail("retired twice")
				}
				retired = true
			}
		}
		has := s.Phase == Up || s.Phase == Stopping
		if has != (s.Group != 0) {
			fail("a process number is held exactly in the phases that have a process")
		}
		if s.Pid != 0 && s.Pid != s.Group || s.Phase == Up && s.Pid == 0 {
			fail("main process and group disagree")
		}
		if (s.Phase == Backoff || s.Phase == Stopping) && s.Due.IsZero() {
			fail("no timer")
		}
		if s.Phase == Stopping && !s.KillAt.IsZero() && s.Due > s.KillAt {
			fail("the timer comes after the time-out")
		}
		if s.Phase == Down && (s.Want == WantUp || s.Want == WantOnce) && !starting {
			fail("down and wanted up, at rest")
		}
		if s.Phase == Blocked && s.Bar == "" && s.Due.IsZero() {
			fail("blocked for no known reason, for ever")
		}
		if s.Phase == Backoff && (s.Retry() <= 0 || s.Retry() > 30*time.Second) {
			fail("delay %v", s.Retry())
		}
		if !has && s.Phase != Up && (!s.KillAt.IsZero() || !s.Killed.IsZero()) {
			fail("a stop goes on without a process")
		}
		gone := old.Want == WantGone
		switch e.Kind {
		case Stop, Kill:
			if !gone && s.Want != WantDown {
				fail("a stop was lost")
			}
		case Start, Restart:
			if !gone && s.Want != WantUp {
				fail("a start was lost")
			}
		case Shutdown, Removed:
			if s.Want != WantGone {
				fail("a dismissal was lost")
			}
		}
		if retired && (s.Phase != Down || s.Want != WantGone) {
			fail("something after the end")
		}
	}
}

// event turns a byte into something that can happen now; ok is false if the
// choice cannot.
func (w *world) event(c byte, s State, starting bool, now Moment) (e Event, ok bool) {
	if starting {
		// The answer to a Spawn comes before everything else.
		if c%8 < 3 {
			return Event{Kind: Refused, Refusal: Refusal(c % 3), Cause: "cause"}, true
		}
		w.main, w.killed = true, false
		w.pid++
		return Event{Kind: Started, Pid: w.pid}, true
	}
	switch k := Kinds[int(c)%len(Kinds)]; k {
	case Started, Refused:
		return e, false
	case Exited:
		if !w.main {
			return e, false
		}
		w.main = false
		w.others = int(c>>4) % 3
		if w.killed {
			w.others = 0
		}
		return Event{Kind: Exited, Exit: syscall.WaitStatus(c), Alone: w.others == 0}, true
	case Drained:
		if w.main || w.others == 0 {
			return e, false
		}
		w.others = 0
		return Event{Kind: Drained}, true
	case Timer:
		if s.Due.IsZero() {
			return Event{Kind: Timer}, true // an old one
		}
		return Event{Kind: Timer, At: s.Due}, true
	case Appeared:
		e = Event{Kind: k}
		if c&0x80 != 0 {
			e.Bar = "not executable"
		}
		return e, true
	default:
		return Event{Kind: k, Signal: unix.SIGHUP}, true
	}
}

func FuzzStepKeepsItsLaws(f *testing.F) {
	f.Add([]byte{0, 5, 12, 5, 14, 1, 12, 13})
	f.Fuzz(walk)
}

// The same with chance for a guide, in every run of the tests.
func TestStepKeepsItsLaws(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	for range 3000 {
		choices := make([]byte, 300)
		for i := range choices {
			choices[i] = byte(r.Uint32())
		}
		walk(t, choices)
	}
}

// Step answers every event in every state, reachable or not, without panic,
// and never with two processes at once.
func TestStepIsTotal(t *testing.T) {
	for _, p := range Phases {
		for _, w := range Wants {
			for _, pid := range []int32{0, 9} {
				for _, h := range happenings() {
					s := State{Phase: p, Want: w, Pid: pid, Group: pid}
					_, effects := Step(s, h.event)
					for _, e := range effects {
						if e.Action == Spawn && pid != 0 && h.event.Kind != Exited && h.event.Kind != Drained && (p == Up || p == Stopping) {
							t.Errorf("%v/%v with a process, %s: got a spawn", p, w, h.name)
						}
					}
				}
			}
		}
	}
}

// life walks a service through ends of the given lives and returns the delay
// after each.
func life(t *testing.T, lives ...time.Duration) []time.Duration {
	t.Helper()
	now := t0
	s, effects := Step(State{}, Event{Kind: Start, At: now})
	var delays []time.Duration
	for _, l := range lives {
		if len(effects) != 1 || effects[0].Action != Spawn {
			t.Fatalf("got effects %v, want a spawn", effects)
		}
		s, _ = Step(s, Event{Kind: Started, At: now, Pid: 9})
		now = now.Add(l)
		s, effects = Step(s, Event{Kind: Exited, At: now, Alone: true, Exit: 1 << 8})
		delay := time.Duration(0)
		if s.Phase == Backoff {
			delay = s.Due.Sub(now)
			if delay != s.Retry() {
				t.Errorf("retry-in %v, but due in %v", s.Retry(), delay)
			}
			now = s.Due
			s, effects = Step(s, Event{Kind: Timer, At: now})
		}
		delays = append(delays, delay)
	}
	return delays
}

func TestBackoffLadder(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		name  string
		lives []time.Duration
		want  []time.Duration
	}{
		{"instant ends climb to 30 s and stay", []time.Duration{0, 0, 0, 0, 0, 0, 0, 0}, []time.Duration{1 * s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s}},
		{"the first end after a second is free", []time.Duration{1 * s, 2 * s, 2 * s}, []time.Duration{0, 1 * s, 2 * s}},
		{"just short of a second is not", []time.Duration{s - 1}, []time.Duration{1 * s}},
		{"30 s apart is free each time", []time.Duration{30 * s, 30 * s, 30 * s}, []time.Duration{0, 0, 0}},
		{"30 s of life forget all", []time.Duration{0, 0, 0, 30 * s, 0}, []time.Duration{1 * s, 2 * s, 4 * s, 0, 1 * s}},
		{"29 s do not", []time.Duration{0, 0, 0, 25 * s, 0}, []time.Duration{1 * s, 2 * s, 4 * s, 8 * s, 16 * s}},
	} {
		got := life(t, test.lives...)
		for i := range got {
			if got[i] != test.want[i] {
				t.Errorf("%s: got %v, want %v", test.name, got, test.want)
				break
			}
		}
	}
}

func TestAStopEndsARunOfFailures(t *testing.T) {
	s := State{Phase: Backoff, Want: WantUp, Failures: 5, Due: t0.Add(16 * time.Second)}
	s, _ = Step(s, Event{Kind: Stop, At: t0})
	s, _ = Step(s, Event{Kind: Start, At: t0})
	s, _ = Step(s, Event{Kind: Started, At: t0, Pid: 9})
	s, _ = Step(s, Event{Kind: Exited, At: t0, Alone: true})
	if s.Retry() != time.Second {
		t.Errorf("got a delay of %v, want 1s", s.Retry())
	}
}

// What the main process left behind is ended before the next start, and the
// delay that its end has earned is still kept.
func TestLeftoversAreClearedBeforeTheDelayEnds(t *testing.T) {
	manner := rundir.Manner{Signal: unix.SIGTERM, Grace: 10 * time.Second}
	s := State{Phase: Up, Want: WantUp, Pid: 9, Group: 9, Since: t0}
	s, effects := Step(s, Event{Kind: Exited, At: t0, Manner: manner})
	if s.Phase != Stopping || len(effects) != 2 || effects[0] != (Effect{TellGroup, unix.SIGTERM}) || effects[1] != (Effect{TellGroup, unix.SIGCONT}) {
		t.Fatalf("got %v with %v, want stopping with TERM and CONT to the group", s.Phase, effects)
	}
	s, _ = Step(s, Event{Kind: Drained, At: t0.Add(300 * time.Millisecond)})
	if s.Phase != Backoff || s.Due != t0.Add(time.Second) {
		t.Errorf("got %v until %v, want backoff until 1s after the end", s.Phase, s.Due.Sub(t0))
	}
}

// But somebody who wants it now does not wait for the delay.
func TestAnOrderWhileLeftoversAreClearedSkipsTheWait(t *testing.T) {
	for _, k := range []Kind{Start, Restart, Once} {
		s := State{Phase: Up, Want: WantUp, Pid: 9, Group: 9, Since: t0}
		s, _ = Step(s, Event{Kind: Exited, At: t0})
		s, _ = Step(s, Event{Kind: k, At: t0})
		_, effects := Step(s, Event{Kind: Drained, At: t0})
		if len(effects) != 1 || effects[0].Action != Spawn {
			t.Errorf("%v: got %v, want a spawn", k, effects)
		}
	}
}

func TestAServiceThatSurvivesKillStaysStoppingAndIsNamed(t *testing.T) {
	s := State{Phase: Up, Want: WantUp, Pid: 9, Group: 9, Since: t0}
	now := t0
	s, _ = Step(s, Event{Kind: Kill, At: now})
	for now.Before(t0.Add(2 * time.Second)) {
		if s.Stuck() {
			t.Fatalf("called stuck %v after KILL", now.Sub(t0))
		}
		now = s.Due
		s, _ = Step(s, Event{Kind: Timer, At: now})
	}
	if s.Phase != Stopping || !s.Stuck() || now.Sub(t0) > 3*time.Second {
		t.Errorf("got %v, cause %q, %v after KILL; want stopping, %q", s.Phase, s.Cause, now.Sub(t0), stuck)
	}
}

func TestAZeroGraceNeverKills(t *testing.T) {
	s := State{Phase: Up, Want: WantUp, Pid: 9, Group: 9, Since: t0}
	s, _ = Step(s, Event{Kind: Stop, At: t0, Manner: rundir.Manner{Signal: unix.SIGINT}})
	for range 1000 {
		var effects []Effect
		s, effects = Step(s, Event{Kind: Timer, At: s.Due})
		for _, e := range effects {
			if e.Signal == unix.SIGKILL {
				t.Fatal("got KILL")
			}
		}
	}
	if s.Due.Sub(t0) < 1000*time.Second {
		t.Errorf("1000 timers in %v: it is woken for nothing", s.Due.Sub(t0))
	}
}
