package reaper

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/program"
)

// Command is a program to start: its absolute path, which is also its first
// argument, what other arguments it gets, and its whole environment.
type Command struct {
	Path string
	Args []string
	Env  []string
	Mute bool // it has nothing to write to

	// Exited is what the Process is to have as its own; nil is allowed. It has
	// room for the two exits of a process, which are sent and not waited with.
	Exited chan Exit

	// Late is called, from another goroutine, if the fork takes longer than it
	// should; nil is allowed. Start does not return before it has.
	Late func()
}

// lateAfter is how long a fork takes before it is late: longer than one on a
// machine that is very busy.
const lateAfter = 3 * time.Second

// StartError says why a process could not be started. Errno is what fork or
// execve(2) said; Reason says it for people, where more than that is known.
type StartError struct {
	Errno  syscall.Errno
	Reason string
}

func (e *StartError) Error() string { return e.Reason }

// Unwrap makes errors.Is work with the errno.
func (e *StartError) Unwrap() error { return e.Errno }

// Start runs a command as the leader of a new session, with /dev/null as its
// standard input, our standard output and error, no other descriptor, no
// blocked and no ignored signal, and the soft limit of open files that we
// were given (the Go runtime had raised ours). It blocks until the program
// has been executed, or has not: then the error is a *StartError.
func (r *Reaper) Start(command Command) (Process, error) {
	f := r.slots.enter(command.Late)
	defer r.slots.leave(f)
	return r.start(command)
}

// slots are for the forks that are under way. One that hangs gives its slot to
// another.
type slots struct {
	widen    func()        // called before each fork; does something before the first
	room     chan struct{} // one token for each fork, hung ones too
	free     chan struct{} // one for each that does not hang
	mu       sync.Mutex    // guards what follows, between forks and the watch
	now      []*fork       // under way, and do not hang; the oldest first
	watch    *time.Timer
	watching bool
}

// fork is one that is under way.
type fork struct {
	begun time.Time
	late  func()

	mu   sync.Mutex // held while late is called
	over bool
}

// hanging is how long a fork may take before another may begin in its place.
const hanging = 100 * time.Millisecond

// mostForks is how many forks there may be at all, with those that hang: each
// has a thread. Most files that cannot be read hang before, in stat(2).
const mostForks = 16

// newSlots has so many processors of the runtime at the first fork: each costs
// memory from then on.
func newSlots(processors int) slots {
	return slots{
		room: make(chan struct{}, mostForks),
		free: make(chan struct{}, forksAtATime),
		widen: sync.OnceFunc(func() {
			if processors > runtime.GOMAXPROCS(0) {
				runtime.GOMAXPROCS(processors)
			}
		}),
	}
}

// enter waits for its turn.
func (s *slots) enter(late func()) *fork {
	s.widen()
	s.room <- struct{}{}
	s.free <- struct{}{}
	f := &fork{begun: time.Now(), late: late}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = append(s.now, f)
	// One timer for all that follow each other, left to ring when they are
	// over: to set one wakes a thread, which somebody else may wait for.
	if !s.watching {
		s.watching = true
		go s.arm()
	}
	return f
}

func (s *slots) leave(f *fork) {
	s.mu.Lock()
	if i := slices.Index(s.now, f); i >= 0 {
		s.give(i)
	}
	s.mu.Unlock()
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	<-s.room
	if len(s.room) > 0 {
		// The next one, first and on this processor, before what comes of
		// this fork: forks are what everything waits for.
		runtime.Gosched()
	}
}

// give gives a slot to the next. Called with mu held.
func (s *slots) give(i int) {
	s.now = slices.Delete(s.now, i, i+1)
	<-s.free
}

func (s *slots) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watch == nil {
		s.watch = time.AfterFunc(hanging, s.look)
	} else {
		s.watch.Reset(hanging)
	}
}

// look gives the slots of forks that hang to others.
func (s *slots) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.now) > 0 {
		f := s.now[0]
		if left := hanging - time.Since(f.begun); left > 0 {
			s.watch.Reset(left)
			return
		}
		s.give(0)
		time.AfterFunc(lateAfter-hanging, f.tell)
	}
	s.watching = false
}

// tell tells that it is late.
func (f *fork) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over && f.late != nil {
		f.late()
	}
}

// Collect collects the garbage, unless a fork hangs and keeps its processor: a
// collection has to stop every processor for a moment, which may be never then.
// It waits a little for the fork that is under way, and new ones wait for it.
// Thoroughly means that memory which is free then is given back to the kernel.
// It tells whether there was a collection.
func (r *Reaper) Collect(thoroughly bool) bool {
	if keepsProcessor {
		release, ok := r.alone()
		if !ok {
			return false
		}
		defer release()
	}
	if thoroughly {
		debug.FreeOSMemory()
	} else {
		runtime.GC()
	}
	return true
}

