//go:build linux

package rundir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func claim(t *testing.T, dir *Dir) *Claim {
	t.Helper()
	c, err := dir.Claim()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSecondClaimIsRefused(t *testing.T) {
	dir := newDir(t)
	first := claim(t, dir)
	if _, err := dir.Claim(); !errors.Is(err, ErrRunning) {
		t.Errorf("second: got %v, want %v", err, ErrRunning)
	}
	data, err := os.ReadFile(dir.Path() + "/pid")
	if want := strconv.Itoa(os.Getpid()) + "\n"; err != nil || string(data) != want {
		t.Errorf("pid after the refusal: got %q, %v, want %q", data, err, want)
	}
	if got := listing(t, dir.Path()); !slices.Equal(got, []string{".sysmgr", "pid"}) {
		t.Errorf("the refused one left something: %q", got)
	}
	if _, out := child(t, "daemon", dir.Path()); out != ErrRunning.Error() {
		t.Errorf("another process: got %q, want %q", out, ErrRunning)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestReleaseRemovesEverythingItMade(t *testing.T) {
	dir := newDir(t)
	c := claim(t, dir)
	for _, name := range []string{"web", "db"} {
		f, err := dir.MakeFolder(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range append([]string{Lock, GuardFile, fresh + "1.1"}, daemonFiles...) {
			put(t, filepath.Join(f.Path(), file), "x")
		}
		f.Close()
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, %v, want no directory any more", left, err)
	}
}

func TestReleaseLeavesWhatStrangersMade(t *testing.T) {
	dir := newDir(t)
	c := claim(t, dir)
	f, err := dir.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	strangers := []string{"note", "web/core", "web~/status", ".sysmgr/record", "dir/sub/pid"}
	for _, name := range strangers {
		path := filepath.Join(dir.Path(), name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		put(t, path, "x")
	}
	put(t, dir.Path()+"/web/status", "x")
	put(t, dir.Path()+"/web/"+GuardFile, "")
	c.Release()
	for _, name := range strangers {
		if _, err := os.Lstat(filepath.Join(dir.Path(), name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"pid", ".sysmgr/lock", "web/status"} {
		if _, err := os.Lstat(filepath.Join(dir.Path(), name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

// runsyssv runs services in the same run directory; its folders are not the
// daemon's to sweep.
func TestReleaseLeavesAFolderThatIsGrabbed(t *testing.T) {
	dir := newDir(t)
	c := claim(t, dir)
	f, err := dir.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	guard, err := f.Grab()
	if err != nil {
		t.Fatal(err)
	}
	defer guard.Release()
	put(t, f.Path()+"/pid", "412\n")
	put(t, f.Path()+"/lock", "TERM\n")
	if err := c.Release(); err != nil {
		t.Errorf("Release: %v", err)
	}
	if got := listing(t, f.Path()); !slices.Equal(got, []string{".guard", "lock", "pid"}) {
		t.Errorf("got %q, want all of it", got)
	}
	if second, err := f.Grab(); !errors.Is(err, ErrGrabbed) {
		second.Release()
		t.Errorf("another Grab: got %v, want %v", err, ErrGrabbed)
	}
}

func TestWithoutDaemonThereIsNoWitness(t *testing.T) {
	dir := newDir(t)
	for what, prepare := range map[string]func(){
		"nothing":        func() {},
		"a stale number": func() { put(t, dir.Path()+"/pid", strconv.Itoa(os.Getpid())+"\n") },
		"garbage":        func() { put(t, dir.Path()+"/pid", "garbage") },
	} {
		prepare()
		if w, err := dir.Daemon(); !errors.Is(err, ErrNotRunning) {
			w.Close()
			t.Errorf("%s: got %v, want %v", what, err, ErrNotRunning)
		}
	}
	for name, make := range odd {
		os.Remove(dir.Path() + "/pid")
		if err := make(dir.Path() + "/pid"); err != nil {
			t.Fatal(err)
		}
		within(t, soon, name, func() {
			if w, err := dir.Daemon(); err == nil {
				w.Close()
				t.Errorf("%s: got a witness", name)
			}
		})
	}
}

func TestWitnessSeesTheDaemonDie(t *testing.T) {
	path := t.TempDir() + "/run"
	daemon, out := child(t, "daemon", path)
	if out != fmt.Sprint(nil) {
		t.Fatal(out)
	}
	dir, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	w, err := dir.Daemon()
	if err != nil {
		t.Fatal(err)
	}
	gone := w.Gone()
	select {
	case <-gone:
		t.Fatal("gone while the daemon lives")
	case <-time.After(50 * time.Millisecond):
	}
	kill(t, daemon)
	select {
	case <-gone:
	case <-time.After(soon):
		t.Fatalf("not gone %v after SIGKILL", soon)
	}
	if _, err := dir.Daemon(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Daemon: got %v, want %v", err, ErrNotRunning)
	}
	// The number is still there; it decides nothing.
	if _, err := os.Lstat(path + "/pid"); err != nil {
		t.Error(err)
	}
	if err := claim(t, dir).Release(); err != nil {
		t.Errorf("the next daemon: %v", err)
	}
}

// Clients may probe as fast as they like: the next daemon starts all the same,
// and while it holds its claim they never miss it.
// Clients watch the daemon by a pid file that is replaced: somebody removed it,
// or it was the last daemon's.
func TestWitnessOfAPidFileThatIsReplaced(t *testing.T) {
	dir := newDir(t)
	c := claim(t, dir)
	watch := func() <-chan struct{} {
		t.Helper()
		w, err := dir.Daemon()
		if err != nil {
			t.Fatal(err)
		}
		return w.Gone()
	}
	keep := func() {
		t.Helper()
		if lost, err := c.Keep(); !lost || err != nil {
			t.Fatalf("keep: got %t, %v, want true", lost, err)
		}
	}
	ended := func(gone <-chan struct{}, when string) {
		t.Helper()
		select {
		case <-gone:
		case <-time.After(soon):
			t.Errorf("%s: no end after %v", when, soon)
		}
	}
	gone := watch()
	if err := os.Remove(filepath.Join(dir.Path(), Pid)); err != nil {
		t.Fatal(err)
	}
	keep()
	select {
	case <-gone:
		t.Error("the file is removed, and the daemon taken for dead")
	case <-time.After(50 * time.Millisecond):
	}
	// The old directory is not ours any more, and is let go.
	second := watch()
	if err := os.Rename(dir.Path(), dir.Path()+"-aside"); err != nil {
		t.Fatal(err)
	}
	keep()
	ended(gone, "another directory, first file")
	ended(second, "another directory, second file")

	third := watch()
	if err := os.Remove(filepath.Join(dir.Path(), Pid)); err != nil {
		t.Fatal(err)
	}
	keep()
	if err := c.Release(); err != nil {
		t.Error(err)
	}
	ended(third, "release")
}

// Clients may probe as fast as they like: the next daemon starts all the same,
// and while it holds its claim they never miss it.
// A pid file that was taken away, or that was the last daemon's, is replaced
// while clients watch the daemon by the old one.
func TestWitnessOfAPidFileThatIsReplacedSeesNoEnd(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(t *testing.T, dir *Dir, c *Claim)
		gone bool
	}{
		{"none", func(*testing.T, *Dir, *Claim) {}, false},
		{"release", func(t *testing.T, _ *Dir, c *Claim) {
			if err := c.Release(); err != nil {
				t.Error(err)
			}
		}, true},
		{"another directory in the place", func(t *testing.T, dir *Dir, c *Claim) {
			if err := os.Rename(dir.Path(), dir.Path()+"-aside"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Keep(); err != nil {
				t.Error(err)
			}
		}, true},
	} {
		t.Run(end.name, func(t *testing.T) {
			dir := newDir(t)
			c := claim(t, dir)
			witness, err := dir.Daemon()
			if err != nil {
				t.Fatal(err)
			}
			gone := witness.Gone()
			if err := os.Remove(filepath.Join(dir.Path(), Pid)); err != nil {
				t.Fatal(err)
			}
			if lost, err := c.Keep(); !lost || err != nil {
				t.Fatalf("keep: got %t, %v, want true", lost, err)
			}
			end.do(t, dir, c)
			patience := 100 * time.Millisecond
			if end.gone {
				patience = soon
			}
			select {
			case <-gone:
				if !end.gone {
					t.Error("the daemon lives, and its witness sees it gone")
				}
			case <-time.After(patience):
				if end.gone {
					t.Error("the witness sees no end")
				}
			}
			c.Release()
			<-gone
		})
	}
}

func TestClientsThatProbeKeepNobodyFromStarting(t *testing.T) {
	dir := newDir(t)
	put(t, dir.Path()+"/keep", "") // so that the directory stays
	var stop atomic.Bool
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			for !stop.Load() {
				w, err := dir.Daemon()
				switch {
				case err == nil:
					w.Close()
				case !errors.Is(err, ErrNotRunning):
					t.Errorf("probe: %v", err)
					return
				}
			}
		})
	}
	for range 200 {
		c, err := dir.Claim()
		if err != nil {
			t.Errorf("claim: %v", err)
			break
		}
		if w, err := dir.Daemon(); err != nil {
			t.Errorf("probe of a live daemon: %v", err)
		} else {
			w.Close()
		}
		if err := c.Release(); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	stop.Store(true)
	wait.Wait()
}

// Daemons that come while another one goes and takes its folder away are either
// refused or the only one, and hear no other error of their claim.
func TestDaemonsThatComeAndGoAreNeverTwo(t *testing.T) {
	path := t.TempDir() + "/run"
	var holders, claims atomic.Int32
	var wait sync.WaitGroup
	end := time.Now().Add(time.Second / 2)
	for range 4 {
		wait.Go(func() {
			for time.Now().Before(end) {
				dir, err := Create(path)
				if errors.Is(err, os.ErrNotExist) {
					continue // made, and removed before it was opened
				}
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				c, err := dir.Claim()
				switch {
				case err == nil:
					claims.Add(1)
					if n := holders.Add(1); n != 1 {
						t.Errorf("%d daemons at once", n)
					}
					holders.Add(-1)
					if err := c.Release(); err != nil {
						t.Errorf("release: %v", err)
					}
				case !errors.Is(err, ErrRunning):
					t.Errorf("claim: got %v, want nil or %v", err, ErrRunning)
				}
				dir.Close()
				if t.Failed() {
					return
				}
			}
		})
	}
	wait.Wait()
	if claims.Load() == 0 {
		t.Error("nobody ever got a claim")
	}
}

// A daemon that is killed while it writes RUNDIR/pid leaves an unfinished file.
func TestUnfinishedFilesOfADaemonThatWasKilledGoWithTheNext(t *testing.T) {
	dir := newDir(t)
	put(t, filepath.Join(dir.Path(), fresh+"412.1"), "41")
	if err := claim(t, dir).Release(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("run directory: got %v, %v, want none", entries, err)
	}
}
