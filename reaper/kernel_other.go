//go:build !linux

package reaper

import (
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans: only Linux has a subreaper that we use; elsewhere orphans go
// to init, and groups are probed.
func adoptOrphans() bool { return false }

// closeOnExec keeps descriptors that we were started with from our services.
func closeOnExec() {
	for fd := 3; fd < 256; fd++ {
		unix.CloseOnExec(fd)
	}
}

func resetIgnored() {}

// awaitEnd: SIGCHLD tells of all ends.
func awaitEnd() (pid int, ok bool) { return 0, false }

func deafen() (hear func()) { return func() {} }

// Without pthread_sigmask at hand, a blocked signal that we inherited is
// passed on.
func unblockSignals() {}

func (r *Reaper) onlyZombies(int, time.Time) bool { return false }

// BootTime: start times of processes are not read here.
func BootTime() time.Duration { return 0 }

// away: nothing is adopted here but children, because there is no handle that
// surely means one process.
type away struct{}

type (
	adopted struct{}
	table   struct{}
)

func isChild(Adoption) bool                 { return true }
func (*away) close()                        {}
func (*away) signal(unix.Signal) error      { return unix.ESRCH }
func (*away) signalGroup(unix.Signal) error { return unix.ESRCH }
func (*away) empty(*table) bool             { return true }
func (r *Reaper) table(time.Time) *table    { return nil }
func (r *Reaper) dismiss()                  {}

func (r *Reaper) adopt(a Adoption, c child) (lives bool) {
	if a.Led {
		c.exited <- Exit{Status: Unknown, Alone: true}
	} else {
		c.exited <- Exit{Drained: true}
	}
	return false
}

// Find: see Adopt.
func (r *Reaper) Find(string, time.Duration) (a Adoption, found bool) { return a, false }

const orphanDelay = time.Hour

type orphans struct{}

func (r *Reaper) findEscaped() bool { return true }
