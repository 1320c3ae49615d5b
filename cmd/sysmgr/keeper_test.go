package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"

	"sysmgr/internal/rundir"
)

// kept is a keeper of a run directory of its own, with whom all is well.
func kept(t *testing.T) (k *keeper, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "run")
	dir, err := rundir.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	claim, err := dir.Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { claim.Release() })
	if _, _, err := claim.Records(); err != nil {
		t.Fatal(err)
	}
	log := newJournal(false, false)
	t.Cleanup(log.close)
	return &keeper{
		claim:   claim,
		collect: func(bool) bool { return true },
		publish: func(bool) bool { return false },
		renew:   func() {},
		hold:    func() {},
		resume:  func() {},
		log:     log,
	}, path
}

// At rest the slow check is rare, unless the keeper says that there is something
// left to do.
func TestKeeperStirsUntilAllIsDone(t *testing.T) {
	for what, test := range map[string]struct {
		undo func(k *keeper, path string) error
		want bool
	}{
		"all is well": {func(*keeper, string) error { return nil }, false},
		"a state is not published": {func(k *keeper, _ string) error {
			k.publish = func(bool) bool { return true }
			return nil
		}, true},
		"a file was missing":         {func(_ *keeper, path string) error { return os.Remove(filepath.Join(path, "pid")) }, true},
		"the directory is replaced":  {func(_ *keeper, path string) error { return os.Rename(path, path+"2") }, true},
		"the directory is no longer": {func(_ *keeper, path string) error { os.Rename(path, path+"2"); return os.WriteFile(path, nil, 0o644) }, true},
		"the garbage is not collected": {func(k *keeper, _ string) error {
			k.collect = func(bool) bool { return false }
			return nil
		}, true},
	} {
		t.Run(what, func(t *testing.T) {
			k, path := kept(t)
			stirred := make(chan bool, 1)
			k.stir = func() { stirred <- true }
			if err := test.undo(k, path); err != nil {
				t.Fatal(err)
			}
			look := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- k.run(ctx, look) }()
			look <- struct{}{}
			cancel()
			if got := <-done; got != nil {
				t.Fatal(got)
			}
			if got := len(stirred) > 0; got != test.want {
				t.Errorf("stirred: got %v, want %v", got, test.want)
			}
		})
	}
}

// What the scanner watches for the keeper is what the keeper looks at.
func TestOwnFilesAreThoseThatKeepLooksAt(t *testing.T) {
	k, path := kept(t)
	dir, err := rundir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var there []string
	filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			there = append(there, file)
		}
		return err
	})
	if own := slices.Sorted(slices.Values(dir.Own())); !slices.Equal(own, there) {
		t.Fatalf("got %q, want %q", own, there)
	}
	for _, file := range there {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if k.keep() {
			t.Errorf("%s: not missed", file)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("not made anew: %v", err)
		}
		if !k.keep() {
			t.Errorf("%s: missed although it is there", file)
		}
	}
}

// Whoever looks at folders may look again when he knows that they are others.
func TestNobodyLooksAtFoldersBeforeItIsSaidThatTheyAreOthers(t *testing.T) {
	k, path := kept(t)
	held, renewed := false, false
	k.hold = func() {
		held = true
		// In the place of the directory there is another one from here on.
		if err := os.Rename(path, path+"2"); err != nil {
			t.Error(err)
		}
	}
	k.renew = func() { renewed = held }
	k.resume = func() { held = false }
	k.keep()
	if !renewed || held {
		t.Errorf("renewed while nobody looked: got %t, want true; still held: got %t, want false", renewed, held)
	}
}

// A collection leaves something behind in the runtime: there are two at rest where
// there was much garbage, one where there was some, and none where there was none;
// and none while there is much to do, as long as all is small.
func TestNothingIsCollectedMoreOftenThanItHelps(t *testing.T) {
	k, _ := kept(t)
	var garbage []byte
	calls := 0
	k.collect = func(bool) bool {
		calls++
		garbage = nil
		runtime.GC()
		return true
	}
	for _, test := range []struct {
		what    string
		garbage int
		rest    bool
		want    int
	}{
		{"busy", 4 << 20, false, 0},
		{"busy with very much", 2 * small, false, 1},
		{"much", 4 << 20, true, 2},
		{"none", 0, true, 0},
		{"some", 400 << 10, true, 1},
	} {
		if garbage = make([]byte, test.garbage); test.garbage == 0 {
			debug.FreeOSMemory() // what is free counts as well
		}
		calls = 0
		k.tidy(test.rest)
		if calls != test.want {
			t.Errorf("%s: got %d collections, want %d", test.what, calls, test.want)
		}
		runtime.KeepAlive(garbage)
	}
}
