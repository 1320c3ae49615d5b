package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// soon is how long a test waits for what must come. It is long because
// machines are slow; nothing that passes waits this long.
const soon = 30 * time.Second

// part names what the test binary is to be instead of a test, when a test
// has started it as another process.
const part = "WATCH_TEST_PART"

func TestMain(m *testing.M) {
	switch os.Getenv(part) {
	case "":
		goleak.VerifyTestMain(m)
	case "without descriptors":
		fmt.Print(pollWithoutDescriptors(os.Getenv("DIR")))
	case "mounting":
		fmt.Print(mountOver(os.Getenv("DIR")))
	case "without watches":
		fmt.Print(pollWithoutWatches(os.Getenv("DIR")))
	}
}

func start(t *testing.T, interested func(string, Change) Mark) *Watcher {
	t.Helper()
	w, err := New(interested)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func add(t *testing.T, w *Watcher, path, key string) {
	t.Helper()
	if _, err := w.Add(path, key); err != nil {
		t.Fatal(err)
	}
}

// listener collects news until a directory of its own, whose event comes
// after all others, has rung: what is not heard by then has not happened.
type listener struct {
	t     *testing.T
	w     *Watcher
	turns int
	marks map[string]Mark // what rang with the keys that heard has returned
}

func listen(t *testing.T, w *Watcher) *listener { return &listener{t: t, w: w} }

const marker = "marker "

// heard returns the keys that rang since it was last called.
func (l *listener) heard() string {
	l.t.Helper()
	l.turns++
	last := fmt.Sprint(marker, l.turns)
	dir := l.t.TempDir()
	add(l.t, l.w, dir, last)
	defer l.w.Remove(last)
	if err := os.Chmod(dir, 0o700); err != nil { // which nobody can leave out
		l.t.Fatal(err)
	}
	keys := make(map[string]Mark)
	late := time.After(soon)
	for keys[last] == 0 {
		select {
		case <-l.w.Bell():
			news := l.w.Take()
			if news.Lost || news.All {
				l.t.Fatalf("got %+v, want events", news)
			}
			for key, mark := range news.Keys {
				keys[key] |= mark
			}
		case <-late:
			l.t.Fatalf("no bell after %v", soon)
		}
	}
	maps.DeleteFunc(keys, func(key string, _ Mark) bool { return strings.HasPrefix(key, marker) })
	l.marks = keys
	return strings.Join(slices.Sorted(maps.Keys(keys)), " ")
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEveryChangeInADirectoryRings(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	w := start(t, nil)
	add(t, w, dir, "web")
	l := listen(t, w)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	open, err := os.Create(filepath.Join(elsewhere, "open"))
	must(err)
	defer open.Close()
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"nothing", func() {}, ""},
		{"a new file", func() { put(t, file, "x") }, "web"},
		{"nothing more", func() {}, ""},
		{"a file rewritten", func() { put(t, file, "y") }, "web"},
		{"chmod", func() { must(os.Chmod(file, 0o755)) }, "web"},
		{"touch", func() { must(os.Chtimes(file, time.Now(), time.Now())) }, "web"},
		{"a link", func() { must(os.Symlink("x", filepath.Join(dir, "link"))) }, "web"},
		{"a hard link", func() { must(os.Link(file, filepath.Join(dir, "hard"))) }, "web"},
		{"a directory", func() { must(os.Mkdir(filepath.Join(dir, "dir"), 0o755)) }, "web"},
		{"a change inside that directory", func() { put(t, filepath.Join(dir, "dir/x"), "") }, ""},
		{"reading", func() { os.ReadFile(file); os.ReadDir(dir) }, ""},
		{"rename", func() { must(os.Rename(file, file+"2")) }, "web"},
		{"rename in", func() { must(os.Rename(filepath.Join(elsewhere, "open"), file)) }, "web"},
		{"a write before the writer is done", func() { open.WriteString("half") }, ""},
		{"a writer that is done", func() { must(open.Close()) }, "web"},
		{"rename out", func() { must(os.Rename(file, filepath.Join(elsewhere, "x"))) }, "web"},
		{"unlink", func() { must(os.Remove(file + "2")) }, "web"},
		{"chmod of the directory itself", func() { must(os.Chmod(dir, 0o700)) }, "web"},
		{"a change elsewhere", func() { put(t, filepath.Join(elsewhere, "y"), "") }, ""},
	} {
		step.do()
		if got := l.heard(); got != step.want {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
	}
}

func TestOnlyInterestingNamesRing(t *testing.T) {
	dir := t.TempDir()
	w := start(t, func(name string, _ Change) Mark {
		if name == "lock" {
			return Rings
		}
		return 0
	})
	add(t, w, dir, "web")
	l := listen(t, w)
	for name, want := range map[string]string{"status": "", "lock2": "", "loc": "", ".lock": "", "lock": "web"} {
		put(t, filepath.Join(dir, name), "")
		if got := l.heard(); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	// What happens to the directory itself has no name and is for everybody.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := l.heard(); got != "web" {
		t.Errorf("removed: got %q, want web", got)
	}
}

// Whoever marks names by what happened to them gets all the marks, and what has
// none does not ring.
func TestMarksSayWhatHappenedToANameOfInterest(t *testing.T) {
	const came, gone, written Mark = 1, 2, 4
	dir, elsewhere := t.TempDir(), t.TempDir()
	file, other := filepath.Join(dir, "pid"), filepath.Join(elsewhere, "pid")
	put(t, other, "")
	w := start(t, func(name string, what Change) (mark Mark) {
		if name == "pid" {
			for c, m := range map[Change]Mark{Came: came, Gone: gone, Written: written} {
				if what&c != 0 {
					mark |= m
				}
			}
		}
		return mark
	})
	add(t, w, dir, "web")
	l := listen(t, w)
	for _, step := range []struct {
		what string
		do   func() error
		want Mark
	}{
		{"a link to it", func() error { return os.Link(other, file) }, came},
		{"its mode", func() error { return os.Chmod(file, 0o600) }, 0},
		{"its end", func() error { return os.Remove(file) }, gone},
		{"a rename", func() error { return os.Rename(other, file) }, came | written},
		{"a writer", func() error { return os.WriteFile(file, nil, 0o644) }, written},
		{"a rename away", func() error { return os.Rename(file, other) }, gone},
		{"a new file", func() error { return os.WriteFile(file, nil, 0o644) }, came | written},
		{"another name", func() error { return os.WriteFile(file+"2", nil, 0o644) }, 0},
		{"the directory itself", func() error { return os.Chmod(dir, 0o700) }, Itself},
		{"that and a name", func() error { return errors.Join(os.Chmod(dir, 0o755), os.Remove(file)) }, Itself | gone},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		l.heard()
		if got := l.marks["web"]; got != step.want {
			t.Errorf("%s: got marks %b, want %b", step.what, got, step.want)
		}
	}
}

func TestDirectoryThatGoesRingsAndCanComeBack(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "web")
	w := start(t, nil)
	l := listen(t, w)
	for range 3 {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		add(t, w, dir, "web")
		put(t, filepath.Join(dir, "x"), "")
		if got := l.heard(); got != "web" {
			t.Errorf("a file: got %q, want web", got)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if got := l.heard(); got != "web" {
			t.Errorf("removed: got %q, want web", got)
		}
	}
	w.sys.table.Lock()
	if w.sys.watches.len() != 0 {
		t.Errorf("table: got %v, want nothing", w.sys.watches)
	}
	w.sys.table.Unlock()
	if _, err := w.Add(dir, "web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Add of nothing: got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestDirectoryThatIsRenamedRings(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "web")
	os.Mkdir(dir, 0o755)
	w := start(t, nil)
	add(t, w, dir, "web")
	l := listen(t, w)
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	if got := l.heard(); got != "web" {
		t.Errorf("renamed: got %q, want web", got)
	}
	// Another directory takes its place, and its key.
	os.Mkdir(dir, 0o755)
	add(t, w, dir, "web")
	put(t, filepath.Join(dir+"2", "x"), "")
	if got := l.heard(); got != "" {
		t.Errorf("the old one: got %q, want silence", got)
	}
	put(t, filepath.Join(dir, "x"), "")
	if got := l.heard(); got != "web" {
		t.Errorf("the new one: got %q, want web", got)
	}
}

// The number of a directory that was removed is often that of the next one;
// Add knows them apart all the same, even before the events have been read.
func TestAddTellsOneDirectoryFromTheNext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web")
	w := start(t, nil)
	expect := func(what string, want bool) {
		t.Helper()
		if got, err := w.Add(dir, "web"); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
		}
	}
	os.Mkdir(dir, 0o755)
	expect("the first", true)
	expect("the same", false)
	put(t, filepath.Join(dir, "x"), "")
	expect("the same with another file", false)
	for range 50 {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		expect("the next", true)
		expect("the same again", false)
	}
	w.Remove("web")
	expect("after Remove", true)
}

