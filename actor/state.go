// Package actor is the life of services: for each one an actor, a goroutine
// that owns the service's process and its folder in the run directory, and
// one supervisor that owns the actors.
//
// What happens next to a service is decided by Step, a pure function; the
// goroutine performs what Step decided. The package does not look into the
// service directory (scanner does) nor read requests (control does); both
// reach it as messages. It writes no log: it reports facts.
//
// Invariants: at most one process of a service at any time, and none before
// the group of the last one is empty; only the actor's goroutine touches its
// state; no message to an actor is ever refused or waited with.
package actor

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// Phase is where a service is. Its words are those of the status file.
type Phase uint8

// The phases. Up and Stopping are the ones in which it has a process.
const (
	Down     Phase = iota // it has no process and needs none, or is just being started
	Up                    // its main process runs
	Stopping              // its processes are being ended, or what the main one left behind is
	Backoff               // it has ended or could not be started, and waits for the next start
	Blocked               // it cannot be run as it is
)

// Phases lists all of them.
var Phases = []Phase{Down, Up, Stopping, Backoff, Blocked}

func (p Phase) String() string {
	return [...]string{rundir.Down, rundir.Up, rundir.Stopping, rundir.Backoff, rundir.Blocked}[p]
}

// Want is where a service is to be. Together with the phase it is the whole
// state: a restart is Stopping that wants Up, a start under way is Down that
// wants Up.
type Want uint8

// The wants.
const (
	WantDown Want = iota // held down
	WantUp               // kept alive
	WantOnce             // to run, and not to be restarted
	WantGone             // to end together with its actor: its entry is gone, or the daemon stops
)

// Wants lists all of them.
var Wants = []Want{WantDown, WantUp, WantOnce, WantGone}

func (w Want) String() string {
	return [...]string{"down", "up", "once", "gone"}[w]
}

// Moment is a time by the monotonic clock, in nanoseconds since epoch; zero is
// never. It is a third of a time.Time, of which each service has
// several.
type Moment int64

// epoch is what Moments begin at: long enough ago for every one that a daemon
// before this one has written down, and for the virtual time of tests, which
// begins in the year 2000, so that none is zero by chance or below it.
var epoch = time.Now().Add(-40 * 365 * 24 * time.Hour)

// Now is this Moment.
func Now() Moment { return Moment(time.Since(epoch)) }

// Add is like that of time.Time.
func (m Moment) Add(d time.Duration) Moment { return m + Moment(d) }

// Sub is like that of time.Time.
func (m Moment) Sub(earlier Moment) time.Duration { return time.Duration(m - earlier) }

// Before is like that of time.Time.
func (m Moment) Before(later Moment) bool { return m < later }

// IsZero tells whether it is never.
func (m Moment) IsZero() bool { return m == 0 }

// State is everything that Step knows of a service. There may be very many of
// them: what fits into fewer bits has no more. Its zero value is a service that
// is held down.
type State struct {
	Phase Phase
	Want  Want

	Failures uint8 // steps taken on the ladder of delays

	Group int32 // the process group: set in Up and Stopping, else 0
	Pid   int32 // the main process, which has the group's number; 0 once it is reaped

	Starts   int32 // how often it was started
	Restarts int32 // how often it ended by itself and was to be kept alive

	LastExit Ending // how its main process ended the last time

	Since  Moment // when the phase began
	Due    Moment // when Step wants a Timer event; zero: never
	KillAt Moment // Stopping: when to send KILL; zero: never, or sent
	Killed Moment // Stopping: when KILL was sent; zero: not

	NotBefore Moment // earliest next start, when it ended by itself
	Ended     Moment // when it last ended by itself

	Bar   string // why its entry cannot be run, from the scanner; empty if it can
	Cause string // why it is in this phase; Why makes the words for people

	// How long it had lived when it last ended by itself, and how long it had
	// waited in sysmgr-depends before.
	Life, Waited time.Duration
}

