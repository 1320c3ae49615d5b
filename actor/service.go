package actor

import (
	"errors"
	"hash/maphash"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// Processes is the kernel as an actor sees it: the reaper, or a fake with
// virtual time.
type Processes interface {
	// Start blocks until the program has been executed or could not be.
	Start(reaper.Command) (reaper.Process, error)
	Signal(pid int, sig unix.Signal) error
	SignalGroup(group int, sig unix.Signal) error
	Probe(group int, hard bool)
	// Adopt and Find are for processes of the daemon before this one.
	Adopt(reaper.Adoption) reaper.Process
	Find(mark string, from time.Duration) (reaper.Adoption, bool)
}

// Config is what all actors of a daemon have in common.
type Config struct {
	Sysdir    string          // absolute
	Rundir    *rundir.Dir     // where state is published
	Records   *rundir.Records // where it is kept for the next daemon; may be nil
	Env       []string        // what services inherit, without SYSMGR_NAME and SYSMGR_DIR
	Manner    rundir.Manner   // how services are stopped that do not say it themselves
	Processes Processes
	Report    func(Fact)  // called from any goroutine; must not block
	Debug     func() bool // whether Decided and Taken are wanted

	// Foreground is set by runsyssv: the caller holds the folder's guard
	// for as long as the service runs, and a lock file does not count.
	Foreground bool

	// Essential names the service whose end is the daemon's; may be empty.
	Essential string
	// Ended is told how it ended.
	Ended func(syscall.WaitStatus)

	// Attend and Forget tell that requests for a service are to be taken
	// from now on, and no longer. They must not block; nil is allowed.
	Attend, Forget func(name string)

	// Mute tells that files in a service's folder are going to change that are
	// no requests, and Heed that requests are heard again: f is the open folder,
	// or nil, and read tells whether there was a lock in it. They must not block;
	// nil is allowed.
	Mute func(name string)
	Heed func(name string, f *rundir.Folder, read bool)

	restless restless
	silent   atomic.Int64 // services whose state could not be published
	deaf     atomic.Bool  // nobody tells what services say of themselves: see Supervisor.Deafen
	turns    turns

	// What actors tell their supervisor, which sets it: that KILL did not work at
	// once, and their end.
	outlives func(name string)
	gone     func(name string, swept bool)

	ending atomic.Int64 // how many services a shutdown has to stop; 0: there is none
}

// restless is the set of services in back-off. It is the one thing that
// actors share, because the scanner asks for it from outside.
type restless struct {
	sync.Mutex
	names map[string]struct{}
}

func (r *restless) set(name string, in bool) {
	r.Lock()
	defer r.Unlock()
	if !in {
		delete(r.names, name)
		return
	}
	if r.names == nil {
		r.names = make(map[string]struct{})
	}
	r.names[name] = struct{}{}
}

// turns bounds how many services are between taking their guard and giving it
// back: each has a descriptor open, and every open descriptor makes each fork
// dearer. It is some more than wait to be forked at once, so that a fork never
// waits for a service that is only publishing.
type turns struct {
	once sync.Once
	free chan struct{}
}

const mostTurns = 16

func (t *turns) take() {
	t.once.Do(func() { t.free = make(chan struct{}, mostTurns) })
	t.free <- struct{}{}
}

func (t *turns) giveBack() { <-t.free }

// Order is a message to an actor: an event, and what came with it.
type Order struct {
	Event   Event        // a wish; its At is set by the actor
	ID      string       // of the request, which the status then repeats
	Refused string       // why the request makes no sense: then there is no event
	Lost    bool         // the service's folder was removed: publish everything
	Lock    rundir.Stamp // of the lock file that the order was read from, or that was written for it; zero: neither

	// Said: it is no order at all, and says that what the service says of
	// itself may have changed. Pid, if there is one, is all that it may have
	// said: it is in its pid file.
	Said bool
	Pid  int
}

// Fact is something that an actor tells whoever keeps the log.
type Fact interface{ fact() }

// Decided is told after each Step: for those who want to see everything.
type Decided struct {
	Service  string
	Event    Event
	Old, New State
	Effects  []Effect
}

// Changed is told when a service has come to another phase, another process
// or another cause.
type Changed struct {
	Service  string
	Event    Event // the one that began it
	Old, New State
}

// Taken is told of each order that an actor takes.
type Taken struct {
	Service string
	Order   Order
}

// Unpublished is told when a state could not be written, once until all can be
// again.
type Unpublished struct {
	Service string
	Err     error
}

// Published is told when all states could be written again.
type Published struct{}

// Misread is told when a service wrote nonsense into one of its files.
type Misread struct {
	Service string
	File    string
}

// Hanging is told when the start of a service takes long.
type Hanging struct{ Service string }

// HeldUp is told when a shutdown waits for services.
type HeldUp struct {
	Services []string
}

func (Decided) fact()     {}
func (Changed) fact()     {}
func (Taken) fact()       {}
func (Unpublished) fact() {}
func (Published) fact()   {}
func (Misread) fact()     {}
func (Hanging) fact()     {}
func (HeldUp) fact()      {}

// Service is the actor of one service. Its goroutine owns everything but the
// mailbox, and what the supervisor knows of it.
type Service struct {
	config *Config
	name   string
	mail   mailbox[any]     // Order, or Event from the supervisor
	news   chan reaper.Exit // all that the actor waits for: exits, and rung

	legacy *legacy // what the daemon before this one left of it; nil once it is taken over

	state State
	alarm *time.Timer // rings when something is due; nil: nothing is

	folder *rundir.Folder // while something is handled: the service's

	from, to time.Duration // its main process was made between these; see rundir.Record

	shown    sight    // what the status file says
	shownPid int32    // what the pid files say, or unknownPid
	slot     int32    // of its record; 0: none yet
	remarks  *remarks // nil: nobody has asked for anything, and it says nothing of itself
	acted    version  // the lock file that was last acted upon
	habit    habit

	told told // the supervisor's own: what it last told the service of its entry
	file file // and which file that was

	// There may be very many services: what takes a byte stands together.
	turn      bool // it has one of config.turns, as long as a guard may be held
	stale     bool // pid may name a process of an earlier run: it could not be removed
	owed      bool // the status is to be written soon: see brief
	unwritten bool // the last try to publish failed
	parting   bool // the daemon stops, and this service when its turn comes: see part
	retired   bool
	attended  bool
	muted     bool  // nothing is heard of its folder
	unheard   bool  // what it says of itself is to be read before the status is written
	place     place // of its entry; this and what follows is the supervisor's own
	removed   bool  // it has been told that its entry is gone
	doubtful  bool  // it may be one that the last daemon had under another name

	there rundir.Content // what was in the folder when it was opened
	guard rundir.Guard   // held from before a fork until the state is published
	free  atomic.Int32   // see rest
}

// unknownPid stands for pid files of which only some may have been written or
// removed.
const unknownPid = -1

// remarks is what the status has beside the state, which is nothing for most
// services: what clients want to read of their orders, and what the run says of
// itself.
type remarks struct {
	requests []string    // ids of those taken, the newest first
	unseen   string      // the last of them, if no status repeats it yet
	refused  string      // the last one that was, and why
	said     rundir.Said // as it was last read
}

// face is what others see of a state, as far as it matters whether they have
// seen it.
type face struct {
	phase  Phase
	want   Want
	killed bool
	pid    int32
	starts int32
	cause  string
}

// sight is a face in eight bytes: two of them are the same in one of 2^64 cases.
type sight uint64

func (s State) sight() sight {
	return sight(maphash.Comparable(seed, face{s.Phase, s.Want, !s.Killed.IsZero(), s.Pid, s.Starts, s.Cause}))
}

// seed makes sights.
var seed = maphash.MakeSeed()

// legacy is what the last daemon has left of a service: its record, and when
// that is taken over, a start that was under way, of which nobody saw what came.
// See found.
type legacy struct {
	record rundir.Record
	doubt  bool   // the record may be old: there may have been a start that is not in it
	lapse  bool   // the start is not to be made if it was not
	unfit  string // nor if it cannot be, as the scanner says
}

// NewService makes the actor of a service. bar is why its entry cannot be
// run, or empty.
func NewService(config *Config, name, bar string) *Service {
	// There is room for the two exits of a process, of which there is one at any
	// time, and for one rung.
	s := &Service{config: config, name: name, news: make(chan reaper.Exit, 3)}
	s.state.Bar = bar
	return s
}

// Resume makes the actor of a service that an earlier daemon had, to go on
// where that one was interrupted.
func Resume(config *Config, past rundir.Record, bar string) *Service {
	s := NewService(config, past.Name, bar)
	s.legacy = &legacy{record: past}
	return s
}

// Tell gives the actor an order. It does not block; after the actor has ended
// it does nothing.
//
// Control says of each service that comes that it has no lock, and what is in
// its pid file. Most know that: then nobody is woken. One that is about to look
// for a lock by itself is not free any more.
func (s *Service) Tell(o Order) {
	free, known := s.free.Load(), false
	switch {
	case o.Said:
		known = o.Pid != 0 && o.Pid == int(free) || s.willLook()
	case o.Event.Kind == Released && !o.Lost:
		known = free != 0
	}
	if !known {
		s.post(o)
	}
}

// willLook tells whether the actor is to look yet at what the service says of
// itself, which may be often: that is not kept in the mailbox each time.
func (s *Service) willLook() bool {
	message, _ := s.mail.newest()
	o, ok := message.(Order)
	return ok && o.Said
}

// Shutdown stops the service for good; then Run returns. It does not block.
func (s *Service) Shutdown() { s.tell(Event{Kind: Shutdown}) }

// tell gives the actor an event.
func (s *Service) tell(e Event) { s.post(e) }

// post gives the actor a message. It does not block.
func (s *Service) post(message any) {
	if s.mail.put(message) {
		s.news <- rung
	}
}

// rung is among the exits, and none that any process has: it says that there is
// something in the mailbox. One channel for everything is two less for each
// service, and a goroutine that waits for one takes up less than in a select.
var rung = reaper.Exit{Alone: true, Drained: true}

// Run is the actor. It returns when the service is gone for good: after
// Removed or Shutdown, with nothing of it left. It tells whether its folder
// could be swept.
func (s *Service) Run(first Want) (swept bool) {
	for s.setUp(first); !s.retired; {
		s.next()
	}
	return s.end()
}

// setOff is Run for the supervisor, which does not wait: the actor tells it of
// its end.
//
// An actor waits most of its life. A goroutine that waits takes 2 kB, and one
// that has ever started a process and written files four times that, because
// its stack had to grow: with ten thousand services that is most of the memory.
// So the goroutine that has handled something ends, and a new one waits in its
// place. There is one at any time.
func (s *Service) setOff(first Want) {
	go func() {
		s.setUp(first)
		s.onward()
	}()
}

// wait is the goroutine of an actor that waits.
func (s *Service) wait() {
	s.next()
	s.onward()
}

// onward is called by a goroutine that ends, and has the next one wait.
func (s *Service) onward() {
	if s.retired {
		s.config.gone(s.name, s.end())
		return
	}
	go s.wait()
}

// setUp is the first thing that an actor does.
func (s *Service) setUp(first Want) {
	s.takeTurn(first != WantDown)
	grow(0)
	if past := s.legacy; past != nil {
		s.legacy = nil
		s.resume(past.record)
	} else {
		s.begin(first)
	}
	s.idle()
}

// next waits for the next thing to handle, and handles it. It has hardly any
// variables and calls nothing deep before there is one.
func (s *Service) next() {
	exit := <-s.news
	s.free.Store(0)
	if exit == rung {
		grow(0)
		s.read()
	} else {
		s.takeTurn(s.state.Want == WantUp && !exit.Drained)
		grow(0)
		s.hear(exit)
	}
	s.idle()
}

// grow makes the stack of its goroutine as large as all that comes needs it. A
// stack is copied when it grows: now there is hardly anything on it, and later
// it would be in the middle of a start, twice.
//
//go:noinline
func grow(i int) byte {
	var room [4 << 10]byte
	return room[i]
}

// hear handles an exit.
func (s *Service) hear(exit reaper.Exit) {
	if exit.Drained {
		s.handle(Event{Kind: Drained}, false)
	} else {
		s.exited(exit)
	}
}

// hearAll handles all exits that there are, and leaves the mailbox as it is.
func (s *Service) hearAll() {
	full := false
	for more := true; more; {
		select {
		case exit := <-s.news:
			if exit == rung {
				full = true
			} else {
				s.hear(exit)
			}
		default:
			more = false
		}
	}
	if full {
		s.news <- rung
	}
}

// idle is called when everything that there was is handled.
func (s *Service) idle() {
	s.leave()
	s.letGo()
	if !s.retired {
		s.rest()
	}
}

// rest says whether the actor is free from now on, until it is woken: it is to be
// kept alive, and knows of no lock. Then free is what it has written into the pid
// file if that is all that others may know from the service's folder; and
// unknownPid if there is none, or the service says something of itself. See Tell.
func (s *Service) rest() {
	var free int32
	if s.state.Want == WantUp && s.acted == (version{}) {
		free = unknownPid
		if s.shownPid != 0 && (s.remarks == nil || s.remarks.said.Equal(rundir.Said{})) {
			free = s.shownPid
		}
	}
	s.free.Store(free)
}

// read handles what is in the mailbox. That the service may have said something
// is told of each time it has written; to look once is enough for all of them,
// and comes last: a service that writes without end must not keep an order waiting.
func (s *Service) read() {
	said := false
	for _, message := range s.mail.take() {
		if o, ok := message.(Order); ok && o.Said {
			said = true
		} else if !s.retired {
			s.take(message)
			s.close() // what was in it then is old news for the next
		}
	}
	if said && !s.retired {
		s.take(Order{Said: true})
	}
}

// end takes back what the actor has published.
func (s *Service) end() (swept bool) {
	if s.config.Forget != nil {
		s.config.Forget(s.name)
	}
	sweep := s.config.Rundir.Sweep
	if s.config.Foreground {
		sweep = s.config.Rundir.Clear // the caller holds the guard
	}
	// The lock stays: a stop survives that the entry is deleted and made anew.
	s.silent(errors.Join(sweep(s.name, true), s.config.Records.Drop(int(s.slot))))
	return !s.unwritten
}

// open is the service's folder, for as long as something is handled; it is made
// if it is not there.
func (s *Service) open() (*rundir.Folder, error) {
	if s.folder != nil {
		return s.folder, nil
	}
	f, err := s.config.Rundir.MakeFolder(s.name)
	if err != nil {
		return nil, err
	}
	s.folder, s.there = f, f.Content()
	return f, nil
}

// close closes it again.
func (s *Service) close() {
	if s.folder != nil {
		s.folder.Close()
		s.folder = nil
	}
}

// begin puts the folder in order, which may be a leftover, and starts the
// service unless it is held.
func (s *Service) begin(first Want) {
	s.state.Since = Now()
	hold := rundir.NoHold
	if _, err := s.open(); err == nil {
		var stamp rundir.Stamp
		hold, stamp, err = s.hold()
		s.acted = versionOf(stamp)
		if err != nil {
			// Nobody can tell now; control goes on trying, and what it says
			// then counts, be it that there is none.
			hold, s.acted = rundir.HoldDown, notRead
		}
		s.remove(rundir.Pid, rundir.Syspid)
	} else if refusal(err) == Short {
		// Nor whether there is a folder that has one.
		hold, s.acted = rundir.HoldDown, notRead
	}
	switch {
	case s.config.Foreground:
	case hold == rundir.HoldDown, hold == rundir.HoldKill, hold == rundir.HoldOpen:
		first = WantDown // what an empty lock is going to say, control will tell
	case hold == rundir.HoldOnce:
		first = WantOnce
	}
	switch first {
	case WantUp:
		s.handle(Event{Kind: Start}, true)
	case WantOnce:
		s.handle(Event{Kind: Once}, true)
	default:
		s.state.Cause = "held down"
		if s.acted == notRead {
			s.state.Cause = "its lock cannot be looked for"
		}
		s.handle(Event{Kind: Stop}, true)
	}
	s.rest() // already: control is quick
	s.attend()
}

// attend has requests taken from now on: once it is started, for that is more
// urgent, or when that takes long. What was asked for before is there to be
// found then.
func (s *Service) attend() {
	if s.config.Attend != nil && !s.attended {
		s.attended = true
		s.config.Attend(s.name)
	}
}

// mute is called when a service is about to be started again. What has to be
// removed before that would wake those who listen for requests, in the middle of
// the way from the death of a service to its next start.
func (s *Service) mute() {
	if s.config.Mute != nil && s.attended {
		s.muted = true
		s.config.Mute(s.name)
	}
}

// heed is called when that is done. What the new process writes is heard.
func (s *Service) heed() {
	if s.muted {
		s.muted = false
		s.config.Heed(s.name, s.folder, s.acted != version{})
	}
}

// hold reads the lock in the open folder.
func (s *Service) hold() (rundir.Hold, rundir.Stamp, error) {
	if !s.there.Has(rundir.Lock) {
		return rundir.NoHold, rundir.Stamp{}, nil
	}
	return s.folder.ReadHold()
}

// remove removes those of these files from the open folder that were there.
func (s *Service) remove(files ...string) error {
	var first error
	for _, file := range files {
		if s.there.Has(file) {
			first = errors.Join(first, s.folder.Remove(file))
		}
	}
	return first
}

func (s *Service) take(message any) {
	switch m := message.(type) {
	case Event:
		s.handle(m, false)
	case ring:
		s.rang()
	case pause:
		s.hearAll()
		s.close()
		m.rest()
	case parting:
		s.parting = true
	case publish:
		if m.lost {
			s.lost()
			s.holdAgain()
		}
		if m.lost || m.deaf || s.unwritten {
			s.publish()
		}
	case Order:
		if s.config.Debug() {
			s.config.Report(Taken{s.name, m})
		}
		if m.Said {
			s.hearSaid()
			return
		}
		if s.parting && m.starts() {
			return // as after Shutdown, which is bound to come
		}
		s.order(m)
	}
}

// lost is called when the folder was removed, or what was in it: nobody knows
// what is there now.
func (s *Service) lost() { s.shownPid, s.unheard = unknownPid, true }

// holdAgain writes the lock of a held service that has none: it could not be
// written, or went with the run directory, which was no order. If it still
// cannot be written the hold stands all the same; see order.
func (s *Service) holdAgain() error {
	line := rundir.HoldDown.Line()
	switch s.state.Want {
	case WantDown:
		if s.acted == notRead {
			return nil // nobody has asked for it
		}
	case WantOnce:
		line = rundir.HoldOnce.Line()
	default:
		return nil
	}
	s.acted = version{}
	f, err := s.open()
	if err != nil {
		return err
	}
	if !f.Has(rundir.Lock) {
		if err := f.Write(rundir.Lock, line); err != nil {
			return err
		}
	}
	s.acted = versionOf(f.Stamp(rundir.Lock))
	return nil
}

// order takes an order and answers it in the status file, even when nothing
// changes: the client waits to see its id.
func (s *Service) order(o Order) {
	if o.ID != "" {
		s.answer(o.ID)
	}
	if o.Refused == "" && o.Event.Kind == Signal {
		switch {
		case s.state.Pid == 0:
			o.Refused = "it is not running"
		case s.state.Want == WantGone:
			o.Refused = "it is being stopped for good"
		}
	}
	if o.Refused != "" {
		id := o.ID
		if id == "" {
			id = "-"
		}
		s.remark().refused = id + " " + o.Refused
		s.publish()
		return
	}
	if o.Lost {
		s.lost()
	}
	lock := versionOf(o.Lock)
	switch {
	case o.Event.Kind == Released && !o.Lost && s.state.Want == WantUp:
		s.acted = lock
		return // it is not held
	case o.Event.Kind == Once && o.ID == "" && o.Lock != (rundir.Stamp{}) && lock == s.acted:
		// That has been done already: see begin and exited.
		s.publish()
		return
	case o.Event.Kind == Released && (!o.Lost || s.unwritten) && s.acted == (version{}) && s.state.Want != WantUp:
		// It is held although the lock could not be written: no lock has
		// been removed. Nor has what else is missing, if that could not be
		// written either.
		s.publish()
		return
	case o.Event.Kind != Signal:
		s.acted = lock
	}
	s.handle(o.Event, true)
}

// answer adds to the requests that the status repeats, once it is written. A
// start comes first, which takes its time: the record keeps the id for it.
func (s *Service) answer(id string) {
	a := s.remark()
	keep := min(len(a.requests), rundir.KeptRequests-1)
	a.requests = append([]string{id}, a.requests[:keep]...)
	a.unseen = id
}

// remark is where there is something to remark.
func (s *Service) remark() *remarks {
	if s.remarks == nil {
		s.remarks = new(remarks)
	}
	return s.remarks
}

// version is what tells one state of a file from the next, as far as there is
// room for it; zero stands for no file.
type version struct {
	ino   uint64
	ctime int64 // nanoseconds
}

// notRead is the version of a lock that nobody could look for.
var notRead = version{ino: 1}

func versionOf(file rundir.Stamp) version { return version{file.Ino, file.Ctime} }

// exited is called with the end of the main process. A client that knows only
// the lock file writes it first and then signals the process; its doorbell may
// still be on its way, so the lock is looked at before anything is restarted.
func (s *Service) exited(exit reaper.Exit) {
	if s.parting && s.state.Phase == Up {
		s.handle(Event{Kind: Shutdown}, false) // nothing is restarted now
	}
	if s.state.Phase == Up && s.state.Want == WantUp {
		s.mute()
		if _, err := s.open(); err == nil {
			switch hold, stamp, _ := s.hold(); hold {
			case rundir.HoldDown, rundir.HoldKill:
				s.acted = versionOf(stamp)
				// The signal this asks for finds nobody: the reaper knows.
				s.handle(Event{Kind: Stop}, false)
			case rundir.HoldOnce:
				s.acted = versionOf(stamp)
				s.handle(Event{Kind: Once}, false)
			}
		}
	}
	if s.name == s.config.Essential && s.state.Phase == Up && s.state.Want != WantGone {
		// Its end is the daemon's: nothing to restart.
		s.state.Want = WantOnce
		defer s.config.Ended(exit.Status)
	}
	s.handle(Event{Kind: Exited, Exit: exit.Status, Alone: exit.Alone}, false)
}

// handle lets Step decide about an event, does what it says, and lets it
// decide about what came of that, until there is nothing more to do; then the
// outcome is published, always if show is set.
func (s *Service) handle(e Event, show bool) {
	e = s.complete(e)
	before, first := s.state, e
	for more := true; more; {
		old := s.state
		var effects []Effect
		s.state, effects = Step(old, e)
		if s.config.Debug() {
			s.decided(e, old, effects)
		}
		more = false
		for _, effect := range effects {
			switch effect.Action {
			case Spawn:
				e, more = s.complete(s.spawn()), true
			case Tell:
				s.config.Processes.Signal(int(s.state.Pid), effect.Signal)
			case TellGroup:
				s.config.Processes.SignalGroup(int(s.state.Group), effect.Signal)
			case Probe, ProbeHard:
				s.config.Processes.Probe(int(s.state.Group), effect.Action == ProbeHard)
			case Retire:
				s.retired = true
			}
		}
	}
	if (before.Phase == Backoff) != (s.state.Phase == Backoff) {
		s.config.restless.set(s.name, s.state.Phase == Backoff)
	}
	// Before others can act on it, so that what follows stands behind it in the log.
	if s.retired || changed(&before, &s.state) {
		s.changed(first, before)
	}
	switch {
	case s.retired:
	case show || s.unwritten:
		s.publish()
	case s.state.sight() == s.shown:
	case before.Phase == Up && s.state.Phase == Stopping && s.state.Pid != 0:
		// Most stops are over before anybody could have read of them.
		s.owed = true
		s.silent(s.remember())
	default:
		s.publish()
	}
	s.arm()
	s.letGo()
}

// decided and changed tell the log. They are not part of handle because its
// stack would have to grow for what they copy.
//
//go:noinline
func (s *Service) decided(e Event, old State, effects []Effect) {
	s.config.Report(Decided{s.name, e, old, s.state, effects})
}

//go:noinline
func (s *Service) changed(first Event, before State) {
	s.config.Report(Changed{s.name, first, before, s.state})
}

// How long a stop goes on before its status says so. At a shutdown each waits
// until all the others have had their turn of the processors, or most would say
// so that are over when they come to it.
const (
	brief     = 30 * time.Millisecond
	aTurn     = 200 * time.Microsecond
	mostBrief = 2 * time.Second
)

func (c *Config) brief() time.Duration {
	return min(brief+time.Duration(c.ending.Load())*aTurn, mostBrief)
}

// letGo gives back what was needed while something was handled.
func (s *Service) letGo() {
	s.heed()
	s.close()
	s.guard.Release()
	if s.turn {
		s.config.turns.giveBack()
		s.turn = false
	}
}

// changed tells whether the log should hear of a transition.
func changed(old, new *State) bool {
	return old.Phase != new.Phase || old.Pid != new.Pid || old.Cause != new.Cause ||
		old.Starts != new.Starts || old.Killed.IsZero() && !new.Killed.IsZero()
}

// complete fills in what an event is to carry: the time, and what the
// service's folder says.
func (s *Service) complete(e Event) Event {
	e.At = Now()
	e.Manner = s.config.Manner
	switch e.Kind {
	case Stop, Kill, Restart, Removed, Shutdown, Exited:
	default:
		return e
	}
	if s.state.Phase != Up {
		return e
	}
	lacks := s.config.Rundir.Lacks
	if e.Kind == Shutdown && lacks(s.name, rundir.StopSignal) && lacks(s.name, rundir.StopTimeout) {
		return e // how the run was is of no interest any more
	}
	f, err := s.open()
	if err != nil {
		return e
	}
	if s.there.Has(rundir.StopSignal) || s.there.Has(rundir.StopTimeout) {
		var bad []string
		e.Manner, bad = f.ReadManner(s.config.Manner)
		for _, file := range bad {
			s.config.Report(Misread{s.name, file})
		}
	}
	var wait rundir.Wait
	if s.there.Has(rundir.Waited) {
		wait = f.ReadWait()
	}
	e.Waited = s.habit.ended(wait, e.At.Sub(s.state.Since))
	return e
}

// arm sets the alarm to what the state wants, and to what is owed.
func (s *Service) arm() {
	if s.alarm != nil {
		s.alarm.Stop()
		s.alarm = nil
	}
	if s.retired || s.state.Due.IsZero() && !s.owed {
		return
	}
	delay := s.config.brief()
	if due := s.state.Due; !due.IsZero() {
		left := due.Sub(Now())
		if !s.owed || left < delay {
			delay = left
		}
	}
	s.alarm = time.AfterFunc(delay, func() { s.post(ring{}) })
}

// ring is the message of the alarm.
type ring struct{}

// rang is called with it. One that was set for something else may come late.
func (s *Service) rang() {
	if s.owed {
		s.publish()
		if s.state.Due.IsZero() || Now().Before(s.state.Due) {
			s.arm()
			return
		}
	}
	killed := !s.state.Killed.IsZero()
	s.handle(Event{Kind: Timer}, false)
	if killed && s.state.Phase == Stopping && s.config.outlives != nil {
		s.config.outlives(s.name)
	}
}

// takeTurn takes one of the turns of those that start something, if it is to
// start something. Whoever waits for his turn has done nothing yet, and so his
// stack is small.
func (s *Service) takeTurn(starts bool) {
	if starts && !s.turn {
		s.config.turns.take()
		s.turn = true
	}
}

// spawn starts the process and returns the answer to Step's question. Until
// it has it, the actor listens to nothing else: orders wait in the mailbox.
func (s *Service) spawn() Event {
	s.takeTurn(true)
	if !s.config.Foreground {
		guard, err := s.grab()
		if errors.Is(err, rundir.ErrGrabbed) {
			return Event{Kind: Refused, Refusal: Barred, Cause: err.Error()}
		}
		s.guard = guard
	}
	if s.legacy != nil {
		if e, known := s.found(); known {
			s.heed()
			s.unheard = true // it began before us
			return e
		}
	}
	s.forgetRun()
	path := filepath.Join(s.config.Sysdir, s.name)
	env := append(s.config.Env[:len(s.config.Env):len(s.config.Env)], "SYSMGR_NAME="+s.name, s.mark())
	// From here on, until its number is written down, only its mark tells of
	// the process.
	s.from, s.to = reaper.BootTime(), 0
	s.remember()
	process, err := s.config.Processes.Start(reaper.Command{Path: path, Env: env, Late: s.hangs, Exited: s.news})
	s.heed()
	if err != nil {
		s.from = 0
		return Event{Kind: Refused, Refusal: refusal(err), Cause: err.Error()}
	}
	s.to = reaper.BootTime()
	s.there = rundir.Everything // it may write what it likes from now on
	s.habit.begun(path)
	return Event{Kind: Started, Pid: process.Pid}
}

// hangs is called when a start takes long, as it does in execve(2) of a file
// whose file system does not answer. It is in nobody's way, and is told of.
func (s *Service) hangs() {
	s.heed()
	if s.turn {
		s.config.turns.giveBack()
		s.turn = false
	}
	s.close() // it may be another by now
	s.state.Cause = "its start hangs"
	s.publish()
	s.attend()
	s.config.Report(Hanging{s.name})
}

// grab takes the guard. If a start was under way when the last daemon ended, it
// is the child of that one which has it, until it has executed: that is waited
// for like for a start of our own, and everything else with it.
func (s *Service) grab() (rundir.Guard, error) {
	try := func() (rundir.Guard, error) {
		f, err := s.open()
		if err != nil {
			return rundir.Guard{}, err
		}
		return f.Grab()
	}
	guard, err := try()
	for waited := time.Duration(0); s.legacy != nil && !s.legacy.doubt && errors.Is(err, rundir.ErrGrabbed); waited += grabAgain {
		if waited == 25*grabAgain {
			s.hangs()
		}
		time.Sleep(grabAgain)
		guard, err = try()
	}
	return guard, err
}

// grabAgain is how long to wait between two tries.
const grabAgain = 10 * time.Millisecond

// forgetRun removes what the last run wrote about itself, which does not hold
// for the next one.
func (s *Service) forgetRun() {
	s.stale, s.unheard = true, false
	if s.remarks != nil {
		s.remarks.said = rundir.Said{}
	}
	if _, err := s.open(); err == nil {
		s.stale = s.remove(rundir.Pid, rundir.Syspid) != nil
		s.remove(rundir.OfARun[:]...)
		s.shownPid = 0
	}
}

// refusal sorts the errors of fork(2) and execve(2): what passes by itself,
// and what needs a better file.
func refusal(err error) Refusal {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case unix.ETXTBSY:
			return Busy
		case unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EIO, unix.EINTR:
			return Short
		}
	}
	return Barred
}