func TestDirectoryHasTheKeyItWasGivenLast(t *testing.T) {
	dir := t.TempDir()
	w := start(t, nil)
	l := listen(t, w)
	add(t, w, dir, "old")
	add(t, w, dir, "new")
	put(t, filepath.Join(dir, "x"), "")
	if got := l.heard(); got != "new" {
		t.Errorf("got %q, want new", got)
	}
	w.Remove("old") // which is nobody's any more
	put(t, filepath.Join(dir, "y"), "")
	if got := l.heard(); got != "new" {
		t.Errorf("after Remove of the old key: got %q, want new", got)
	}
	w.Remove("new")
	w.Remove("new")
	put(t, filepath.Join(dir, "z"), "")
	if got := l.heard(); got != "" {
		t.Errorf("after Remove: got %q, want silence", got)
	}
}

func TestLinkIsFollowedOnlyWhenAsked(t *testing.T) {
	top := t.TempDir()
	dir, link := filepath.Join(top, "dir"), filepath.Join(top, "link")
	os.Mkdir(dir, 0o755)
	os.Symlink("dir", link)
	w := start(t, nil)
	l := listen(t, w)
	if _, err := w.Add(link, "web"); err == nil {
		t.Error("a link: got nil, want an error")
	}
	put(t, filepath.Join(top, "file"), "")
	if _, err := w.Add(filepath.Join(top, "file"), "web"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: got %v, want %v", err, unix.ENOTDIR)
	}
	add(t, w, link+"/.", "web")
	put(t, filepath.Join(dir, "x"), "")
	if got := l.heard(); got != "web" {
		t.Errorf("through the link: got %q, want web", got)
	}
}