// alone keeps forks from beginning, and tells whether none is under way.
func (r *Reaper) alone() (release func(), ok bool) {
	select {
	case r.slots.free <- struct{}{}:
	case <-time.After(forkTime):
		return nil, false
	}
	release = func() { <-r.slots.free }
	r.mu.Lock()
	hangs := r.forking > 0
	r.mu.Unlock()
	if hangs {
		release()
	}
	return release, !hangs
}

// forkTime is more than a fork takes, and those that wait for theirs before us.
const forkTime = 50 * time.Millisecond

func (r *Reaper) start(command Command) (Process, error) {
	exited := exits(command.Exited)
	c := child{exited: exited}
	pid, mine, err := r.fork(command)

	r.mu.Lock()
	r.forking--
	if err == nil {
		r.enter(pid, c, mine)
	}
	var strangers map[int]earlyExit
	if r.forking == 0 && len(r.early) > 0 {
		// What is left are orphans, and children whose execve failed, where
		// the fork itself waits for those.
		strangers = r.early
		r.early = make(map[int]earlyExit)
	}
	r.mu.Unlock()
	for pid, e := range strangers {
		if e.status.ExitStatus() != execFailed {
			r.report(Reaped{Pid: pid, Status: e.status})
		}
	}
	poke(r.again) // there is a child to wait for
	if err != nil {
		return Process{}, startError(command.Path, err)
	}
	return Process{Pid: pid, Exited: exited}, nil
}

// execFailed is the status with which a child ends when execve(2) fails: the Go
// runtime's (syscall/exec_linux.go), and ours.
const execFailed = 253

// fork is fork and execve in one, the way execvp(3) does it: a script without
// #! runs under /bin/sh. mine is the number of the fork. It is still counted as
// under way.
func (r *Reaper) fork(command Command) (pid int, mine uint64, err error) {
	mine = r.begin()
	pid, err = r.execute(command.Path, append([]string{command.Path}, command.Args...), command)
	if err == syscall.ENOEXEC && program.Script(command.Path) {
		const shell = "/bin/sh"
		r.forget(pid, mine)
		r.mu.Lock()
		r.forking--
		r.mu.Unlock()
		mine = r.begin() // it is another, and the first may have taken long
		pid, err = r.execute(shell, []string{shell, command.Path}, command)
	}
	if err != nil {
		r.forget(pid, mine)
	}
	return pid, mine, err
}

// begin counts a fork as under way, as soon as it may begin: see HoldForks.
func (r *Reaper) begin() (mine uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.shut != nil {
		shut := r.shut
		r.mu.Unlock()
		<-shut
		r.mu.Lock()
	}
	r.forking++
	r.forked = time.Now()
	r.forks++
	return r.forks
}

// forget leaves a child that could not execute to be reaped: nobody is to hear
// of its end. mine is the number of its fork.
func (r *Reaper) forget(pid int, mine uint64) {
	if pid > 0 {
		r.mu.Lock()
		r.enter(pid, child{exited: exits(nil)}, mine)
		r.mu.Unlock()
	}
}

// enter makes a child known, whose end may have been seen already. Called with
// mu held.
func (r *Reaper) enter(pid int, c child, mine uint64) {
	if e, ended := r.early[pid]; ended && e.forks >= mine {
		delete(r.early, pid)
		r.route(pid, c, e.status)
	} else {
		r.note(pid, c)
	}
}

// Exec is execve(2) in our own place, with what a service would get of what we
// were given. It returns only if it fails.
func (r *Reaper) Exec(path string, argv, env []string) error { return replace(path, argv, env) }

// startError finds the words for a failed start. The same ENOENT stands for a
// missing file and for a missing interpreter; a look at the file tells.
func startError(path string, err error) error {
	e := &StartError{Reason: err.Error()}
	if !errors.As(err, &e.Errno) {
		return e
	}
	switch e.Errno {
	case unix.ENOENT, unix.EACCES, unix.ELOOP, unix.ENOTDIR, unix.EISDIR, unix.ENOEXEC:
		if why := program.Check(path); why != nil {
			e.Reason = why.Error()
		} else if e.Errno == unix.ENOENT {
			// The file is there, so it is what the file asks for.
			e.Reason = "its interpreter or loader does not exist"
		} else {
			e.Reason = fmt.Sprintf("cannot be executed: %v", e.Errno)
		}
	}
	return e
}
