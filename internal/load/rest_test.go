//go:build linux

package load

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/scanner"
)

// With nothing to do the daemon does nothing but look at its service
// directory every five seconds. What that costs in context switches is the Go
// runtime's affair: a thread is woken by the timer, perhaps another one to
// stand in for it, and the runtime's monitor looks around a few times before
// it goes back to sleep. Measured: 2 to 4 switches for a look, and 0.03 a
// second besides. A ticker of 100 ms would be 490 in the time measured here.
//
// On a busy machine a look is interrupted and costs up to 30. So a daemon is
// at rest if it is so in one of a few stretches of time: work that it makes
// for itself would be in all of them.
func TestDaemonAtRestDoesNothingButTheSlowCheck(t *testing.T) {
	t.Parallel()
	const (
		count     = 1000
		stretch   = 10 * time.Second
		stretches = 5
		looks     = int(stretch/scanner.Slow) + 1
		switches  = looks * 10
		ticks     = 4 // of 10 ms; two of them may come of rounding
	)
	r := rig.New(t, rig.Plain)
	names := sleepers(r, count)
	r.Start()
	r.Await("up", up, names...)
	// At the first look the directory is still so new that it is read again.
	time.Sleep(time.Until(r.Begun().Add(scanner.Slow + time.Second)))

	before := r.Usage()
	for i := range stretches {
		time.Sleep(stretch)
		after := r.Usage()
		switched, used := after.Switches-before.Switches, after.Ticks-before.Ticks
		t.Logf("%d services, %s: %d context switches, %d ticks of CPU (most: %d for %d looks, %d ticks)",
			count, stretch, switched, used, switches, looks, ticks)
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
