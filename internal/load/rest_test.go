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
func TestDaemonAtRestDoesNothingButTheSlowCheck(t *testing.T) {
	t.Parallel()
	const (
		count    = 1000
		measured = 10 * time.Second
		quiet    = scanner.Slow + time.Second
		perLook  = 10
		ticks    = 4 // of 10 ms; two of them may come of rounding
	)
	looks := func(d time.Duration) int { return int(d/scanner.Slow) + 1 }
	r := rig.New(t, rig.Plain)
	names := sleepers(r, count)
	r.Start()
	r.Await("up", up, names...)

	// Between two moments at which the daemon is at rest nobody can say what
	// it did but these counts.
	during := func(d time.Duration) (switches, ticks int) {
		before := r.Usage()
		time.Sleep(d)
		after := r.Usage()
		return after.Switches - before.Switches, after.Ticks - before.Ticks
	}
	// At the first look the directory is still so new that it is read again:
	// that is a scan of all entries, and not yet rest.
	for deadline := time.Now().Add(rig.Patience); ; {
		if switches, _ := during(quiet); switches <= looks(quiet)*perLook {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the daemon does not come to rest")
		}
	}
	bound := looks(measured) * perLook
	switches, used := during(measured)
	t.Logf("%d services, %s: %d context switches, %d ticks of CPU (bound: %d looks of %d switches, %d ticks)",
		count, measured, switches, used, looks(measured), perLook, ticks)
	if switches > bound {
		t.Errorf("context switches in %s: got %d, want at most %d", measured, switches, bound)
	}
	if used > ticks {
		t.Errorf("ticks of CPU in %s: got %d, want at most %d", measured, used, ticks)
	}

	// The counts can say otherwise: work that is asked for shows in them.
	before := r.Usage()
	r.Until("as many switches as are forbidden", func() bool {
		r.Daemon.Signal(unix.SIGHUP)
		return r.Usage().Switches-before.Switches > bound
	})
	r.End()
}