func TestNewsIsToldOnce(t *testing.T) {
	w := start(t, nil)
	w.ring("a", Rings)
	w.ring("b", Rings)
	w.ring("a", Rings<<1)
	w.ringAll(false)
	<-w.Bell()
	if news := w.Take(); len(news.Keys) != 2 || !news.All || news.Lost {
		t.Errorf("got %+v, want a, b and all", news)
	}
	select {
	case <-w.Bell():
		t.Error("the bell rang twice for the same news")
	default:
	}
	w.ringAll(true)
	w.ringAll(false)
	if news := w.Take(); len(news.Keys) != 0 || !news.All || !news.Lost {
		t.Errorf("got %+v, want all and lost", news)
	}
	if news := w.Take(); len(news.Keys) != 0 || news.All || news.Lost {
		t.Errorf("got %+v, want nothing", news)
	}
}

// event is one event as read(2) gives it.
func event(wd int32, mask, size uint32, name string) []byte {
	buf := make([]byte, unix.SizeofInotifyEvent)
	binary.NativeEndian.PutUint32(buf, uint32(wd))
	binary.NativeEndian.PutUint32(buf[4:], mask)
	binary.NativeEndian.PutUint32(buf[12:], size)
	return append(buf, name...)
}

// silent is a watcher that reads nothing by itself.
func silent(keys map[int32]string) *Watcher {
	w := &Watcher{bell: make(chan struct{}, 1), done: make(chan struct{}), dirty: make(map[string]Mark)}
	for wd, key := range keys {
		w.sys.watches.set(wd, key)
	}
	return w
}

