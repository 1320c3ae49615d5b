//go:build linux

package load

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/scanner"
)

// With nothing to do the daemon does nothing but look at its service directory
// once a minute: the temporary folder must be on a file system of which the
// kernel tells everything. What a look costs in context switches is the Go
// runtime's affair: a thread is woken by the timer, perhaps another one to
// stand in for it, and the runtime's monitor looks around a few times before
// it goes back to sleep. Measured: 2 to 10 switches for a look, and 0.03 a
// second besides. A look every five seconds would be in every stretch of time,
// four times.
//
// On a busy machine a look is interrupted and costs up to 30. So a daemon is
// at rest if it is so in one of a few stretches of time: work that it makes
// for itself would be in all of them.
func TestDaemonAtRestDoesNothingButTheSlowCheck(t *testing.T) {
	t.Parallel()
	const (
		count     = 1000
		stretch   = 4 * scanner.Slow
		stretches = 4 // more than a minute
		switches  = 6 // 0.3 a second
		ticks     = 4 // of 10 ms; two of them may come of rounding
	)
	r := rig.New(t, rig.Plain)
	names := sleepers(r, count)
	r.Start()
	r.Await("up", up, names...)
	// At the first look the directory is still so new that it is read again;
	// after that, nothing must have happened for a whole round.
	time.Sleep(time.Until(r.Begun().Add(4*scanner.Slow + time.Second)))

	before := r.Usage()
	for i := range stretches {
		time.Sleep(stretch)
		after := r.Usage()
		switched, used := after.Switches-before.Switches, after.Ticks-before.Ticks
		t.Logf("%d services, %s: %d context switches, %d ticks of CPU (most: %d, %d)",
			count, stretch, switched, used, switches, ticks)
		if switched <= switches && used <= ticks {
			break
		}
		if i == stretches-1 {
			t.Errorf("context switches and ticks of CPU in each of %d times %s: got %d, %d in the last, want at most %d, %d",
				stretches, stretch, switched, used, switches, ticks)
		}
		before = after
	}

	// The counts can say otherwise: work that is asked for shows in them.
	before = r.Usage()
	r.Until("as many switches as are forbidden", func() bool {
		r.Daemon.Signal(unix.SIGHUP)
		return r.Usage().Switches-before.Switches > switches
	})
	r.End()
}
