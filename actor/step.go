package actor

import (
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// The effects there are, so that a transition allocates nothing. Whoever gets
// them does not change them.
var (
	spawns     = []Effect{{Action: Spawn}}
	retires    = []Effect{{Action: Retire}}
	probes     = []Effect{{Action: Probe}}
	probesHard = []Effect{{Action: ProbeHard}}
	kills      = []Effect{{TellGroup, unix.SIGKILL}}
	clears     = []Effect{{TellGroup, unix.SIGTERM}, {TellGroup, unix.SIGCONT}}

	// tells is a signal to the main process, for each signal, and CONT.
	tells = func() (t [128][2]Effect) {
		for sig := range t {
			t[sig] = [2]Effect{{Tell, unix.Signal(sig)}, {Tell, unix.SIGCONT}}
		}
		return t
	}()
)

// Step answers one event: the state after it and what the actor has to do,
// in this order. It is total (every event is answered in every phase), reads
// no clock and does nothing itself. The next event after a Spawn is its
// answer, Started or Refused: the actor sees to that.
//
// Its whole table is shown in sysmgr-states(7).
func Step(s State, e Event) (State, []Effect) {
	if s.Want == WantGone && e.Kind <= Signal {
		// Orders for what is going away are void; but KILL makes it quick.
		if e.Kind == Kill && s.Phase == Stopping && s.Killed.IsZero() {
			return s.kill(e)
		}
		return s, nil
	}
	switch e.Kind {
	case Start:
		return s.ordered(WantUp, e)
	case Once:
		return s.ordered(WantOnce, e)
	case Released:
		if s.Want == WantUp {
			return s, nil
		}
		return s.ordered(WantUp, e)
	case Restart:
		return s.restart(e)
	case Stop, Kill:
		return s.held(e)
	case Signal:
		if s.Pid == 0 {
			return s, nil
		}
		return s, tells[e.Signal&127][:1:1]
	case Removed, Shutdown:
		return s.dismissed(e)
	case Appeared:
		return s.appeared(e)
	case Started:
		return s.started(e)
	case Refused:
		return s.refused(e)
	case Exited:
		return s.exited(e)
	case Drained:
		return s.drained(e)
	case Timer:
		return s.timer(e)
	}
	return s, nil
}

// ordered: somebody wants it to run. A wait is skipped.
func (s State) ordered(want Want, e Event) (State, []Effect) {
	switch s.Phase {
	case Up:
		s.Want = want
	case Stopping:
		s.Want = want
		s.NotBefore = 0
	case Down, Backoff, Blocked:
		if s.starting() {
			return s, nil
		}
		s.Want = want
		return s.start(e)
	}
	return s, nil
}

// restart: as ordered, but what runs is stopped first.
func (s State) restart(e Event) (State, []Effect) {
	if s.Phase == Up {
		s.Want = WantUp
		return s.stop(e, "asked to restart")
	}
	return s.ordered(WantUp, e)
}

// held: somebody wants it down.
func (s State) held(e Event) (State, []Effect) {
	const cause = "asked to stop"
	switch s.Phase {
	case Up:
		s.Want = WantDown
		return s.stop(e, cause)
	case Stopping:
		s.Want = WantDown
		s.Cause = cause
		if e.Kind == Kill && s.Killed.IsZero() {
			return s.kill(e)
		}
	case Down:
		if !s.starting() {
			s.Want = WantDown
		}
	case Backoff, Blocked:
		s.Want = WantDown
		return s.rest(e, cause), nil
	}
	return s, nil
}

// dismissed: its entry is gone or the daemon stops, so the actor ends too, as
// soon as nothing runs any more.
func (s State) dismissed(e Event) (State, []Effect) {
	cause := "removed"
	if e.Kind == Shutdown {
		cause = "shutting down"
	}
	again := s.Want == WantGone
	switch s.Phase {
	case Up:
		s.Want = WantGone
		return s.stop(e, cause)
	case Stopping:
		s.Want = WantGone
		s.Cause = cause
	case Down, Backoff, Blocked:
		if s.starting() || again {
			return s, nil
		}
		s.Want = WantGone
		return s.rest(e, cause), retires
	}
	return s, nil
}

// appeared: the scanner has looked at its entry, which is new or changed. What
// waits for a better file is tried at once.
func (s State) appeared(e Event) (State, []Effect) {
	s.Bar = e.Bar
	switch s.Phase {
	case Up, Down, Stopping:
		// The new file is for the next start.
	case Backoff, Blocked:
		return s.start(e)
	}
	return s, nil
}

// started: the process asked for is there.
func (s State) started(e Event) (State, []Effect) {
	if s.Group != 0 {
		return s, nil // it has one: Step did not ask
	}
	starting := s.starting()
	s = s.enter(Up, e.At, "")
	s.Pid, s.Group = int32(e.Pid), int32(e.Pid)
	s.Starts++
	if !starting {
		return s.stop(e, "asked to stop") // nobody wants it any more
	}
	return s, nil
}

// refused: the process asked for could not be made.
func (s State) refused(e Event) (State, []Effect) {
	if !s.starting() {
		return s, nil
	}
	switch e.Refusal {
	case Busy:
		return s.wait(e.At, busyDelay, e.Cause), nil
	case Short:
		return s.wait(e.At, s.climb(), e.Cause), nil
	case Lapsed:
		s.Want = WantDown
		return s.rest(e, e.Cause), nil
	}
	s = s.block(e.At, e.Cause)
	s.Due = e.At.Add(barDelay)
	return s, nil
}

// exited: the main process has been reaped.
func (s State) exited(e Event) (State, []Effect) {
	if s.Pid == 0 {
		return s, nil
	}
	s.Pid = 0
	s.LastExit = endingOf(e.Exit)
	if s.Phase == Up {
		return s.ended(e)
	}
	if e.Alone {
		return s.settle(e)
	}
	return s.clear(e)
}

// ended: the main process has ended by itself.
func (s State) ended(e Event) (State, []Effect) {
	// Waiting for others is neither life nor failure.
	life := max(0, e.At.Sub(s.Since)-e.Waited)
	s.Cause, s.Life, s.Waited = byItself, life, e.Waited
	s.NotBefore = 0
	if s.Want == WantOnce {
		s.Want = WantDown
	} else {
		s.Restarts++
		s.NotBefore = s.nextStart(e.At, life)
	}
	s.Ended = e.At
	if e.Alone {
		return s.settle(e)
	}
	// Nothing may start beside what it left behind.
	s.Phase = Stopping
	s.Since = e.At
	s.KillAt = deadline(e)
	return s.clear(e)
}

// nextStart is the rule of section 4 of sysmgr(8): one end after a second or
// more of life is free, unless there was another in the last 30 s; all others
// climb the ladder of delays, from which 30 s of life come down at once.
func (s *State) nextStart(at Moment, life time.Duration) Moment {
	if life >= forgiven {
		s.Failures = 0
	}
	if life >= lived && (s.Ended.IsZero() || at.Sub(s.Ended) >= forgiven) {
		return 0
	}
	return at.Add(s.climb())
}

// climb returns the delay of this failure and takes the next step.
func (s *State) climb() time.Duration {
	d := delays[min(s.Failures, uint8(len(delays)-1))]
	s.Failures = min(s.Failures+1, uint8(len(delays)))
	return d
}

// drained: nothing is left in the group.
func (s State) drained(e Event) (State, []Effect) {
	if s.Phase != Stopping || s.Pid != 0 {
		return s, nil
	}
	return s.settle(e)
}

// timer: Due has come, or an old timer rings late.
func (s State) timer(e Event) (State, []Effect) {
	if s.Due.IsZero() || e.At.Before(s.Due) {
		return s, nil
	}
	switch s.Phase {
	case Down, Up:
		s.Due = 0
	case Backoff, Blocked:
		return s.start(e)
	case Stopping:
		if !s.KillAt.IsZero() && !e.At.Before(s.KillAt) {
			return s.kill(e)
		}
		if s.Killed.IsZero() {
			s.Due = s.nextLook(e.At)
			return s, probes
		}
		// KILL cannot be refused, but it can wait: for a disk, for ever.
		if e.At.Sub(s.Killed) >= stuckAfter {
			s.Cause = stuck
			s.Due = e.At.Add(stuckEvery)
		} else {
			s.Due = e.At.Add(probeEvery)
		}
		return s, probesHard
	}
	return s, nil
}

// stuck is the cause of a service that KILL did not end in time.
const stuck = "still alive after KILL"

// starting tells whether a Spawn is on its way.
func (s State) starting() bool {
	return s.Phase == Down && (s.Want == WantUp || s.Want == WantOnce)
}

// start asks for a process, unless the entry is known not to run.
func (s State) start(e Event) (State, []Effect) {
	s.NotBefore = 0
	s.Due = 0
	if s.Bar != "" {
		return s.block(e.At, s.Bar), nil
	}
	// Since and Cause stay until there is an answer: a service that is
	// refused for the same reason again has been so all the time.
	s.Phase = Down
	return s, spawns
}

// stop begins to end what runs.
func (s State) stop(e Event, cause string) (State, []Effect) {
	s = s.enter(Stopping, e.At, cause)
	if e.Kind == Kill {
		return s.kill(e)
	}
	s.KillAt = deadline(e)
	s.Due = s.nextLook(e.At)
	// A stopped process (SIGSTOP) hears nothing but CONT.
	return s, tells[e.Manner.Signal&127][:]
}

// clear ends what the main process has left in its group.
func (s State) clear(e Event) (State, []Effect) {
	if !s.Killed.IsZero() {
		s.Due = e.At.Add(probeEvery)
		return s, kills
	}
	s.Due = s.nextLook(e.At)
	return s, clears
}

// kill ends everything in the group for sure.
func (s State) kill(e Event) (State, []Effect) {
	s.KillAt = 0
	s.Killed = e.At
	s.Due = e.At.Add(probeEvery)
	return s, kills
}

// settle is where a service comes to when nothing of it is left.
func (s State) settle(e Event) (State, []Effect) {
	s.Group = 0
	s.KillAt, s.Killed = 0, 0
	switch s.Want {
	case WantGone:
		return s.rest(e, s.Cause), retires
	case WantDown:
		return s.rest(e, s.Cause), nil
	case WantUp, WantOnce:
		if delay := s.NotBefore.Sub(e.At); delay > 0 {
			return s.wait(e.At, delay, s.Cause), nil
		}
	}
	return s.start(e)
}

// rest is a service that has nothing to do. An order ends a run of failures.
func (s State) rest(e Event, cause string) State {
	s = s.enter(Down, e.At, cause)
	s.NotBefore = 0
	s.Failures = 0
	return s
}

func (s State) wait(at Moment, delay time.Duration, cause string) State {
	s = s.enter(Backoff, at, cause)
	s.Due = at.Add(delay)
	return s
}

func (s State) block(at Moment, cause string) State {
	if s.Cause == cause && !s.Since.IsZero() {
		at = s.Since
	}
	return s.enter(Blocked, at, cause)
}

func (s State) enter(p Phase, at Moment, cause string) State {
	s.Phase, s.Since, s.Cause = p, at, cause
	s.Due = 0
	return s
}

// deadline is when a stop that begins now turns to KILL; zero means never.
func deadline(e Event) Moment {
	if e.Manner.Grace <= 0 {
		return 0
	}
	return e.At.Add(e.Manner.Grace)
}

// nextLook is when a stop that is not yet KILL wants its timer: to look at
// the group again, or to KILL.
func (s State) nextLook(at Moment) Moment {
	look := at.Add(probeEvery)
	if s.Pid != 0 {
		look = at.Add(stuckEvery) // the reaper tells of its end
	}
	if !s.KillAt.IsZero() && s.KillAt.Before(look) {
		return s.KillAt
	}
	return look
}

// byItself is the cause of what follows when a service has ended by itself: it
// stands for the words that Why makes.
const byItself = "ended by itself"

// Why is Cause for people.
func (s State) Why() string {
	if s.Cause != byItself {
		return s.Cause
	}
	why := s.LastExit.String() + " after " + short(s.Life)
	if s.Waited >= time.Second {
		why += " and " + short(s.Waited) + " of waiting"
	}
	return why
}

// short is a duration of a life, as a cause shows it.
func short(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// Status is what the status file says of a state. now, clock and wall are the
// same moment, by rundir.Clock and by the wall.
func (s State) Status(now Moment, clock time.Duration, wall time.Time) rundir.Status {
	wanted := s.Want
	if wanted == WantGone {
		wanted = WantDown
	}
	var killed time.Duration
	if s.Phase == Stopping && !s.Killed.IsZero() {
		killed = max(0, clock-now.Sub(s.Killed))
	}
	return rundir.Status{
		Phase:    s.Phase.String(),
		Wanted:   wanted.String(),
		Pid:      int(s.Pid),
		Since:    wall.Add(s.Since.Sub(now)),
		Clock:    max(0, clock-now.Sub(s.Since)),
		Starts:   int(s.Starts),
		Restarts: int(s.Restarts),
		LastExit: s.LastExit.String(),
		Cause:    s.Why(),
		RetryIn:  s.Retry(),
		Failures: int(s.Failures),
		Killed:   killed,
	}
}

// Retry is how long a back-off lasts, from its beginning; else 0.
func (s State) Retry() time.Duration {
	if s.Phase != Backoff {
		return 0
	}
	return max(0, s.Due.Sub(s.Since))
}

// Stuck tells whether KILL was sent and has not worked in time.
func (s State) Stuck() bool { return s.Phase == Stopping && s.Cause == stuck }