func TestQueueThatRanOverRingsForEverything(t *testing.T) {
	w := silent(map[int32]string{1: "a", 2: "b"})
	buf := event(1, unix.IN_CREATE, 4, "x\x00\x00\x00")
	buf = append(buf, event(-1, unix.IN_Q_OVERFLOW, 0, "")...)
	buf = append(buf, event(2, unix.IN_CREATE, 4, "y\x00\x00\x00")...)
	w.decode(buf, nil)
	news := w.Take()
	if !news.All || !news.Lost {
		t.Errorf("got %+v, want all and lost", news)
	}
	if _, ok := news.Keys["b"]; !ok {
		t.Errorf("got %+v, want what came after it too", news)
	}
}

func TestEventThatMakesNoSenseLosesNothing(t *testing.T) {
	for what, buf := range map[string][]byte{
		"a name longer than the rest": event(1, unix.IN_CREATE, 100, "x\x00"),
		"a name of 4 GB":              event(1, unix.IN_CREATE, ^uint32(0), "x\x00"),
	} {
		w := silent(map[int32]string{1: "a"})
		w.decode(buf, nil)
		if news := w.Take(); !news.All || !news.Lost {
			t.Errorf("%s: got %+v, want all and lost", what, news)
		}
	}
}

func TestWatchThatTheKernelDroppedIsForgotten(t *testing.T) {
	w := silent(map[int32]string{1: "a", 2: "b"})
	w.decode(event(1, unix.IN_IGNORED, 0, ""), nil)
	w.decode(event(7, unix.IN_IGNORED, 0, ""), nil) // one that nobody has any more
	if news := w.Take(); len(news.Keys) != 1 || w.sys.watches.len() != 1 {
		t.Errorf("got %+v and %v, want a rung and b left", news, w.sys.watches)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(event(1, unix.IN_CREATE, 4, "x\x00\x00\x00"))
	f.Add(event(-1, unix.IN_Q_OVERFLOW, 0, ""))
	f.Add(append(event(2, unix.IN_IGNORED, 0, ""), event(2, unix.IN_DELETE, 3, "abc")...))
	f.Add(event(1, unix.IN_ATTRIB, 1<<31, "x"))
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, buf []byte) {
		w := silent(map[int32]string{1: "a", 2: "b"})
		w.decode(buf, func(name string, _ Change) Mark {
			if strings.ContainsRune(name, 0) {
				t.Errorf("name %q", name)
			}
			return Rings
		})
		news := w.Take()
		for key := range news.Keys {
			if key != "a" && key != "b" {
				t.Errorf("key %q", key)
			}
		}
		if news.Lost && !news.All {
			t.Errorf("got %+v: lost, but not everything", news)
		}
		if all := w.sys.watches; len(all.byWd) != all.len() || len(all.byKey) != all.len() {
			t.Errorf("lists differ: %v", all)
		}
	})
}

// The kernel's own overflow: nobody reads while more happens than its queue
// holds (/proc/sys/fs/inotify/max_queued_events).
func TestEventsThatTheKernelLostAreToldOf(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Skip(err)
	}
	limit, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	if limit > 1<<17 {
		t.Skipf("a queue of %d events is too long to fill", limit)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w := start(t, func(string, Change) Mark {
		once.Do(func() { close(entered) })
		<-leave
		return Rings
	})
	goOn := sync.OnceFunc(func() { close(leave) })
	defer goOn()
	dir := t.TempDir()
	add(t, w, dir, "web")
	file := filepath.Join(dir, "x")
	put(t, file, "")
	<-entered
	for i := 0; i <= limit; i += 2 {
		// Equal events in a row are merged (inotify(7)), so they alternate.
		if err := errors.Join(os.Mkdir(file+"d", 0o755), os.Remove(file+"d")); err != nil {
			t.Fatal(err)
		}
	}
	goOn()
	late := time.After(soon)
	for {
		select {
		case <-w.Bell():
			if news := w.Take(); news.Lost {
				if !news.All {
					t.Error("lost, but not everything is to be read again")
				}
				return
			}
		case <-late:
			t.Fatalf("not told of the overflow after %v", soon)
		}
	}
}