// publish writes the state into the service's folder: first what lets others
// act on it, then what tells them.
func (s *Service) publish() {
	s.owed = false
	var held error
	if s.acted == (version{}) && s.state.Want != WantUp && s.state.Want != WantGone &&
		!s.config.Foreground && s.name != s.config.Essential {
		held = s.holdAgain() // the lock could not be written when it was asked for
	}
	err := errors.Join(held, s.remember(), s.write())
	s.silent(err)
}

// silent notes whether the state is published. What is told of is the first
// service that is not, and that there is none any more: when the run directory
// is full or gone, it is so for all.
func (s *Service) silent(err error) {
	switch {
	case err != nil && !s.unwritten:
		if s.config.silent.Add(1) == 1 {
			s.config.Report(Unpublished{s.name, err})
		}
	case err == nil && s.unwritten:
		if s.config.silent.Add(-1) == 0 {
			s.config.Report(Published{})
		}
	}
	s.unwritten = err != nil
}

func (s *Service) write() error {
	f, err := s.open()
	if err != nil {
		return err
	}
	if pid := int(s.state.Pid); s.state.Pid != s.shownPid {
		s.shownPid = unknownPid // until both files are as they should be
		if pid == 0 {
			err = f.Remove(rundir.Pid, rundir.Syspid)
		} else {
			// A script may have been faster and have written a number of
			// its own, which then is the one to show.
			if s.stale {
				err = f.Write(rundir.Pid, rundir.PidLine(pid))
			} else if err = f.WriteNew(rundir.Pid, rundir.PidLine(pid)); errors.Is(err, os.ErrExist) {
				err, s.unheard, s.there = nil, true, rundir.Everything
			}
			if err == nil {
				err = s.writeSyspid(f, pid)
			}
		}
		if err != nil {
			return err
		}
		s.shownPid = s.state.Pid
	}
	if s.unheard {
		s.listen(f)
	}
	status := s.state.Status(Now(), rundir.Clock(), time.Now())
	if r := s.remarks; r != nil {
		status.Requests, status.Refused, status.Said = r.requests, r.refused, r.said
	}
	status.Said.Heard = s.hears()
	if s.state.Pid == 0 {
		status.Said.Pid = 0
	}
	if status.Calls = -1; s.state.Phase == Up {
		status.Calls = s.habit.calls()
	}
	if err := f.Replace(rundir.State, status.Encode()); err != nil {
		return err
	}
	s.shown = s.state.sight()
	if s.remarks != nil {
		s.remarks.unseen = ""
	}
	return nil
}

// writeSyspid writes a file that as a rule is not there: see forgetRun.
func (s *Service) writeSyspid(f *rundir.Folder, pid int) error {
	err := f.WriteNew(rundir.Syspid, rundir.PidLine(pid))
	if errors.Is(err, os.ErrExist) {
		err = f.Write(rundir.Syspid, rundir.PidLine(pid))
	}
	return err
}
