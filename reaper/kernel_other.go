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

// Without pthread_sigmask at hand, a blocked signal that we inherited is
// passed on.
func signalsBlocked() bool { return false }
func unblockSignals()      {}

func onlyZombies(int) bool { return false }

const orphanDelay = time.Hour

type orphans struct{}

func (r *Reaper) findEscaped() bool { return true }