func TestCloseWakesTheReaderAndGivesTheDescriptorBack(t *testing.T) {
	before := descriptors(t)
	for range 20 {
		w, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		add(t, w, t.TempDir(), "web")
		w.Close()
	}
	if after := descriptors(t); after > before {
		t.Errorf("descriptors: got %d, want %d", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// asChild runs the test binary in another part and returns what it prints.
func asChild(t *testing.T, role string, attr *syscall.SysProcAttr) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), part+"="+role, "DIR="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = attr
	out, err := cmd.Output()
	if errors.Is(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

const polls = "it polls"

// pollsFor waits for the clock to ring for everything.
func pollsFor(w *Watcher) string {
	select {
	case <-w.Bell():
		if news := w.Take(); news.All && !news.Lost {
			return polls
		}
		return "it rang for something else"
	case <-time.After(soon):
		return "it is silent"
	}
}

func TestWithoutInotifyTheClockRings(t *testing.T) {
	t.Parallel()
	if got := asChild(t, "without descriptors", nil); got != polls {
		t.Errorf("got %q, want %q", got, polls)
	}
}

func pollWithoutDescriptors(dir string) string {
	time.Sleep(time.Nanosecond) // the runtime takes descriptors of its own for its first timer
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64})
	var full []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		full = append(full, fd)
	}
	w, err := New(nil)
	for _, fd := range full {
		unix.Close(fd)
	}
	if !errors.Is(err, ErrPolling) || !errors.Is(err, unix.EMFILE) {
		return fmt.Sprintf("New: %v", err)
	}
	defer w.Close()
	if _, err := w.Add(dir, "web"); err != nil {
		return fmt.Sprintf("Add: %v", err)
	}
	w.Remove("web")
	return pollsFor(w)
}

// In a user namespace of its own the number of watches can be limited without
// taking them from others (namespaces(7), /proc/sys/user).
func TestWithoutWatchesTheClockRingsToo(t *testing.T) {
	t.Parallel()
	got := asChild(t, "without watches", &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	if strings.HasPrefix(got, "cannot") {
		t.Skip(got)
	}
	if got != polls {
		t.Errorf("got %q, want %q", got, polls)
	}
}

func pollWithoutWatches(dir string) string {
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("1"), 0o644); err != nil {
		return "cannot limit watches: " + err.Error()
	}
	w, err := New(nil)
	if err != nil {
		return err.Error()
	}
	defer w.Close()
	if _, err := w.Add(dir, "first"); err != nil {
		return err.Error()
	}
	other := filepath.Join(dir, "other")
	os.Mkdir(other, 0o755)
	<-w.Bell()
	w.Take()
	for range 2 {
		if _, err := w.Add(other, "second"); !errors.Is(err, ErrPolling) || !errors.Is(err, unix.ENOSPC) {
			return fmt.Sprintf("Add: %v", err)
		}
	}
	if says := pollsFor(w); says != polls {
		return says
	}
	// There is a watch for it after all, and it is the directory that it was.
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("9"), 0o644); err != nil {
		return err.Error()
	}
	if another, err := w.Add(other, "second"); another || err != nil {
		return fmt.Sprintf("Add of the same directory: got %t, %v, want false", another, err)
	}
	if err := errors.Join(os.Remove(other), os.Mkdir(other, 0o755)); err != nil {
		return err.Error()
	}
	if another, err := w.Add(other, "second"); !another || err != nil {
		return fmt.Sprintf("Add of another directory: got %t, %v, want true", another, err)
	}
	return polls
}
