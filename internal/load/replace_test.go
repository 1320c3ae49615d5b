//go:build linux

package load

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
)

// started counts the programs that have begun in this rig's daemon.
func started(r *rig.Rig) int {
	text, _ := os.ReadFile(r.Log)
	return bytes.Count(text, []byte("sysmgr started"))
}

// A daemon that replaces itself has no handlers for some milliseconds, and then
// those of a runtime that knows nothing of sysmgr: no signal that is harmless
// at all other times may end it then.
func TestHarmlessSignalsAreHarmlessWhileTheProgramIsReplaced(t *testing.T) {
	r := rig.New(t, rig.Plain)
	r.Link("web", r.Sleeper())
	r.Start()
	r.Await("up", up, "web")
	web, pid := r.Look("web").Pid, r.Daemon.Pid
	var stop atomic.Bool
	var hammers sync.WaitGroup
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGALRM, unix.SIGIO, unix.SIGVTALRM, unix.SIGPIPE, unix.SIGTSTP, unix.SIGXCPU} {
		hammers.Go(func() {
			for !stop.Load() {
				r.Daemon.Signal(sig)
				time.Sleep(200 * time.Microsecond)
			}
		})
	}
	quiet := sync.OnceFunc(func() { stop.Store(true); hammers.Wait() })
	defer quiet()
	const times = 8
	for n := 1; n <= times; n++ {
		r.Daemon.Signal(unix.SIGUSR2)
		again := time.Now().Add(10 * time.Second)
		r.Until(fmt.Sprintf("replacement %d", n), func() bool {
			if time.Now().After(again) { // among so many, one may find no room
				r.Daemon.Signal(unix.SIGUSR2)
				again = time.Now().Add(10 * time.Second)
			}
			return started(r) > n
		})
	}
	quiet()
	// Nobody whom it starts now has anything of that.
	r.Link("fresh", r.Sleeper())
	r.Await("up", up, "fresh")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Look("fresh").Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		for _, key := range []string{"SigBlk:", "SigIgn:"} {
			if value, ok := strings.CutPrefix(line, key); ok && strings.Trim(value, " \t\n0") != "" {
				t.Errorf("a service started after it: got %s, want none", strings.TrimSpace(line))
			}
		}
	}
	if got := r.Look("web").Pid; got != web || r.Daemon.Pid != pid {
		t.Errorf("web: got process %d, want %d", got, web)
	}
	// And the daemon obeys, those that were blocked too.
	r.Must("restart", "web")
	before := started(r)
	r.Daemon.Signal(unix.SIGUSR2)
	r.Until("one more", func() bool { return started(r) > before })
	r.End()
}
