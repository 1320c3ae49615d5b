package actor

import (
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// habit is what an actor knows of its service's calls of sysmgr-depends: those
// that wait for the service want to know whether it has yet to wait itself.
type habit struct {
	file   rundir.Version // the program that was last started
	ran    rundir.Version // the one that last lived long enough to show, on any machine
	called int32          // how often it did
}

// begun is called at the beginning of a run, with the path of what is run.
func (h *habit) begun(path string) {
	h.file = 0
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		h.file = rundir.StampOf(&st).Version()
	}
}

// calls is how often this run will call sysmgr-depends, if it does as the last
// one of the same program; -1 if that is not known.
func (h *habit) calls() int {
	if h.ran != h.file || h.file == 0 {
		return -1
	}
	return int(h.called)
}

// ended is called when a run is over, or is to be, after so much life. It
// returns how much of that went by in sysmgr-depends, as it says. The service
// itself may have written that; so it can be no more than all.
func (h *habit) ended(wait rundir.Wait, life time.Duration) (waited time.Duration) {
	waited = min(wait.At(rundir.Clock()), life)
	h.ran = 0
	if life-waited >= forgiven && wait.Since == 0 {
		h.ran, h.called = h.file, int32(wait.Calls)
	}
	return waited
}
