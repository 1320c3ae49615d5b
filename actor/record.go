package actor

import (
	"slices"
	"time"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// remember writes down for the next daemon what this one knows.
func (s *Service) remember() error {
	if s.state.Group == 0 && !s.state.starting() {
		s.from, s.to = 0, 0
	}
	r := s.state.record(Now(), rundir.Clock())
	r.Name, r.From, r.To = s.name, s.from, s.to
	r.HoldIno, r.HoldCtime = s.acted.ino, s.acted.ctime
	if s.remarks != nil {
		r.Asked = s.remarks.unseen
	}
	slot, err := s.config.Records.Write(int(s.slot), r)
	s.slot = int32(slot)
	return err
}

// record is what the next daemon has to know of a state. now and clock are the
// same moment by Now and by rundir.Clock, which other processes share.
func (s State) record(now Moment, clock time.Duration) rundir.Record {
	moment := func(t Moment) time.Duration {
		if t.IsZero() {
			return 0
		}
		return max(1, clock+t.Sub(now))
	}
	return rundir.Record{
		Phase:     s.Phase.String(),
		Wanted:    s.Want.String(),
		Pid:       int(s.Pid),
		Group:     int(s.Group),
		Since:     moment(s.Since),
		Due:       moment(s.Due),
		KillAt:    moment(s.KillAt),
		Killed:    moment(s.Killed),
		NotBefore: moment(s.NotBefore),
		Ended:     moment(s.Ended),
		Retry:     s.Retry(),
		Failures:  int(s.Failures),
		Starts:    int(s.Starts),
		Restarts:  int(s.Restarts),
		LastExit:  s.LastExit.String(),
		Cause:     s.Why(),
	}
}

// restored is the state that a record was made of. It is of no use if the
// record contradicts itself, which none does that a daemon has written: then
// ok is false.
func restored(r rundir.Record, now Moment, clock time.Duration) (s State, ok bool) {
	moment := func(d time.Duration) Moment {
		if d == 0 {
			return 0
		}
		return now.Add(d - clock)
	}
	for _, p := range Phases {
		if p.String() == r.Phase {
			s.Phase = p
		}
	}
	for _, w := range Wants {
		if w.String() == r.Wanted {
			s.Want = w
		}
	}
	s.Pid, s.Group = int32(r.Pid), int32(r.Group)
	s.Since, s.Due = moment(r.Since), moment(r.Due)
	s.KillAt, s.Killed = moment(r.KillAt), moment(r.Killed)
	s.NotBefore, s.Ended = moment(r.NotBefore), moment(r.Ended)
	s.Failures = uint8(min(r.Failures, len(delays)))
	s.Starts, s.Restarts = int32(r.Starts), int32(r.Restarts)
	s.LastExit, s.Cause = parseEnding(r.LastExit), r.Cause

	runs := s.Phase == Up || s.Phase == Stopping
	switch {
	case s.Since.IsZero(), runs != (s.Group != 0), s.Pid != 0 && s.Pid != s.Group, s.Phase == Up && s.Pid == 0:
		return State{}, false
	case (s.Phase == Stopping || s.Phase == Backoff) && s.Due.IsZero():
		return State{}, false
	case !runs && (s.Want == WantGone || s.Want == WantDown && s.Phase != Down):
		return State{}, false
	}
	return s, true
}

// resume goes on where the daemon before this one was interrupted: what runs
// is adopted, what waits waits on, and what was asked for meanwhile, by a lock
// file written or removed, is done.
func (s *Service) resume(past rundir.Record) {
	state, ok := restored(past, Now(), rundir.Clock())
	if !ok {
		s.begin(WantUp)
		return
	}
	state.Bar = s.state.Bar
	s.state = state
	s.slot, s.from, s.to = int32(past.Slot()), past.From, past.To
	s.acted = version{past.HoldIno, past.HoldCtime}
	s.unheard = true
	hold, stamp := rundir.NoHold, rundir.Stamp{}
	unread := true
	if f, err := s.config.Rundir.MakeFolder(s.name); err == nil {
		hold, stamp, err = f.ReadHold()
		unread = err != nil
		// Whoever waits for one of these still does.
		if status, err := f.ReadStatus(); err == nil && (len(status.Requests) > 0 || status.Refused != "") {
			s.remarks = &remarks{requests: status.Requests, refused: status.Refused}
		}
		if past.Asked != "" && (s.remarks == nil || !slices.Contains(s.remarks.requests, past.Asked)) {
			s.answer(past.Asked)
		}
		if state.Pid == 0 {
			f.Remove(rundir.Pid, rundir.Syspid)
		} else if f.Has(rundir.Pid) && f.Has(rundir.Syspid) {
			s.shownPid = state.Pid
		}
		f.Close()
	}
	s.attend()
	gone := state.Pid == 0
	if state.Group != 0 {
		gone = s.config.Processes.Adopt(reaper.Adoption{
			Group: int(state.Group), Led: state.Pid != 0, From: past.From, To: past.To, Mark: s.mark(), Exited: s.news,
		}).Gone
	}
	if same := versionOf(stamp) == s.acted; past.Doubtful() && gone && (hold == rundir.NoHold || !same) {
		// It may have been started since then.
		s.legacy = &legacy{doubt: true}
	}
	var missed []Event
	if starting := s.anew(hold, versionOf(stamp) == s.acted); starting != nil {
		missed = append(missed, *starting)
	}
	if !unread {
		if order := s.missed(hold, versionOf(stamp) == s.acted); order != nil {
			missed = append(missed, *order)
		}
		s.acted = versionOf(stamp)
	}
	if s.state.Phase == Backoff {
		s.config.restless.set(s.name, true)
	}
	for _, e := range missed {
		s.handle(e, true)
	}
	if len(missed) == 0 {
		s.arm()
		s.publish()
	}
}

// anew makes a want of this daemon's own out of what the last one wanted, and
// finds the start that was under way or has to be made: it is asked for again,
// and the first thing that is done then is to look whether it has been made.
// same tells that the lock is the one that the last daemon acted upon.
func (s *Service) anew(hold rundir.Hold, same bool) *Event {
	if s.state.Want == WantGone {
		// It was to end with the daemon or its entry. This daemon is a new
		// one, and will see for itself whether there is an entry.
		s.state.Want = WantUp
		if hold == rundir.HoldOnce && same {
			s.state.Want = WantDown
		}
	}
	switch want := s.state.Want; {
	case s.state.starting():
		if s.from != 0 {
			// Held meanwhile: what is not there is not to be made.
			held := hold != rundir.NoHold && hold != rundir.HoldOnce
			s.legacy = &legacy{lapse: held || want == WantOnce, unfit: s.state.Bar}
			s.state.Bar = ""
		}
		s.state.Want = WantDown
		if want == WantOnce {
			return &Event{Kind: Once}
		}
		return &Event{Kind: Start}
	case s.state.Phase == Blocked && s.state.Bar == "":
		return &Event{Kind: Appeared}
	}
	return nil
}

// missed finds the order that was given, by a lock file written or removed,
// while there was no daemon.
func (s *Service) missed(hold rundir.Hold, same bool) *Event {
	switch hold {
	case rundir.HoldKill:
		return &Event{Kind: Kill}
	case rundir.HoldDown, rundir.HoldOpen:
		return &Event{Kind: Stop}
	case rundir.HoldOnce:
		if !same {
			return &Event{Kind: Once}
		}
	case rundir.NoHold:
		if s.state.Want != WantUp && s.acted != (version{}) {
			return &Event{Kind: Start}
		}
	}
	return nil
}

// mark is the entry of the environment by which a process of this service is
// known, and of no other.
func (s *Service) mark() string {
	return "SYSMGR_DIR=" + s.config.Rundir.Path() + "/" + s.name
}

// found looks for the process of a start that the daemon before this one began
// and did not live to see the end of. Whoever is in the middle of execve(2)
// has the guard, which we have now: so the process is there, or never will be.
//
// It may be there although its file cannot be run by now: only after this may
// that be a reason to start nothing.
//
// If it is only in doubt whether the daemon before this one has started it, this
// is done before the first start of ours, whenever that is.
func (s *Service) found() (answer Event, known bool) {
	left, from := s.legacy, s.from
	s.legacy = nil
	if left.doubt {
		from = 1
	} else {
		s.state.Bar = left.unfit
	}
	a, found := s.config.Processes.Find(s.mark(), from)
	if found {
		s.from, s.to = a.From, a.To
		a.Exited = s.news
		s.config.Processes.Adopt(a)
		return Event{Kind: Started, Pid: a.Group}, true
	}
	if left.lapse {
		s.from = 0
		return Event{Kind: Refused, Refusal: Lapsed, Cause: "sysmgr was killed while it started this, which may have run"}, true
	}
	if s.state.Bar != "" {
		s.from = 0
		return Event{Kind: Refused, Refusal: Barred, Cause: s.state.Bar}, true
	}
	return Event{}, false
}
