package actor

import (
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// habit is what an actor knows of its service's calls of sysmgr-depends: those
// that wait for the service want to know whether it has yet to wait itself.
type habit struct {
	file   program // what was last started
	called int32   // how often it did when it last ran, and one more; 0: not known
}

// program is the version of one, as far as there is room for it: who takes one for
// another expects what that one did. Zero is one that nobody knows.
type program uint32

// begun is called at the beginning of a run, with the path of what is run.
func (h *habit) begun(path string) {
	var file program
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		file = program(max(1, uint32(rundir.StampOf(&st).Version())))
	}
	if file != h.file || file == 0 {
		*h = habit{file: file}
	}
}

// calls is how often this run will call sysmgr-depends, if it does as the last
// one of the same program; -1 if that is not known.
func (h *habit) calls() int { return int(h.called) - 1 }

// ended is called when a run is over, or is to be, after so much life. It
// returns how much of that went by in sysmgr-depends, as it says. The service
// itself may have written that; so it can be no more than all.
func (h *habit) ended(wait rundir.Wait, life time.Duration) (waited time.Duration) {
	waited = min(wait.At(rundir.Clock()), life)
	h.called = 0
	// Only a run that lived long enough shows it, on any machine.
	if life-waited >= forgiven && wait.Since == 0 && h.file != 0 {
		h.called = int32(wait.Calls) + 1
	}
	return waited
}
