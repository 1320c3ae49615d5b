package reaper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
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
	Mute bool // what it writes goes nowhere

	// Late is called, by the goroutine that called Start, if the fork takes
	// longer than it should; nil is allowed.
	Late func()
}

// lateAfter is how long a fork takes before it is late: longer than one on a
// machine that is very busy.
const lateAfter = time.Second

// StartError says why a process could not be started. Errno is what fork or
// execve(2) said; Reason says it for people, where more than that is known.
type StartError struct {
	Errno  syscall.Errno
	Reason string
}

func (e *StartError) Error() string { return e.Reason }

// Unwrap makes errors.Is work with the errno.
func (e *StartError) Unwrap() error { return e.Errno }

// job is a Start on its way to a forking goroutine and back.
type job struct {
	command Command
	answer  chan answer
}

type answer struct {
	process Process
	err     error
}

// Start runs a command as the leader of a new session, with /dev/null as its
// standard input, our standard output and error, no other descriptor, no
// blocked and no ignored signal, and the soft limit of open files that we
// were given (the Go runtime had raised ours). It blocks until the program
// has been executed, or has not: then the error is a *StartError.
//
// The fork is done on another goroutine, so that the stack of the caller, one
// of thousands, stays small.
func (r *Reaper) Start(command Command) (Process, error) {
	j := job{command: command, answer: make(chan answer, 1)}
	r.jobs <- j // which may have to wait for others
	late := time.NewTimer(lateAfter)
	defer late.Stop()
	for {
		select {
		case a := <-j.answer:
			return a.process, a.err
		case <-late.C:
			if command.Late != nil {
				command.Late()
			}
		}
	}
}

// forkLoop serves Starts until stop is closed. One of the loops forks, and the
// others wait in case it hangs: a child has copies of all our descriptors until
// it has executed, among them the pipe by which another fork, begun a moment
// before, learns of the success of its own. If it hung, so would that one.
func (r *Reaper) forkLoop(stop <-chan struct{}) {
	for {
		select {
		case r.slot <- struct{}{}:
		case <-stop:
			return
		}
		select {
		case j := <-r.jobs:
			back := sync.OnceFunc(func() { <-r.slot })
			late := time.AfterFunc(hanging, back)
			process, err := r.start(j.command)
			late.Stop()
			back()
			j.answer <- answer{process, err}
		case <-stop:
			return
		}
	}
}

// hanging is how long a fork may take before another may begin in its place. It
// has a processor (GOMAXPROCS) as long as it hangs, so that cannot go on for
// ever; most files that cannot be read hang before, in stat(2).
const hanging = 100 * time.Millisecond

// Collect collects the garbage, unless a fork is under way: a collection has to
// stop every processor for a moment, and one that is in a fork cannot be
// stopped before the child has executed, which may be never. New forks wait
// for the collection. Thoroughly means that memory which is free then is given
// back to the kernel. It tells whether there was a collection.
func (r *Reaper) Collect(thoroughly bool) bool {
	if !r.calm.TryLock() {
		return false
	}
	defer r.calm.Unlock()
	runtime.GC()
	if thoroughly {
		// Once more: each collection makes a stack that is too large half as
		// large (the runtime's shrinkstack).
		debug.FreeOSMemory()
	}
	return true
}

func (r *Reaper) start(command Command) (Process, error) {
	c := &child{exited: make(chan Exit, 1), drained: make(chan struct{})}
	r.mu.Lock()
	for r.shut != nil {
		shut := r.shut
		r.mu.Unlock()
		<-shut
		r.mu.Lock()
	}
	r.forking++
	r.forked = time.Now()
	r.forks++
	mine := r.forks
	r.mu.Unlock()

	r.calm.RLock()
	pid, err := r.fork(command)
	r.calm.RUnlock()

	r.mu.Lock()
	r.forking--
	if err == nil {
		if e, ended := r.early[pid]; ended && e.forks >= mine {
			delete(r.early, pid)
			r.route(pid, c, e.status)
		} else {
			r.main[pid] = c
		}
	}
	var strangers map[int]earlyExit
	if r.forking == 0 && len(r.early) > 0 {
		// What is left are children whose execve failed, which the fork
		// itself waited for in vain, and orphans.
		strangers = r.early
		r.early = make(map[int]earlyExit)
	}
	r.mu.Unlock()
	for pid, e := range strangers {
		if e.status.ExitStatus() != execFailed {
			r.report(Reaped{Pid: pid, Status: e.status})
		}
	}
	if err != nil {
		return Process{}, startError(command.Path, err)
	}
	return Process{Pid: pid, Exited: c.exited, Drained: c.drained}, nil
}

// execFailed is the status with which Go's forked child ends when execve(2)
// fails (syscall/exec_linux.go).
const execFailed = 253

// fork is fork and execve in one, the way execvp(3) does it: a script without
// #! runs under /bin/sh.
func (r *Reaper) fork(command Command) (int, error) {
	attr := &syscall.ProcAttr{
		Env:   command.Env,
		Files: []uintptr{r.null.Fd(), os.Stdout.Fd(), os.Stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if command.Mute {
		attr.Files[1], attr.Files[2] = r.null.Fd(), r.null.Fd()
	}
	if attr.Env == nil {
		attr.Env = []string{}
	}
	// A signal that is blocked in this thread would stay blocked in the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unblockSignals()
	pid, err := syscall.ForkExec(command.Path, append([]string{command.Path}, command.Args...), attr)
	if err == syscall.ENOEXEC && program.Script(command.Path) {
		const shell = "/bin/sh"
		return syscall.ForkExec(shell, []string{shell, command.Path}, attr)
	}
	return pid, err
}

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
