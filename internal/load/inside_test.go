//go:build linux

package load

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/actor"
	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
	"sysmgr/reaper"
	"sysmgr/scanner"
)

// alone is set in the environment of a test program that runs one test only.
// A reaper waits for every child of its process, so that nobody else in there
// may have any.
const alone = "SYSMGR_LOAD_ALONE"

// insideOut are the parts of a daemon, tied together as cmd/sysmgr does it.
type insideOut struct {
	dir        *rundir.Dir
	supervisor *actor.Supervisor
	parts      sync.WaitGroup
	cancel     context.CancelFunc
}

func assemble(t *testing.T, r *rig.Rig) *insideOut {
	dir, err := rundir.Create(r.Rundir)
	if err != nil {
		t.Fatal(err)
	}
	d := &insideOut{dir: dir}
	reap, err := reaper.New(func(reaper.Fact) {})
	if err != nil {
		t.Fatal(err)
	}
	requests := control.New(control.Config{
		Rundir: dir,
		// Nobody asks for anything here; that locks are absent is no news.
		Deliver: func(control.Message) {},
		Report:  func(control.Fact) {},
	})
	d.supervisor = actor.NewSupervisor(&actor.Config{
		Sysdir:    r.Sysdir,
		Rundir:    dir,
		Env:       r.Environment(),
		Manner:    rundir.Manner{Signal: unix.SIGTERM, Grace: 10 * time.Second},
		Processes: reap,
		Report:    func(actor.Fact) {},
		Debug:     func() bool { return false },
		Attend:    requests.Attend,
		Forget:    requests.Forget,
		Mute:      requests.Mute,
		Heed:      requests.Heed,
	})
	scan, err := scanner.New(scanner.Config{
		Dir: r.Sysdir,
		Send: func(found []scanner.Entry) {
			entries := make([]actor.Entry, len(found))
			for i, e := range found {
				entries[i] = actor.Entry{Name: e.Name, Bar: e.Bar, Stamp: e.Stamp.Version, File: actor.File(e.Stamp.ID), Gone: e.Gone}
			}
			d.supervisor.Found(entries)
		},
		Restless: d.supervisor.Restless,
		Report:   func(scanner.Fact) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	reaping, finish := context.WithCancel(context.Background())
	d.cancel = cancel
	d.parts.Go(func() { scan.Run(ctx) })
	d.parts.Go(func() { requests.Run(ctx) })
	d.parts.Go(func() { defer finish(); d.supervisor.Run() })
	d.parts.Go(func() { reap.Run(reaping) })
	return d
}

// end ends all parts, in the order of cmd/sysmgr.
func (d *insideOut) end() {
	d.cancel()
	d.supervisor.Shutdown()
	d.parts.Wait()
	d.dir.Close()
}

// published counts the services that say they are in a phase.
func published(r *rig.Rig, phase string) (count int) {
	files, _ := filepath.Glob(filepath.Join(r.Rundir, "*", rundir.State))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if bytes.HasPrefix(text, []byte("phase "+phase+"\n")) {
			count++
		}
	}
	return count
}

func TestNothingInsideTheDaemonOutlivesItsServices(t *testing.T) {
	t.Parallel()
	if os.Getenv(alone) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
		cmd.Env = append(os.Environ(), alone+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	const count = 500
	r := rig.New(t, rig.Plain)
	// What package os/signal starts for the first of its users stays for ever.
	signal.Notify(make(chan os.Signal, 1), unix.SIGWINCH)
	before := inventory(t)

	d := assemble(t, r)
	// One service comes and goes, and what is made at first need is there.
	r.Link("first", r.Sleeper())
	r.Until("the first service", func() bool { return published(r, rundir.Up) == 1 })
	os.Remove(filepath.Join(r.Sysdir, "first"))
	r.Until("its end", func() bool { return gone(r) })
	empty := inventory(t)

	names := sleepers(r, count)
	r.Until("services", func() bool { return published(r, rundir.Up) == count })
	full := inventory(t)
	for _, name := range names {
		os.Remove(filepath.Join(r.Sysdir, name))
	}
	r.Until("their end", func() bool { return gone(r) })
	after := inventory(t)
	d.end()
	end := inventory(t)

	t.Logf("before: %v; no services: %v; %d services: %v; removed: %v; ended: %v", before, empty, count, full, after, end)
	if after != empty {
		t.Errorf("after removal: got %v, want %v as before\n%s", after, empty, stacks())
	}
	if end != before {
		t.Errorf("after the end: got %v, want %v as at first\n%s", end, before, stacks())
	}
}

// gone tells whether no service has a folder any more.
func gone(r *rig.Rig) bool {
	entries, _ := os.ReadDir(r.Rundir)
	return len(entries) == 0
}

// holdings is what this process has that can leak.
type holdings struct{ goroutines, descriptors int }

func (h holdings) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors", h.goroutines, h.descriptors)
}

// inventory waits until nothing changes any more: goroutines that have been
// told to end do so a little later.
func inventory(t *testing.T) (h holdings) {
	t.Helper()
	for steady, deadline := 0, time.Now().Add(rig.Patience); steady < 20; time.Sleep(10 * time.Millisecond) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		now := holdings{runtime.NumGoroutine(), len(fds)}
		if now != h {
			steady = 0
		}
		h = now
		steady++
		if time.Now().After(deadline) {
			t.Fatal("goroutines and descriptors do not come to rest")
		}
	}
	return h
}

func stacks() string {
	var text bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&text, 1)
	return text.String()
}