// The constants of section 4 and 5 of the manual, sysmgr(8).
const (
	lived      = time.Second            // an end after less than this is a failure
	forgiven   = 30 * time.Second       // one end in this time is none; so much life forgets all
	busyDelay  = 80 * time.Millisecond  // the file is being written (ETXTBSY)
	barDelay   = 5 * time.Second        // it could not be executed: try again
	probeEvery = 250 * time.Millisecond // a group is looked at again
	stuckAfter = 2 * time.Second        // KILL should have worked by then
	stuckEvery = 10 * time.Second       // and is looked at this often from then on
)

// delays is the ladder that failures climb; its last step is for good.
var delays = [...]time.Duration{
	1 * time.Second, 2 * time.Second, 4 * time.Second,
	8 * time.Second, 16 * time.Second, 30 * time.Second,
}

// Kind is what an Event is about.
type Kind uint8

// The kinds of events: wishes first, then what happened.
const (
	Start    Kind = iota // keep it alive from now on, and do not wait
	Stop                 // hold it down
	Kill                 // hold it down, beginning with KILL
	Once                 // let it run, once
	Restart              // stop it if it runs, then keep it alive
	Released             // its lock file is gone
	Signal               // send Event.Signal to the main process
	Shutdown             // the daemon stops

	Appeared // its entry is there, new or changed, and Event.Bar says if it can run
	Removed  // its entry is gone
	Started  // the Spawn that was asked for worked: Event.Pid
	Refused  // the Spawn did not work: Event.Refusal and Event.Cause
	Exited   // the main process ended: Event.Exit and Event.Alone
	Drained  // the group is empty
	Timer    // Due has come
)

// Kinds lists all of them.
var Kinds = []Kind{
	Start, Stop, Kill, Once, Restart, Released, Signal, Shutdown,
	Appeared, Removed, Started, Refused, Exited, Drained, Timer,
}

func (k Kind) String() string {
	return [...]string{
		"start", "stop", "kill", "once", "restart", "released", "signal", "shutdown",
		"appeared", "removed", "started", "refused", "exited", "drained", "timer",
	}[k]
}

// Refusal is why a Spawn did not work, as far as it decides what to do.
type Refusal uint8

// The refusals.
const (
	Barred Refusal = iota // the file cannot be executed as it is
	Short                 // the machine is short of something: processes, memory, files
	Busy                  // the file is open for writing
	Lapsed                // it may have run already, and is not to run twice
)

// Refusals lists all of them.
var Refusals = []Refusal{Barred, Short, Busy, Lapsed}

func (r Refusal) String() string { return [...]string{"barred", "short", "busy", "lapsed"}[r] }

// Event is one thing that a service's Step answers. At is always set; the
// other fields belong to the kinds that name them.
type Event struct {
	Kind    Kind
	At      Moment
	Bar     string             // Appeared
	Pid     int                // Started
	Refusal Refusal            // Refused
	Cause   string             // Refused; or a word about the order
	Exit    syscall.WaitStatus // Exited
	Alone   bool               // Exited: the group is empty too
	Waited  time.Duration      // Exited: how much of its life it waited in sysmgr-depends
	Signal  unix.Signal        // Signal

	// Manner is how the service wants to be stopped, read when the event
	// came. Set for every event that may begin a stop.
	Manner rundir.Manner
}

// Action is what an Effect does.
type Action uint8

// The actions.
const (
	Spawn     Action = iota // start the process; its answer is the next event of this service
	Tell                    // send Effect.Signal to the main process
	TellGroup               // send Effect.Signal to the group
	Probe                   // look whether the group is empty
	ProbeHard               // the same, and zombies do not count
	Retire                  // end the actor
)

// Effect is one thing that the actor does because Step said so, in order.
type Effect struct {
	Action Action
	Signal unix.Signal
}

func (e Effect) String() string {
	switch e.Action {
	case Spawn:
		return "spawn"
	case Tell:
		return "tell " + rundir.SignalName(e.Signal)
	case TellGroup:
		return "tell-group " + rundir.SignalName(e.Signal)
	case Probe:
		return "probe"
	case ProbeHard:
		return "probe-hard"
	case Retire:
		return "retire"
	}
	return "?"
}
