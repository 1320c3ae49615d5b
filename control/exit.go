package control

import (
	"errors"
	"io/fs"

	"sysmgr/internal/rundir"
)

// The exit statuses of svctl(1) and sysmgr-depends(1) for what a client's
// wish came to; 2 is for wrong usage.
const (
	ExitReached = 0
	ExitFailed  = 1 // not reached, and why not is known
	ExitTime    = 3
	ExitUnknown = 4
	ExitDead    = 5 // sysmgr is not running
	ExitDenied  = 6
)

// ExitStatus is the exit status for an outcome, a Target's Err.
func ExitStatus(err error) int {
	switch {
	case err == nil:
		return ExitReached
	case errors.Is(err, ErrTime):
		return ExitTime
	case errors.Is(err, ErrUnknown):
		return ExitUnknown
	case errors.Is(err, rundir.ErrNotRunning):
		return ExitDead
	case errors.Is(err, fs.ErrPermission):
		return ExitDenied
	}
	return ExitFailed
}
