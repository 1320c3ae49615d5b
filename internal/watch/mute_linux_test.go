package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAMuteDirectoryIsHeardAgainWhenItIsHeeded(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	w := start(t, nil)
	add(t, w, dir, "web")
	add(t, w, other, "db")
	l := listen(t, w)

	w.Mute(dir, "web")
	put(t, filepath.Join(dir, "pid"), "1\n")
	put(t, filepath.Join(other, "pid"), "1\n")
	if err := os.Remove(filepath.Join(dir, "pid")); err != nil {
		t.Fatal(err)
	}
	if got := l.heard(); got != "db" {
		t.Errorf("while it is mute: got %q, want db only", got)
	}
	w.Heed(dir, "web")
	if got := l.heard(); got != "" {
		t.Errorf("by being heeded: got %q, want nothing", got)
	}
	put(t, filepath.Join(dir, "pid"), "2\n")
	if got := l.heard(); got != "web" {
		t.Errorf("when it is heeded: got %q, want web", got)
	}
	w.Mute(dir, "web")
	add(t, w, dir, "web")
	put(t, filepath.Join(dir, "pid"), "3\n")
	if got := l.heard(); got != "web" {
		t.Errorf("when it was added again: got %q, want web", got)
	}
}

func TestTheEndOfAMuteDirectoryIsHeard(t *testing.T) {
	for name, end := range map[string]func(dir string) error{
		"removed": os.Remove,
		"renamed": func(dir string) error { return os.Rename(dir, dir+"~") },
	} {
		dir := filepath.Join(t.TempDir(), "web")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		w := start(t, nil)
		add(t, w, dir, "web")
		l := listen(t, w)
		w.Mute(dir, "web")
		if err := end(dir); err != nil {
			t.Fatal(err)
		}
		if got := l.heard(); got != "web" {
			t.Errorf("%s: got %q, want web", name, got)
		}
	}
}

// Of what is renamed above a directory the kernel says nothing.
func TestHeedRingsIfThePathLeadsElsewhere(t *testing.T) {
	for name, remake := range map[string]bool{"to another directory": true, "to none": false} {
		above := filepath.Join(t.TempDir(), "run")
		dir := filepath.Join(above, "web")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		w := start(t, nil)
		add(t, w, dir, "web")
		l := listen(t, w)
		w.Mute(dir, "web")
		if err := os.Rename(above, above+"~"); err != nil {
			t.Fatal(err)
		}
		if remake {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		w.Heed(dir, "web")
		if got := l.heard(); got != "web" {
			t.Errorf("%s: got %q, want web", name, got)
		}
		if !remake {
			continue
		}
		if got := kernelHas(t, w); got != 1 {
			t.Errorf("%s: got %d watches, want that of the first directory only", name, got)
		}
		// Nobody has taken note of the other one yet.
		if another, err := w.Add(dir, "web"); !another || err != nil {
			t.Errorf("%s: added: got %v, %v; want another", name, another, err)
		}
	}
}

// kernelHas counts the watches that the kernel has (proc_pid_fdinfo(5)).
func kernelHas(t *testing.T, w *Watcher) int {
	t.Helper()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", w.sys.fd))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(info), "inotify wd:")
}

func TestWhatIsNotWatchedCannotBeMuteNorHeeded(t *testing.T) {
	dir := t.TempDir()
	w := start(t, nil)
	l := listen(t, w)
	w.Mute(dir, "web")
	w.Heed(dir, "web")
	put(t, filepath.Join(dir, "pid"), "1\n")
	if got := l.heard(); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}
