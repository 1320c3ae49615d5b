// Package reaper is the only place in the program that makes processes,
// signals them and waits for them. One goroutine, begun by Run, calls wait4(2)
// and routes each exit over a channel to whoever started that process; nobody
// else reaps, and neither os/exec nor os.Process is used in the daemon,
// because their waits and ours would steal from each other.
//
// It keeps no policy: what follows from an exit is the actor's business.
//
// Processes that the daemon before this one has started can be adopted. They
// are not our children: their ends are heard through a pidfd.
//
// Invariants: every child that ends is reaped; every process started here or
// adopted gets exactly one Exit; a signal goes only to a process that was
// started here and not yet reaped, to a process group that still has a member,
// or through a handle whose identity was checked.
package reaper

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is the end of a main process, and then that of what it left behind.
type Exit struct {
	Status  syscall.WaitStatus // as wait4(2) gave it
	Alone   bool               // nothing else is left in its process group
	Drained bool               // the main process had ended before, and now nothing is left in the group
}

// Process is a main process that was started, the leader of a session and a
// process group of its own whose numbers are Pid.
type Process struct {
	Pid int
	// Exited receives when the main process has been reaped and, unless that
	// Exit was Alone, once more when nothing is left in the group: Drained.
	Exited <-chan Exit
	// Gone is set for one that was to be adopted and had ended already.
	Gone bool
}

// child is the reaper's side of a Process.
type child struct {
	exited chan<- Exit
	away   *away // it was adopted, and is not our child; nil otherwise
}

// leftover is what a main process left behind in its group.
type leftover struct {
	child
	ended time.Time // when the main process was seen to have ended
}

// exits is the channel for the exits of a process: the caller's, or one for it
// alone.
func exits(given chan Exit) chan Exit {
	if given == nil {
		given = make(chan Exit, 2)
	}
	return given
}

// earlyExit is the end of a process that was not known when it was reaped.
type earlyExit struct {
	status syscall.WaitStatus
	forks  uint64
}

// Reaper makes, signals and reaps. Its methods may be called from any
// goroutine while Run runs.
type Reaper struct {
	report func(Fact)
	null   *os.File
	slots  slots
	again  chan struct{} // asks for one more sweep
	ends   chan struct{} // a main process has ended, as far as Run wants to know
	looks  atomic.Bool   // Run knows already
	ended  chan struct{} // closed when reapLoop has returned, which may be after Run
	sub    bool          // orphans come to us: we are PID 1 or a subreaper

	// mu makes reaping and everything that must not race with it one at a
	// time: as long as it is held, no number that the tables know can be
	// given to another process by the kernel. It is never held over a fork.
	mu       sync.Mutex
	over     bool                  // Run has returned: what ends now is not ours to reap
	main     map[int32]chan<- Exit // main processes not yet reaped; there may be very many
	foreign  map[int]*away         // those of them that were adopted, and are not our children
	draining map[int]leftover      // groups whose main process has been reaped
	// Between a fork and its return the number of the child is not known
	// here, but the child may already have ended and been reaped. As long
	// as forks are on their way, exits of unknown processes are kept, with
	// the number of the youngest fork at that moment: a fork that is younger
	// still has nothing to do with them, even if its child got their number.
	forking int
	forks   uint64        // all forks so far
	forked  time.Time     // when the youngest began
	shut    chan struct{} // closed when forks may begin again; nil: they may. See HoldForks
	early   map[int]earlyExit
	// Children that we have from before this program was executed, and how
	// those ended that were reaped before they were adopted. Nil in a program
	// that began with no children.
	missed  map[int]*syscall.WaitStatus
	adopted adopted

	// still is write-locked while nothing is to be reaped; see Hold.
	still sync.RWMutex

	// reading guards last: whoever probes reads the process table, without mu.
	reading sync.Mutex
	last    *table

	orphans orphans
}

// Fact is something the reaper tells whoever keeps the log.
type Fact interface{ fact() }

// Reaped is told of a process that nobody here started: an orphan that came
// to us.
type Reaped struct {
	Pid    int
	Status syscall.WaitStatus
}

// Escaped is told once of a process that left its service's process group
// (a daemon that called setsid) and was still there when the service ended.
// Service is its name if the process still says so, else empty.
type Escaped struct {
	Pid     int
	Service string
}

func (Reaped) fact()  {}
func (Escaped) fact() {}

