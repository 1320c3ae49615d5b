package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// way is a watcher with a tree: top/a/b/dir is reached through top/link, which
// leads to a/there, which leads to ../a/b; own is a file in dir.
type way struct {
	t          *testing.T
	w          *Watcher
	top        string
	path, file string
}

func newWay(t *testing.T) *way {
	t.Helper()
	top := t.TempDir()
	if !trusted(top) {
		t.Skip("the temporary folder is on a file system that others may change")
	}
	y := &way{t: t, w: start(t, nil), top: top, path: filepath.Join(top, "link/dir"), file: filepath.Join(top, "link/dir/own")}
	y.must(os.MkdirAll(y.at("a/b/dir"), 0o755))
	y.must(os.Symlink("../a/b", y.at("a/there")))
	y.must(os.Symlink(y.at("a/there"), y.at("link")))
	put(t, y.file, "")
	return y
}

func (y *way) must(err error) {
	y.t.Helper()
	if err != nil {
		y.t.Fatal(err)
	}
}

func (y *way) at(path string) string { return filepath.Join(y.top, path) }

// lay lays both ways and forgets what has rung until then.
func (y *way) lay() {
	y.t.Helper()
	if !y.w.Lay(y.path, y.file) {
		y.t.Fatal("the way is not covered")
	}
	y.rang()
}

// rang tells whether the way has rung: a directory rings after it.
func (y *way) rang() (rang bool) {
	y.t.Helper()
	dir := y.t.TempDir()
	key := marker + dir // one of its own: the last one may ring twice
	add(y.t, y.w, dir, key)
	defer y.w.Remove(key)
	put(y.t, filepath.Join(dir, "x"), "")
	late := time.After(soon)
	for {
		select {
		case <-y.w.Bell():
			news := y.w.Take()
			rang = rang || news.Way
			if _, last := news.Keys[key]; last {
				return rang
			}
		case <-late:
			y.t.Fatalf("no bell after %v", soon)
		}
	}
}

func TestWhateverLeadsAPathElsewhereRings(t *testing.T) {
	swap := func(one, two string) error {
		return unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, two, unix.RENAME_EXCHANGE)
	}
	for what, do := range map[string]func(y *way) error{
		"an ancestor renamed":      func(y *way) error { return os.Rename(y.at("a"), y.at("a2")) },
		"a parent renamed":         func(y *way) error { return os.Rename(y.at("a/b"), y.at("b")) },
		"the directory renamed":    func(y *way) error { return os.Rename(y.at("a/b/dir"), y.at("dir")) },
		"the directory exchanged":  func(y *way) error { y.must(os.Mkdir(y.at("x"), 0o755)); return swap(y.at("x"), y.at("a/b/dir")) },
		"the directory removed":    func(y *way) error { return os.RemoveAll(y.at("a/b/dir")) },
		"the file removed":         func(y *way) error { return os.Remove(y.file) },
		"the file replaced":        func(y *way) error { put(y.t, y.at("x"), ""); return os.Rename(y.at("x"), y.file) },
		"the first link removed":   func(y *way) error { return os.Remove(y.at("link")) },
		"the second link replaced": func(y *way) error { y.must(os.Symlink("b", y.at("x"))); return os.Rename(y.at("x"), y.at("a/there")) },
		"the second link renamed":  func(y *way) error { return os.Rename(y.at("a/there"), y.at("a/x")) },
		"the file, which is open": func(y *way) error {
			f, err := os.Open(y.file)
			y.must(err)
			y.t.Cleanup(func() { f.Close() })
			return os.Remove(y.file)
		},
		"a link with another name": func(y *way) error {
			y.must(os.Link(y.at("a/there"), y.at("hard")))
			y.lay()
			return os.Remove(y.at("a/there"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			y := newWay(t)
			y.lay()
			y.must(do(y))
			if !y.rang() {
				t.Error("it did not ring")
			}
		})
	}
}

// What happens to others in the directories of a way is of no interest, and
// does not even wake the reader.
func TestEntriesBesideTheWayDoNotRing(t *testing.T) {
	y := newWay(t)
	y.lay()
	for _, dir := range []string{".", "a", "a/b", "a/b/dir"} {
		file := y.at(filepath.Join(dir, "busy"))
		put(t, file, "x")
		y.must(os.Chmod(file, 0o600))
		y.must(os.Rename(file, file+"2"))
		y.must(os.Remove(file + "2"))
		y.must(os.Mkdir(file, 0o755))
		y.must(os.Remove(file))
		y.must(os.Chmod(y.at(dir), 0o700))
	}
	put(t, y.file, "y")
	if y.rang() {
		t.Error("it rang")
	}
}

// What is no longer on the way is not watched any more, and who leaves it has
// not rung by that.
func TestWayThatIsLaidAnewReplacesTheOld(t *testing.T) {
	y := newWay(t)
	y.lay()
	y.must(os.MkdirAll(y.at("c/dir"), 0o755))
	put(t, y.at("c/dir/own"), "")
	y.must(os.Symlink("c", y.at("x")))
	y.must(os.Rename(y.at("x"), y.at("link")))
	if !y.rang() {
		t.Error("the link replaced: it did not ring")
	}
	y.lay()
	y.must(os.Rename(y.at("a/b"), y.at("b")))
	if y.rang() {
		t.Error("the old way: it rang")
	}
	y.must(os.Rename(y.at("c"), y.at("c2")))
	if !y.rang() {
		t.Error("the new way: it did not ring")
	}
	y.w.Lay()
	if n := y.watches(); n != 0 {
		t.Errorf("no way: got %d watches, want none", n)
	}
}

