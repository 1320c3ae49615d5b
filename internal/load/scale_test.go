//go:build linux

package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sysmgr/internal/load/rig"
)

// sleepers links as many services that only sleep, and returns their names.
func sleepers(r *rig.Rig, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("s%04d", i)
		r.Link(names[i], r.Sleeper())
	}
	return names
}

// The daemon is built without the race detector here: that one takes several
// times the memory and the time, and the stress test has it.
func TestFiveThousandServicesStartAreListedAndStopWithoutATrace(t *testing.T) {
	const count = 5000
	r := rig.New(t, rig.Plain)
	r.Patience = 2 * time.Minute
	// What a daemon has open is counted once it has run a service: its parts
	// open theirs side by side, and later than its run directory can be seen.
	r.Link("first", r.Sleeper())
	r.Start()
	r.Await("up", up, "first")
	r.Must("stop", "first")
	before := r.Usage()
	r.End()
	if err := os.Remove(filepath.Join(r.Sysdir, "first")); err != nil {
		t.Fatal(err)
	}

	names := sleepers(r, count)
	lap := time.Now()
	r.Start()
	stage := func(name string) {
		u := r.Usage()
		t.Logf("%-28s %6d ms; daemon: %d descriptors, %d threads, %d kB, %d ms of CPU so far",
			name, time.Since(lap).Milliseconds(), u.Descriptors, u.Threads, u.PSS, u.Ticks*10)
		lap = time.Now()
	}
	r.Await("up", up, names...)
	stage("all up")

	lines := strings.Split(strings.TrimSpace(r.Must("status")), "\n")
	stage("svctl status")
	if len(lines) != count {
		t.Errorf("svctl status: got %d lines, want %d", len(lines), count)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, names[i]+": UP (pid ") {
			t.Fatalf("svctl status, line %d: got %q, want %s: UP", i+1, line, names[i])
		}
	}
	var objects []struct{ Phase string }
	if err := json.Unmarshal([]byte(r.Must("-j", "status")), &objects); err != nil || len(objects) != count {
		t.Errorf("svctl -j status: got %d objects, %v, want %d", len(objects), err, count)
	}
	stage("svctl -j status")

	r.Must(append([]string{"-w", "120", "stop"}, names...)...)
	stage("svctl stop of all")
	out, code := r.Svctl("status")
	if got := strings.Count(out, ": DOWN "); code != 1 || got != count {
		t.Errorf("svctl status after stop: got exit status %d, %d services down, want 1, %d", code, got, count)
	}
	if left := r.Processes(""); len(left) != 1 {
		t.Errorf("processes after stop: got %d, want the daemon's", len(left))
	}
	stage("svctl status")
	// A look at a folder or at the directory has one open for a moment.
	settle := func() {
		t.Helper()
		r.Until(fmt.Sprintf("no more than %d descriptors, as at first", before.Descriptors), func() bool {
			return r.Usage().Descriptors <= before.Descriptors
		})
	}
	settle()
	after := r.Usage()
	// The runtime makes threads while calls to the kernel block, and keeps
	// them: 20 or so on a quiet machine, 200 when its disk is slow were seen.
	// One for each service would be another matter.
	if bound := count / 10; after.Threads > bound {
		t.Errorf("threads after stop: got %d, want at most %d", after.Threads, bound)
	}

	for _, name := range names {
		if err := os.Remove(filepath.Join(r.Sysdir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.Until("the services to be gone", func() bool {
		left, _ := filepath.Glob(filepath.Join(r.Rundir, "*", "status"))
		return len(left) == 0
	})
	stage("entries removed")
	settle()
	took := r.End()
	t.Logf("shutdown %d ms", took.Milliseconds())
	log, err := os.Open(r.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for s := bufio.NewScanner(log); s.Scan(); {
		if strings.Contains(s.Text(), "\twarn\t") || strings.Contains(s.Text(), "\terror\t") {
			t.Errorf("daemon's log: got %q, want no warning", s.Text())
		}
	}
}