// New makes a reaper and, where the platform can, makes the program the one
// that orphans come to (PR_SET_CHILD_SUBREAPER of prctl(2)). report is called
// from the reaping goroutine and must not block.
func New(report func(Fact)) (*Reaper, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	learnLimits()
	closeOnExec()
	resetIgnored()
	return &Reaper{
		report:   report,
		null:     null,
		slots:    newSlots(0),
		again:    make(chan struct{}, 1),
		ends:     make(chan struct{}, 1),
		ended:    make(chan struct{}),
		sub:      os.Getpid() == 1 || adoptOrphans(),
		main:     make(map[int32]chan<- Exit),
		foreign:  make(map[int]*away),
		draining: make(map[int]leftover),
		early:    make(map[int]earlyExit),
	}, nil
}

// Processors says how many processors of the runtime (GOMAXPROCS) there are to
// be from the first Start on; see Enough. It is called before Run.
func (r *Reaper) Processors(n int) { r.slots = newSlots(n) }

// Run reaps until ctx is done. It is called once, and must go on until the
// last Process has ended and the last Start has returned.
func (r *Reaper) Run(ctx context.Context) error {
	go r.reapLoop(ctx)
	defer func() {
		r.dismiss()
		r.null.Close()
		r.mu.Lock()
		r.over = true
		r.mu.Unlock()
	}()
	look := time.NewTimer(time.Hour)
	look.Stop()
	for {
		select {
		case <-r.ends:
			look.Reset(orphanDelay)
		case <-look.C:
			r.looks.Store(false) // what ends from now on is for the next look
			if !r.findEscaped() && !r.looks.Swap(true) {
				look.Reset(orphanDelay)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// reapLoop is the goroutine that reaps. It waits in the kernel for the end of a
// child, which is the shortest way to learn of it. That cannot be interrupted:
// if there are children when ctx is done it ends with the next one of them, but
// reaps no more. Without a child there is nothing to wait in; then SIGCHLD tells
// of those that come to us by themselves, or it is told of the next start.
func (r *Reaper) reapLoop(ctx context.Context) {
	// Notify and never Ignore: an ignored signal stays ignored in children.
	defer close(r.ended)
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	defer signal.Stop(chld)
	hear := deafen()
	defer hear()
	for ctx.Err() == nil {
		pid, ended := awaitEnd()
		if ended {
			// Begin a new time slice: the runtime counts this one from
			// before the wait, and would end it in the middle of a start.
			runtime.Gosched()
			r.reapFrom(pid)
			continue
		}
		hear()
		r.reapFrom(anyChild) // it may have ended before we could hear it
		select {
		case <-chld:
		case <-r.again:
		case <-ctx.Done():
		}
		deafen()
	}
}

// anyChild stands for all of them (wait4(2)).
const anyChild = -1

// reapFrom takes a child that has ended. Those that wait for news of it come
// first, on this processor: a thread that blocks in the kernel keeps its
// processor for a while.
func (r *Reaper) reapFrom(pid int) {
	mainEnded := r.reap(pid)
	runtime.Gosched()
	if pid != anyChild {
		mainEnded = r.reap(anyChild) || mainEnded // what has ended meanwhile
	}
	if mainEnded && !r.looks.Swap(true) {
		poke(r.ends)
	}
}

// poke tells the reader of a channel that there is something to do, unless it
// knows.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reap takes a child that has ended, or with anyChild every one. It tells
// whether a main process was, or may have been, among them.
func (r *Reaper) reap(pid int) (mainEnded bool) {
	for {
		r.still.RLock()
		ended, strangers, more := r.reapSome(pid)
		r.still.RUnlock()
		mainEnded = mainEnded || ended
		for _, s := range strangers {
			r.report(s)
		}
		if !more {
			return mainEnded
		}
		pid = anyChild
	}
}

// some is how many children are reaped at one time. Then the groups that may
// have lost their last process are looked at, once for all of them: to look
// after each would be a thousand times a thousand when services that leave
// children behind are stopped together. It must be done before mu is given
// back, while no number of an empty group can have a new owner; and others
// want mu too.
const some = 256

// reapSome takes the child of this number, and if it was no main process then
// some of all that have ended. It tells whether there may be more. To look for
// any child the kernel goes through the list of all; to find one by its number
// it does not.
func (r *Reaper) reapSome(first int) (mainEnded bool, strangers []Reaped, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false, nil, false
	}
	orphaned := false
	for range some {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(first, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if more = err == nil && pid > 0; !more {
			break
		}
		c, known := r.child(pid)
		_, expected := r.missed[pid]
		switch {
		case known && c.away == nil:
			r.strike(pid)
			r.route(pid, c, status)
			mainEnded = true
			if first != anyChild {
				return true, nil, false
			}
		case expected:
			r.missed[pid] = &status
		case r.forking > 0:
			r.early[pid] = earlyExit{status, r.forks}
			orphaned, mainEnded = true, true
		default:
			strangers = append(strangers, Reaped{Pid: pid, Status: status})
			orphaned = true
		}
		first = anyChild
	}
	if orphaned {
		r.drain()
	}
	return mainEnded, strangers, more
}

// child finds a main process that is not yet reaped. Called with mu held.
func (r *Reaper) child(pid int) (c child, known bool) {
	exited, known := r.main[int32(pid)]
	return child{exited, r.foreign[pid]}, known
}

// note makes one known. Called with mu held.
func (r *Reaper) note(pid int, c child) {
	r.main[int32(pid)] = c.exited
	if c.away != nil {
		r.foreign[pid] = c.away
	}
}

// strike makes it unknown again. Called with mu held.
func (r *Reaper) strike(pid int) {
	delete(r.main, int32(pid))
	delete(r.foreign, pid)
}

// route hands an exit to its owner. Called with mu held; it does not block,
// because each channel has room for all it will ever get.
func (r *Reaper) route(pid int, c child, status syscall.WaitStatus) {
	alone := empty(pid)
	if !alone {
		r.draining[pid] = leftover{c, time.Now()}
	}
	c.exited <- Exit{Status: status, Alone: alone}
}

// drain looks whether a group that had lost its main process is empty now.
// Called with mu held, after processes were reaped that may have been in one.
func (r *Reaper) drain() {
	for group, l := range r.draining {
		if l.away == nil && empty(group) {
			r.drained(group, l)
		}
	}
}

// drained tells that a group is empty. Called with mu held.
func (r *Reaper) drained(group int, l leftover) {
	delete(r.draining, group)
	l.away.close()
	l.exited <- Exit{Drained: true}
}

// empty tells whether no process is left in a group, as kill(2) with signal 0
// says; a zombie that nobody has reaped counts as left.
func empty(group int) bool { return unix.Kill(-group, 0) == unix.ESRCH }

// Probe looks again whether a group is empty that has lost its main process;
// if so, its Drained is told of. It is for what the reaper cannot see: members
// that are not our children. With hard set, a group in which only zombies are
// left counts as empty: they hold nothing, and who should reap them may never
// do it.
func (r *Reaper) Probe(group int, hard bool) {
	r.mu.Lock()
	l, left := r.draining[group]
	r.mu.Unlock()
	if !left {
		return
	}
	// The process table is read without mu, which reaping needs. It may be
	// old then, but who is dead does not come to life, and nobody joins a
	// group from outside its session (setpgid(2)).
	var dead bool
	if l.away != nil {
		dead = l.away.empty(r.table(l.ended))
	} else {
		dead = hard && r.onlyZombies(group, l.ended)
	}
	r.mu.Lock()
	if r.draining[group] == l && (dead || l.away == nil && empty(group)) {
		r.drained(group, l)
	}
	quiet := len(r.draining) == 0
	r.mu.Unlock()
	if quiet {
		r.reading.Lock()
		r.last = nil // it is large
		r.reading.Unlock()
	}
}

// Signal sends sig to a main process that has not been reaped. ESRCH if there
// is no such process any more. It does not block.
func (r *Reaper) Signal(pid int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.child(pid)
	switch {
	case !ok:
		return unix.ESRCH
	case c.away != nil:
		return c.away.signal(sig)
	}
	return unix.Kill(pid, sig)
}

// SignalGroup sends sig to everything in the group of a process that was
// started here, whether its main process still lives or not. ESRCH if nothing
// of it is left. It does not block.
func (r *Reaper) SignalGroup(group int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.child(group)
	if !ok {
		var l leftover
		l, ok = r.draining[group]
		c = l.child
	}
	switch {
	case !ok:
		return unix.ESRCH
	case c.away != nil:
		return c.away.signalGroup(sig)
	}
	return unix.Kill(-group, sig)
}