// watches is how many the kernel keeps (proc_pid_fdinfo(5)).
func (y *way) watches() int {
	y.t.Helper()
	data, err := os.ReadFile(fmt.Sprint("/proc/self/fdinfo/", y.w.sys.fd))
	y.must(err)
	return strings.Count(string(data), "inotify wd:")
}

// A directory has one watch, be it watched for itself, as part of a way, or both.
func TestDirectoryOnAWayKeepsItsKey(t *testing.T) {
	y := newWay(t)
	l := listen(t, y.w)
	expect := func(what, keys string) {
		t.Helper()
		if got := l.heard(); got != keys {
			t.Errorf("%s: got %q, want %q", what, got, keys)
		}
	}
	add(t, y.w, y.at("a/b"), "before")
	y.lay()
	add(t, y.w, y.at("a/b/dir"), "after")
	put(t, y.at("a/b/x"), "")
	put(t, y.at("a/b/dir/x"), "")
	expect("entries", "after before")
	put(t, y.at("a/b/x"), "")
	if y.rang() {
		t.Error("an entry of a directory with a key: the way rang")
	}
	y.w.Lay()
	put(t, y.at("a/b/y"), "")
	put(t, y.at("a/b/dir/y"), "")
	expect("entries, without a way", "after before")

	// Who takes the watch of a key away has taken that of the way along.
	y.lay()
	add(t, y.w, y.at("a"), "after")
	if !y.rang() {
		t.Error("the watch of dir is gone, but the way did not ring")
	}
	y.lay()
	y.must(os.Rename(y.at("a/b/dir"), y.at("dir")))
	if !y.rang() {
		t.Error("renamed: it did not ring")
	}
	y.must(os.Rename(y.at("a/b"), y.at("b")))
	if got := l.heard(); !strings.Contains(got, "before") {
		t.Errorf("renamed: got %q, want before", got)
	}
}

func TestWayThatCannotBeWatchedIsNotCovered(t *testing.T) {
	y := newWay(t)
	y.must(os.Symlink("round", y.at("round")))
	y.must(os.Symlink("/proc/self/root"+y.at("a"), y.at("proc")))
	for _, path := range []string{
		y.at("nothing"), y.at("a/nothing/dir"), y.at("a/b/dir/own/x"), y.at("round"), // as they are
		"/proc/self", y.at("proc/b/dir"), // on a file system of which nothing is known
	} {
		if y.w.Lay(path) || y.w.Lay(y.path, path) || y.w.Lay(path, y.path) {
			t.Errorf("%s: it is said to be covered", path)
		}
	}
	if !y.w.Lay(y.path) || !y.w.Lay("/") {
		t.Error("a way that is there is not covered")
	}
	// What can be watched is watched all the same, as far as it goes.
	y.w.Lay(y.at("nothing"), y.at("a/b/nothing"))
	y.must(os.Rename(y.at("a/b"), y.at("b")))
	if !y.rang() {
		t.Error("a way that is not covered: it did not ring")
	}
	polling := &Watcher{}
	polling.sys.fd = -1
	if polling.Lay("/") {
		t.Error("a watcher without inotify says that a way is covered")
	}
}

// In a mount namespace of its own (mount_namespaces(7)) a process may mount.
func TestMountRings(t *testing.T) {
	t.Parallel()
	got := asChild(t, "mounting", &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	if strings.HasPrefix(got, "cannot") {
		t.Skip(got)
	}
	if got != mounts {
		t.Errorf("got %q, want %q", got, mounts)
	}
}

const mounts = "laid, mounted, laid, unmounted"

func mountOver(dir string) string {
	parent := filepath.Join(dir, "parent")
	path := filepath.Join(parent, "dir")
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err.Error()
	}
	w, err := New(nil)
	if err != nil {
		return err.Error()
	}
	defer w.Close()
	if !w.Lay(path) {
		return "cannot lay the way"
	}
	var told []string
	ring := func(what string) {
		select {
		case <-w.Bell():
			if w.Take().Way {
				told = append(told, what)
			}
		case <-time.After(soon):
			told = append(told, "not "+what)
		}
	}
	told = append(told, "laid")
	if err := unix.Mount("none", parent, "tmpfs", 0, ""); err != nil {
		return fmt.Sprint("cannot mount: ", err)
	}
	ring("mounted")
	if w.Lay(path) {
		return "a way into nothing is covered"
	}
	os.Mkdir(path, 0o755)
	if w.Lay(path) {
		told = append(told, "laid")
	}
	if err := unix.Unmount(parent, unix.MNT_DETACH); err != nil {
		return err.Error()
	}
	ring("unmounted")
	return strings.Join(told, ", ")
}
