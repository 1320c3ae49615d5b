package actor

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// hasty is a process that ends together with everything it has left behind,
// before the actor that signals it looks for either.
type hasty struct {
	exited  chan reaper.Exit
	drained chan struct{}
}

func (h *hasty) Start(reaper.Command) (reaper.Process, error) {
	h.exited, h.drained = make(chan reaper.Exit, 1), make(chan struct{})
	return reaper.Process{Pid: 1 << 30, Exited: h.exited, Drained: h.drained}, nil
}

func (h *hasty) Signal(_ int, sig unix.Signal) error {
	if sig == unix.SIGTERM {
		h.exited <- reaper.Exit{Status: syscall.WaitStatus(unix.SIGTERM)}
		close(h.drained)
	}
	return nil
}

func (h *hasty) SignalGroup(int, unix.Signal) error { return nil }
func (h *hasty) Probe(int, bool)                    {}

// The reaper tells of an exit first and of an empty group later, but an actor
// that was busy finds both at once, and select takes either.
func TestGroupThatEmptiesBeforeItsExitIsHeardIsNotWaitedForTwice(t *testing.T) {
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		down := make(chan struct{}, 1)
		s := NewService(&Config{
			Sysdir: "/services", Rundir: dir, Processes: &hasty{},
			Manner: rundir.Manner{Signal: unix.SIGTERM, Grace: 10 * time.Second},
			Debug:  func() bool { return false },
			Report: func(f Fact) {
				if c, ok := f.(Changed); ok && c.New.Phase == Down {
					down <- struct{}{}
				}
			},
		}, "hasty", "")
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(WantUp) }()
		s.Shutdown()
		select {
		case <-down:
			<-ended
		case <-time.After(5 * time.Second):
			t.Fatal("phase after its last process ended: got stopping for 5 s, want down")
		}
	}
}
