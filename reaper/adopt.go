package reaper

import (
	"syscall"
	"time"
)

// Unknown is the status of an Exit that nobody could read: the process was
// not our child. No wait4(2) of ours returns it (it says "continued").
const Unknown syscall.WaitStatus = 0xffff

// Adoption says which process, started by an earlier daemon, is to be taken
// over, and how to tell it from a stranger that got its number.
type Adoption struct {
	Group int  // its process group, whose number is that of the main process
	Led   bool // the main process had not ended, as far as the earlier daemon knew

	// The main process was made between these two moments by BootTime.
	From, To time.Duration

	// Mark is an entry of the environment that the main process was started
	// with, and no other service. It decides who is left of a group whose
	// main process is gone.
	Mark string

	Exited chan Exit // as in a Command
}

// Adopt takes over a process that was started by the daemon before this one.
// It always answers with a Process: if the main process has ended meanwhile,
// its Exited receives at once, with the status Unknown unless the kernel still
// tells it; if it was not Led, it is only told when it is Drained. Whoever is not, by
// number and start time, what the Adoption says is left alone.
//
// A process that is still our child, because this program has replaced the one
// that started it (execve(2) keeps children), is watched like any other.
func (r *Reaper) Adopt(a Adoption) Process {
	exited := exits(a.Exited)
	c := child{exited: exited}
	mine, lives := r.keep(a, c)
	if !mine {
		lives = r.adopt(a, c)
	}
	return Process{Pid: a.Group, Exited: exited, Gone: !lives}
}

// Expect names the main processes that the program has from before it was
// executed anew, so that an exit of theirs which is reaped before they are
// adopted is not lost. It is called before Run.
func (r *Reaper) Expect(pids ...int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed = make(map[int]*syscall.WaitStatus, len(pids))
	for _, pid := range pids {
		r.missed[pid] = nil
	}
}

// keep takes over a process that is our own child, or a group of one, and
// tells whether it was, and whether the main process had not ended.
func (r *Reaper) keep(a Adoption, c child) (mine, lives bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missed == nil {
		return false, false // nothing can be ours: the program is new
	}
	if !a.Led {
		// Nobody has reaped since then, so the number is still the group's.
		if empty(a.Group) {
			c.exited <- Exit{Drained: true}
		} else {
			r.draining[a.Group] = leftover{c, time.Now()}
		}
		return true, false
	}
	status := r.missed[a.Group]
	delete(r.missed, a.Group)
	switch {
	case status != nil:
		r.route(a.Group, c, *status)
		return true, false
	case isChild(a):
		r.note(a.Group, c)
		return true, true
	}
	return false, false
}

// Hold ends all reaping until Resume: what ends from now on is left to the
// program that is executed in our place. Everything else goes on. It waits for
// the reaping that is under way.
func (r *Reaper) Hold() { r.still.Lock() }

// HoldForks lets no fork begin until Resume, and waits for those under way: a
// descriptor that is to outlive our own execve(2) must not be one that a child
// keeps. A fork that hangs has its copies already, and is not waited for.
func (r *Reaper) HoldForks() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = make(chan struct{})
	for r.forking > 0 && time.Since(r.forked) < lateAfter {
		r.mu.Unlock()
		time.Sleep(time.Millisecond)
		r.mu.Lock()
	}
}

// Resume ends a Hold, and a HoldForks.
func (r *Reaper) Resume() {
	r.mu.Lock()
	if r.shut != nil {
		close(r.shut)
		r.shut = nil
	}
	r.mu.Unlock()
	r.still.Unlock()
	poke(r.again)
}
