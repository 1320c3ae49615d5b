//go:build linux

package scanner

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// soon is how long a test waits for what must come. It is long because
// machines are slow; nothing that passes waits this long.
const soon = 30 * time.Second

// part names what the test binary is to be instead of a test, when a test
// has started it as another process.
const part = "SCANNER_TEST_PART"

func TestMain(m *testing.M) {
	switch os.Getenv(part) {
	case "":
		// Most of them wait for time to pass, and need no processor for that.
		flag.Parse()
		flag.Set("test.parallel", "24")
		goleak.VerifyTestMain(m)
	case "nobody":
		fmt.Print(scanAsNobody(os.Getenv("DIR")))
	case "without descriptors":
		fmt.Print(scanWithoutDescriptors(os.Getenv("DIR")))
	}
}

// output is what the test binary prints in another part.
func output(t *testing.T, role, dir string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), part+"="+role, "DIR="+dir, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", role, err, out)
	}
	return string(out)
}

// world is a service directory with a Scanner over it, and what that says.
type world struct {
	t   testing.TB
	dir string
	s   *Scanner

	mu        sync.Mutex
	snapshots [][]Entry
	times     []time.Time
	facts     []Fact
	early     []Entry
	restless  []string
	news      chan struct{}
}

// newWorld makes one whose Scanner does not run yet.
func newWorld(t testing.TB, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: dir, news: make(chan struct{}, 1)}
	s, err := New(Config{
		Dir:  dir,
		Send: w.send,
		Report: func(f Fact) {
			w.mu.Lock()
			w.facts = append(w.facts, f)
			w.mu.Unlock()
			w.wake()
		},
		Early: func(e Entry) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.early = append(w.early, e)
		},
		Restless: func() []string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.restless
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.s = s
	return w
}

// start is newWorld, running until the end of the test.
func start(t *testing.T, dir string) *world {
	t.Helper()
	w := newWorld(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	w.await("the first snapshot", func([]Entry) bool { return true })
	return w
}

func (w *world) send(entries []Entry) {
	w.mu.Lock()
	w.snapshots = append(w.snapshots, slices.Clone(entries))
	w.times = append(w.times, time.Now())
	w.mu.Unlock()
	w.wake()
}

func (w *world) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// last is the last snapshot, nil before the first.
func (w *world) last() []Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.snapshots) == 0 {
		return nil
	}
	return w.snapshots[len(w.snapshots)-1]
}

// await waits until the last snapshot is as f wants it.
func (w *world) await(what string, f func([]Entry) bool) []Entry {
	w.t.Helper()
	late := time.After(soon)
	for {
		w.mu.Lock()
		n := len(w.snapshots)
		w.mu.Unlock()
		if last := w.last(); n > 0 && f(last) {
			return last
		}
		select {
		case <-w.news:
		case <-late:
			w.t.Fatalf("%s: not after %v; the last snapshot is %v", what, soon, text(w.last()))
		}
	}
}

// awaitText waits until the snapshot reads as text does.
func (w *world) awaitText(want string) []Entry {
	w.t.Helper()
	return w.await(want, func(entries []Entry) bool { return text(entries) == want })
}

// text is a snapshot as the tests write it: names, -name for one that is
// missing, name(reason) for one that cannot be run.
func text(entries []Entry) string {
	var words []string
	for _, e := range entries {
		word := e.Name
		if e.Gone {
			word = "-" + word
		}
		if e.Bar != "" {
			word += "(" + e.Bar + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// entry finds one by its name.
func entry(entries []Entry, name string) (Entry, bool) {
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return entries[i], true
}

// count counts the facts of a type, or all that match.
func count[F Fact](w *world) (n int, last F) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.facts {
		if f, ok := f.(F); ok {
			n++
			last = f
		}
	}
	return n, last
}

// awaitFact waits until there are n facts of a type.
func awaitFact[F Fact](w *world, n int) F {
	w.t.Helper()
	late := time.After(soon)
	for {
		if got, last := count[F](w); got >= n {
			return last
		}
		select {
		case <-w.news:
		case <-late:
			var f F
			w.t.Fatalf("no %T after %v", f, soon)
		}
	}
}

// rescan asks for a scan and waits until one that began after it is over.
func (w *world) rescan() {
	w.t.Helper()
	n, _ := count[Scanned](w)
	w.s.Rescan()
	awaitFact[Scanned](w, n+1)
	w.s.Rescan() // the first may have been under way already
	awaitFact[Scanned](w, n+2)
}

// each checks every snapshot there was.
func (w *world) each(f func(entries []Entry) string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, entries := range w.snapshots {
		if wrong := f(entries); wrong != "" {
			w.t.Errorf("snapshot %d: %s: %s", i, wrong, text(entries))
		}
	}
}

// tempDir is a new directory that not everybody may write to, whatever the
// umask, in which scripts may lie.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const script = "#!/bin/sh\nexec sleep 1000\n"

// put makes a file complete, and then gives it its name.
func put(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	tmp := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(tmp, []byte(content), mode))
	must(t, os.Chmod(tmp, mode))
	must(t, os.Rename(tmp, path))
}

// services makes a directory with scripts of these names in it.
func services(t testing.TB, names ...string) string {
	t.Helper()
	dir := filepath.Join(tempDir(t), "services")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Chmod(dir, 0o755))
	for _, name := range names {
		put(t, filepath.Join(dir, name), script, 0o755)
	}
	return dir
}

func TestDirectoryMustBeThereAtTheBeginning(t *testing.T) {
	dir := services(t, "file")
	config := Config{Send: func([]Entry) {}, Report: func(Fact) {}}
	config.Dir = filepath.Join(dir, "nothing")
	if _, err := New(config); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: got %v, want %v", err, os.ErrNotExist)
	}
	config.Dir = filepath.Join(dir, "file")
	if _, err := New(config); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: got %v, want %v", err, unix.ENOTDIR)
	}
}

func TestFirstSnapshotIsSentEvenIfItIsEmpty(t *testing.T) {
	t.Parallel()
	if got := text(start(t, services(t)).last()); got != "" {
		t.Errorf("got %q, want an empty one", got)
	}
	if got := text(start(t, services(t, "b", "a b", "-c")).last()); got != "-c a b b" {
		t.Errorf("got %q, want all three, sorted", got)
	}
}

func TestNewEntryIsSeen(t *testing.T) {
	t.Parallel()
	elsewhere := services(t, "program")
	for how, make := range map[string]func(path string){
		"renamed in": func(path string) { put(t, path, script, 0o755) },
		"a link":     func(path string) { must(t, os.Symlink(filepath.Join(elsewhere, "program"), path)) },
		"a hard link": func(path string) {
			must(t, os.Link(filepath.Join(elsewhere, "program"), path))
		},
		"written in place, then made executable": func(path string) {
			must(t, os.WriteFile(path, []byte(script), 0o644))
			must(t, os.Chmod(path, 0o755))
		},
		"a link whose target comes a moment later": func(path string) {
			target := filepath.Join(elsewhere, "later")
			must(t, os.Symlink(target, path))
			put(t, target, script, 0o755)
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := services(t, "web")
			w := start(t, dir)
			make(filepath.Join(dir, "new"))
			w.awaitText("new web")
		})
	}
}

// A new entry is told of before the directory is read, and then with all others,
// whatever became of the early word.
func TestNewEntryIsToldOfEarlyAndThenWithAllOthers(t *testing.T) {
	t.Parallel()
	dir := services(t, "web")
	w := start(t, dir)
	for i := 0; ; i++ {
		name := fmt.Sprint("new", i)
		time.Sleep(3 * pause)
		put(t, filepath.Join(dir, name), script, 0o755)
		last := w.await(name, func(entries []Entry) bool { _, ok := entry(entries, name); return ok })
		w.mu.Lock()
		e, early := entry(w.early, name)
		w.mu.Unlock()
		if listed, _ := entry(last, name); early && e != listed {
			t.Errorf("got %v early, want %v", e, listed)
		}
		if early {
			break
		}
		if i == 100 {
			t.Fatal("no new entry of 100 was told of early")
		}
	}
}

// heard is what the early word is of, when the watch tells of these names.
func (w *world) hears(names ...string) (early string, whole bool) {
	w.early = nil
	for _, name := range names {
		w.s.heard.hear(name, watch.Came)
	}
	whole = w.s.glance(w.s.heard.take())
	return text(w.early), whole
}

// Only new services that can be run are told of early, and only if nothing else
// has happened: what the one means may depend on the other.
func TestOnlyNewServicesAreToldOfEarly(t *testing.T) {
	t.Parallel()
	dir := services(t, "a", "b")
	w := still(t, dir)
	put(t, filepath.Join(dir, "plain"), script, 0o644)
	put(t, filepath.Join(dir, "e~"), script, 0o755)
	put(t, filepath.Join(dir, "pid"), script, 0o755)
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(t, os.Symlink("a", filepath.Join(dir, "CuAbCdEf")))
	must(t, os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "c")))
	put(t, filepath.Join(dir, "d"), script, 0o755)
	put(t, filepath.Join(dir, "e"), script, 0o755)
	many := make([]string, few+1)
	for i := range many {
		many[i] = fmt.Sprint("many", i)
		put(t, filepath.Join(dir, many[i]), script, 0o755)
	}
	for _, names := range [][]string{
		nil, {"a"}, {"b"}, {"b", "c"}, {"c", "b"}, {"d", "a"}, {"d", "e~"}, {"d", "pid"}, {"d", "plain"}, {"d", "nothing"},
		{"dangling"}, {"CuAbCdEf", "d"}, many,
	} {
		if early, whole := w.hears(names...); early != "" || whole {
			t.Errorf("%q: got %q, %v; want nothing, and a scan", names, early, whole)
		}
	}
	if early, whole := w.hears("d", "e"); early != "d e" || !whole {
		t.Errorf("d and e: got %q, %v; want both", early, whole)
	}
	if early, _ := w.hears("d", "e"); early != "" {
		t.Errorf("d and e once more: got %q", early)
	}
	must(t, os.Remove(filepath.Join(dir, "e")))
	w.s.scan()
	if got := text(w.last()); !strings.Contains(got, " d -e ") {
		t.Errorf("got %q, want d there and e missed", got)
	}
	// One snapshot is owed for an early word, even if nothing has changed since.
	put(t, filepath.Join(dir, "f"), script, 0o755)
	w.hears("f")
	n := len(w.snapshots)
	w.s.scan()
	w.s.scan()
	if got := len(w.snapshots) - n; got != 1 {
		t.Errorf("got %d snapshots after the early word, want one", got)
	}
	must(t, os.RemoveAll(dir))
	w.s.scan()
	must(t, os.Mkdir(dir, 0o755))
	put(t, filepath.Join(dir, "g"), script, 0o755)
	if early, whole := w.hears("g"); early != "" || whole {
		t.Errorf("in a directory that was lost: got %q, %v; want nothing, and a scan", early, whole)
	}
}

// What is still being made is not told of as broken: an installer that makes
// the file and then its mode must not see it blocked in between.
func TestEntryBeingMadeIsNotToldOfAsBroken(t *testing.T) {
	t.Parallel()
	dir := services(t)
	w := start(t, dir)
	for i, judged := 0, 0; judged < 3 && i < 100; i++ {
		path := filepath.Join(dir, fmt.Sprint("new", i))
		begin := time.Now()
		must(t, os.WriteFile(path, nil, 0o644))
		time.Sleep(settle / 10)
		must(t, os.WriteFile(path, []byte(script), 0o644))
		time.Sleep(settle / 10)
		must(t, os.Chmod(path, 0o755))
		w.await("it runs", func(entries []Entry) bool { e, ok := entry(entries, filepath.Base(path)); return ok && e.Bar == "" })
		if time.Since(begin) < settle {
			judged++
			w.each(func(entries []Entry) string {
				if e, _ := entry(entries, filepath.Base(path)); e.Bar != "" {
					return "told of too early"
				}
				return ""
			})
		}
	}
	// One that stays as it is, is told of.
	must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o644))
	w.await("x is barred", func(entries []Entry) bool { e, _ := entry(entries, "x"); return e.Bar != "" })
}

// A file that never was a service costs one look when it comes and one when
// it goes, not one every 10 ms until it has been gone for a second.
func TestEntryThatGoesBeforeItWasToldOfIsForgotten(t *testing.T) {
	t.Parallel()
	dir := services(t)
	w := start(t, dir)
	n, _ := count[Scanned](w)
	must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o644))
	awaitFact[Scanned](w, n+1)
	must(t, os.Remove(filepath.Join(dir, "x")))
	time.Sleep(Grace + settle) // as long as it would be missed
	if after, _ := count[Scanned](w); after > n+12 {
		t.Errorf("got %d scans, want a handful", after-n)
	}
	w.each(func(entries []Entry) string {
		if len(entries) > 0 {
			return "told of"
		}
		return ""
	})
}

func TestRemovedEntryIsGoneForGoodAfterAMoment(t *testing.T) {
	t.Parallel()
	dir := services(t, "db", "web")
	w := start(t, dir)
	begin := time.Now()
	must(t, os.Remove(filepath.Join(dir, "web")))
	w.awaitText("db -web")
	w.awaitText("db")
	if took := time.Since(begin); took < Grace {
		t.Errorf("gone after %v, want %v or more", took, Grace)
	}
}

// A file that is deleted and put back within the grace is not bounced.
func TestEntryThatComesBackInTimeIsNotGone(t *testing.T) {
	t.Parallel()
	dir := services(t, "web")
	w := start(t, dir)
	path := filepath.Join(dir, "web")
	for judged := false; !judged; {
		begin := time.Now()
		must(t, os.Remove(path))
		w.awaitText("-web")
		time.Sleep(Grace / 4)
		put(t, path, script, 0o755)
		w.awaitText("web")
		if judged = time.Since(begin) < Grace; !judged {
			w.t.Log("too slow; once more")
			continue
		}
		time.Sleep(Grace + Grace/4) // when it would have been gone
		w.rescan()
		w.mu.Lock()
		for i, entries := range w.snapshots {
			if w.times[i].After(begin) && len(entries) == 0 {
				t.Errorf("gone for good %v after it was deleted", w.times[i].Sub(begin))
			}
		}
		w.mu.Unlock()
	}
}

func TestRenamedEntryKeepsItsID(t *testing.T) {
	t.Parallel()
	dir := services(t, "old")
	must(t, os.Symlink("old", filepath.Join(dir, "link")))
	w := start(t, dir)
	before := w.last()
	must(t, os.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "new")))
	after := w.await("new and not old", func(entries []Entry) bool {
		_, ok := entry(entries, "new")
		e, still := entry(entries, "old")
		return ok && (e.Gone || !still)
	})
	o, _ := entry(before, "old")
	n, _ := entry(after, "new")
	if o.Stamp.ID != n.Stamp.ID {
		t.Errorf("got %v, want %v", n.Stamp.ID, o.Stamp.ID)
	}
	if l, _ := entry(before, "link"); l.Stamp.ID == o.Stamp.ID {
		t.Error("a link has the ID of its target")
	}
}

func TestStampChangesWithTheFileBehindALink(t *testing.T) {
	t.Parallel()
	dir, elsewhere := services(t), services(t, "one", "two")
	must(t, os.Symlink(filepath.Join(elsewhere, "one"), filepath.Join(dir, "web")))
	w := start(t, dir)
	seen := map[Stamp]bool{w.last()[0].Stamp: true}
	changed := func(what string) {
		t.Helper()
		w.s.Rescan() // a target's change rings no bell
		w.await(what, func(entries []Entry) bool { return !seen[entries[0].Stamp] })
		seen[w.last()[0].Stamp] = true
	}
	put(t, filepath.Join(elsewhere, "one"), script+"#\n", 0o755)
	changed("target replaced")
	must(t, os.WriteFile(filepath.Join(elsewhere, "one"), []byte(script+"##\n"), 0o755))
	changed("target edited")
	must(t, os.Symlink(filepath.Join(elsewhere, "two"), filepath.Join(dir, ".web")))
	must(t, os.Rename(filepath.Join(dir, ".web"), filepath.Join(dir, "web")))
	changed("re-pointed")
}

func TestNamesThatAreNoServices(t *testing.T) {
	t.Parallel()
	dir := services(t, "web", "web~", "#web#", ".web", "web.swp", "web.dpkg-new", "web.rpmsave", "4913",
		"pid", "a\nb", "a\x7fb", "bad\xff")
	w := start(t, dir)
	for range 3 {
		w.rescan()
	}
	w.each(func(entries []Entry) string {
		if got := text(entries); got != "web" {
			return "got " + got
		}
		return ""
	})
	refused := make(map[string]int)
	w.mu.Lock()
	for _, f := range w.facts {
		if f, ok := f.(Refused); ok {
			refused[f.Name]++
			if !errors.Is(f.Err, rundir.ErrName) {
				t.Errorf("%q: got %v, want %v", f.Name, f.Err, rundir.ErrName)
			}
		}
	}
	w.mu.Unlock()
	if want := map[string]int{"pid": 1, "a\nb": 1, "a\x7fb": 1, "bad\xff": 1}; fmt.Sprint(refused) != fmt.Sprint(want) {
		t.Errorf("warnings: got %q, want %q", fmt.Sprint(refused), fmt.Sprint(want))
	}
	// One that goes and comes again is told of again.
	must(t, os.Remove(filepath.Join(dir, "pid")))
	w.rescan()
	put(t, filepath.Join(dir, "pid"), script, 0o755)
	awaitFact[Refused](w, 5)
}

// Everything that can be wrong with an entry, and how it is put right. What
// lies outside the directory rings no bell and is found by the slow check.
func TestEntryThatCannotBeRunSaysWhyUntilItIsPutRight(t *testing.T) {
	t.Parallel()
	elsewhere := services(t, "plain", "shared")
	open := filepath.Join(elsewhere, "open")
	must(t, os.Mkdir(open, 0o755))
	put(t, filepath.Join(open, "program"), script, 0o755)
	root := os.Geteuid() == 0
	cases := map[string]struct {
		make func(path string)
		bar  string // part of the reason
		mend func(path string)
		slow bool // nothing in the directory changes when it is put right
		root bool // only root minds
	}{
		"mode": {
			make: func(path string) { put(t, path, script, 0o644) }, bar: "not executable",
			mend: func(path string) { must(t, os.Chmod(path, 0o755)) },
		},
		"directory": {
			make: func(path string) { must(t, os.Mkdir(path, 0o755)) }, bar: "a directory",
			mend: func(path string) { must(t, os.Remove(path)); put(t, path, script, 0o755) },
		},
		"fifo": {
			make: func(path string) { must(t, unix.Mkfifo(path, 0o755)) }, bar: "not a regular file",
			mend: func(path string) { put(t, path, script, 0o755) },
		},
		"dangling": {
			make: func(path string) { must(t, os.Symlink(filepath.Join(elsewhere, "later"), path)) }, bar: "does not exist",
			mend: func(string) { put(t, filepath.Join(elsewhere, "later"), script, 0o755) }, slow: true,
		},
		"loop": {
			make: func(path string) { must(t, os.Symlink(filepath.Base(path), path)) }, bar: "circle",
			mend: func(path string) { put(t, path, script, 0o755) },
		},
		"interpreter": {
			make: func(path string) {
				put(t, path, "#!"+filepath.Join(elsewhere, "shell")+" -e\nexit\n", 0o755)
			}, bar: "interpreter",
			mend: func(string) { put(t, filepath.Join(elsewhere, "shell"), script, 0o755) }, slow: true,
		},
		"dos": {
			make: func(path string) { put(t, path, "#!/bin/sh\r\nexit\r\n", 0o755) }, bar: "DOS line ends",
			mend: func(path string) { put(t, path, script, 0o755) },
		},
		"empty": {
			make: func(path string) { put(t, path, "", 0o755) }, bar: "an empty file",
			mend: func(path string) { must(t, os.WriteFile(path, []byte(script), 0o755)) },
		},
		"target's mode": {
			make: func(path string) {
				must(t, os.Chmod(filepath.Join(elsewhere, "plain"), 0o644))
				must(t, os.Symlink(filepath.Join(elsewhere, "plain"), path))
			}, bar: "not executable",
			mend: func(string) { must(t, os.Chmod(filepath.Join(elsewhere, "plain"), 0o755)) }, slow: true,
		},
		"world-writable": {
			make: func(path string) { put(t, path, script, 0o757) }, bar: "writable by everyone", root: true,
			mend: func(path string) { must(t, os.Chmod(path, 0o755)) },
		},
		"world-writable target": {
			make: func(path string) {
				must(t, os.Chmod(filepath.Join(elsewhere, "shared"), 0o777))
				must(t, os.Symlink(filepath.Join(elsewhere, "shared"), path))
			}, bar: "writable by everyone", root: true,
			mend: func(string) { must(t, os.Chmod(filepath.Join(elsewhere, "shared"), 0o755)) }, slow: true,
		},
		"world-writable folder": {
			make: func(path string) {
				must(t, os.Chmod(open, 0o777))
				must(t, os.Symlink(filepath.Join(open, "program"), path))
			}, bar: "in a folder writable by everyone", root: true,
			mend: func(string) { must(t, os.Chmod(open, 0o777|os.ModeSticky)) }, slow: true, // as /tmp
		},
	}
	dir := services(t)
	for name, c := range cases {
		c.make(filepath.Join(dir, name))
	}
	w := start(t, dir)
	for _, e := range w.last() {
		c := cases[e.Name]
		if c.root && !root {
			c.bar = ""
		}
		if c.bar == "" != (e.Bar == "") || !strings.Contains(e.Bar, c.bar) {
			t.Errorf("%s: got %q, want %q", e.Name, e.Bar, c.bar)
		}
	}
	if len(w.last()) != len(cases) {
		t.Errorf("got %s, want %d entries", text(w.last()), len(cases))
	}
	begin := time.Now()
	for name, c := range cases {
		if !c.slow {
			c.mend(filepath.Join(dir, name))
		}
	}
	w.await("what is in the directory is put right", func(entries []Entry) bool {
		return !slices.ContainsFunc(entries, func(e Entry) bool { return e.Bar != "" && !cases[e.Name].slow || e.Gone })
	})
	if took := time.Since(begin); took > Slow {
		t.Errorf("the kernel tells of it, but it took %v", took)
	}
	begin = time.Now()
	for name, c := range cases {
		if c.slow {
			c.mend(filepath.Join(dir, name))
		}
	}
	w.await("what is elsewhere is put right", func(entries []Entry) bool {
		return !slices.ContainsFunc(entries, func(e Entry) bool { return e.Bar != "" })
	})
	if took := time.Since(begin); took > Slow+Slow/2 {
		t.Errorf("found after %v, want %v", took, Slow)
	}
}

// A directory that everybody may write to is no place for root's services,
// even if it became so while they ran.
func TestDirectoryThatIsOpenedToEveryoneBarsItsEntries(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root minds")
	}
	dir := services(t, "web")
	w := start(t, dir)
	w.awaitText("web")
	must(t, os.Chmod(dir, 0o777))
	w.await("web is barred", func(entries []Entry) bool { return strings.Contains(entries[0].Bar, "writable by everyone") })
	must(t, os.Chmod(dir, 0o755))
	w.awaitText("web")
}

// A file behind a link changes without a bell; whoever waits for it is asked.
func TestRestlessEntryIsLookedAtInTheSlowCheck(t *testing.T) {
	t.Parallel()
	dir, elsewhere := services(t, "web"), services(t, "program")
	must(t, os.Symlink(filepath.Join(elsewhere, "program"), filepath.Join(dir, "link")))
	w := start(t, dir)
	w.mu.Lock()
	w.restless = []string{"link", "nothing"}
	w.mu.Unlock()
	before, _ := entry(w.last(), "link")
	begin := time.Now()
	put(t, filepath.Join(elsewhere, "program"), script+"#\n", 0o755)
	w.await("another stamp", func(entries []Entry) bool { e, _ := entry(entries, "link"); return e.Stamp != before.Stamp })
	if took := time.Since(begin); took > Slow+Slow/2 {
		t.Errorf("found after %v, want %v", took, Slow)
	}
}

func TestNothingIsSentWhenNothingHasChanged(t *testing.T) {
	t.Parallel()
	dir := services(t, "a", "b", "pid", "x~")
	must(t, os.Symlink("nothing", filepath.Join(dir, "dangling")))
	w := start(t, dir)
	for range 5 {
		w.rescan()
	}
	put(t, filepath.Join(dir, "y~"), script, 0o755) // which is none of ours
	w.rescan()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.snapshots) != 1 {
		t.Errorf("got %d snapshots, want 1", len(w.snapshots))
	}
	changed := 0
	for _, f := range w.facts {
		if f, ok := f.(Scanned); ok && f.Changed {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("got %d scans that say that something changed, want 1", changed)
	}
}

func TestAtRestTheDirectoryIsNotRead(t *testing.T) {
	t.Parallel()
	dir := services(t, "a", "b")
	must(t, os.Symlink("nothing", filepath.Join(dir, "dangling")))
	old := time.Now().Add(-time.Hour) // a young directory is read once more
	must(t, os.Chtimes(dir, old, old))
	w := start(t, dir)
	time.Sleep(Slow + Slow/4) // the subject: time passes and nothing happens
	if n, _ := count[Scanned](w); n != 1 {
		t.Errorf("got %d scans, want the first alone", n)
	}
}

// still is a world whose Scanner the test itself moves.
func still(t *testing.T, dir string) *world {
	t.Helper()
	w := newWorld(t, dir)
	w.still()
	return w
}

func (w *world) still() {
	watcher, err := watch.New(nil)
	must(w.t, err)
	w.t.Cleanup(watcher.Close)
	w.s.watcher = watcher
	w.s.first = true
	w.s.scan()
	w.s.first = false
}

// The slow check asks for a scan only if one would see something new.
func TestSlowCheckIsQuietAtRest(t *testing.T) {
	t.Parallel()
	age := func(dir string, by time.Duration) {
		at := time.Now().Add(by)
		must(t, os.Chtimes(dir, at, at))
	}
	expect := func(w *world, what string, want bool) {
		t.Helper()
		if got := w.s.stale(); got != want {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	dir := services(t, "web")
	must(t, os.Symlink("nothing", filepath.Join(dir, "dangling")))
	expect(still(t, dir), "a directory that has just changed", true)

	age(dir, -time.Hour)
	w := still(t, dir)
	expect(w, "at rest", false)
	put(t, filepath.Join(dir, ".hidden"), "", 0o644)
	expect(w, "something changed", true)
	w.s.scan()
	w.s.config.Restless = nil
	age(dir, -time.Hour)
	w.s.scan()
	expect(w, "seen", false)

	age(dir, time.Hour) // unpacked from a machine whose clock is wrong
	expect(still(t, dir), "a directory from the future", false)

	// What is barred and no longer in the directory is not looked for.
	age(dir, -time.Hour)
	w = still(t, dir)
	must(t, os.Rename(dir, dir+"2"))
	must(t, os.Mkdir(dir, 0o755))
	age(dir, -time.Hour)
	w.restless = []string{"web"}
	w.s.scan()
	if got := text(w.last()); !strings.HasPrefix(got, "dangling(") || !strings.HasSuffix(got, " web") {
		t.Errorf("got %q, want both kept", got)
	}
	expect(w, "another directory, in which kept services are not", false)
}

// always fails the test if any snapshot was without one of the names.
func (w *world) always(names ...string) {
	w.t.Helper()
	w.each(func(entries []Entry) string {
		for _, name := range names {
			if _, ok := entry(entries, name); !ok {
				return name + " is not there"
			}
		}
		return ""
	})
}

func TestDirectoryThatIsRemovedKeepsItsServices(t *testing.T) {
	t.Parallel()
	dir := services(t, "a", "b", "c")
	w := start(t, dir)
	must(t, os.RemoveAll(dir))
	awaitFact[Unreadable](w, 1)
	time.Sleep(Grace + Grace/4) // when they would be gone
	w.s.Rescan()
	w.always("a", "b", "c")
	if got := text(w.last()); got != "a b c" {
		t.Errorf("the last that was sent: got %q, want all of them there", got)
	}
	if n, _ := count[Unreadable](w); n != 1 {
		t.Errorf("got %d warnings, want 1", n)
	}
	// Found again, empty: they run on, and that is said.
	begin := time.Now()
	must(t, os.Mkdir(dir, 0o755))
	awaitFact[Found](w, 1)
	if took := time.Since(begin); took > Slow+Slow/2 {
		t.Errorf("found again after %v, want %v", took, Slow)
	}
	if r := awaitFact[Replaced](w, 1); !slices.Equal(r.Kept, []string{"a", "b", "c"}) {
		t.Errorf("kept: got %q, want all", r.Kept)
	}
	// What comes into the new one counts, and the bell works there.
	begin = time.Now()
	put(t, filepath.Join(dir, "b"), script, 0o755)
	put(t, filepath.Join(dir, "d"), script, 0o755)
	w.awaitText("a b c d")
	if took := time.Since(begin); took > Slow/2 {
		t.Errorf("a new entry was seen after %v: no bell rings", took)
	}
	must(t, os.Remove(filepath.Join(dir, "b")))
	w.awaitText("a c d")
	w.always("a", "c")
}

func TestDirectoryThatIsRenamedAwayAndBackIsTheSame(t *testing.T) {
	t.Parallel()
	dir := services(t, "a", "b")
	w := start(t, dir)
	must(t, os.Rename(dir, dir+"2"))
	awaitFact[Unreadable](w, 1)
	put(t, filepath.Join(dir+"2", "c"), script, 0o755) // nobody's
	w.s.Rescan()
	time.Sleep(10 * pause)
	must(t, os.Rename(dir+"2", dir))
	awaitFact[Found](w, 1)
	w.awaitText("a b c")
	w.each(func(entries []Entry) string {
		if slices.ContainsFunc(entries, func(e Entry) bool { return e.Gone }) {
			return "something is missing"
		}
		return ""
	})
	if n, _ := count[Replaced](w); n != 0 {
		t.Errorf("got %d times that it is another directory, want none", n)
	}
	must(t, os.Remove(filepath.Join(dir, "c")))
	w.awaitText("a b")
}

func TestDirectoryInItsPlaceKeepsWhatIsNotInIt(t *testing.T) {
	t.Parallel()
	dir, other := services(t, "a", "b"), services(t, "b", "c")
	w := start(t, dir)
	must(t, unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE))
	w.awaitText("a b c")
	if r := awaitFact[Replaced](w, 1); !slices.Equal(r.Kept, []string{"a"}) {
		t.Errorf("kept: got %q, want a", r.Kept)
	}
	time.Sleep(Grace + Grace/4)
	w.rescan()
	w.always("a", "b")
	// And back again: everything is where it was, and c is kept.
	must(t, unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE))
	if r := awaitFact[Replaced](w, 2); !slices.Equal(r.Kept, []string{"c"}) {
		t.Errorf("kept: got %q, want c", r.Kept)
	}
	must(t, os.Remove(filepath.Join(dir, "a")))
	w.awaitText("b c")
}

// rm -rf and mkdir at once: the scanner may see only the new directory, to
// which the file system gives the number of the old one.
func TestDirectoryThatIsMadeAnewAtOnceKeepsItsServices(t *testing.T) {
	t.Parallel()
	dir := services(t, "a", "b")
	w := still(t, dir)
	for range 5 {
		must(t, os.RemoveAll(dir))
		must(t, os.Mkdir(dir, 0o755))
		w.s.scan()
		if got := text(w.last()); got != "a b" {
			t.Fatalf("got %q, want both kept", got)
		}
		if n, r := count[Replaced](w); n == 0 || !slices.Equal(r.Kept, []string{"a", "b"}) {
			t.Fatalf("kept: got %q, want both", r.Kept)
		}
		for _, name := range []string{"a", "b"} {
			put(t, filepath.Join(dir, name), script, 0o755)
		}
		w.s.scan()
	}
	// The bell rings for the new one.
	for news := w.s.watcher.Take(); ; news = w.s.watcher.Take() {
		if _, ok := news.Keys[""]; !ok {
			break
		}
		time.Sleep(10 * pause)
	}
	put(t, filepath.Join(dir, "c"), script, 0o755)
	late := time.After(soon)
	for rung := false; !rung; {
		select {
		case <-w.s.watcher.Bell():
			_, rung = w.s.watcher.Take().Keys[""]
		case <-late:
			t.Fatalf("no bell after %v", soon)
		}
	}
}

// What rm -rf takes away one by one has not been removed from the directory:
// it went with it.
func TestEntriesThatWereJustMissedWentWithTheDirectory(t *testing.T) {
	t.Parallel()
	dir := services(t, "a", "b")
	w := still(t, dir)
	must(t, os.Remove(filepath.Join(dir, "a")))
	w.s.scan()
	if got := text(w.last()); got != "-a b" {
		t.Fatalf("got %q, want a missed", got)
	}
	must(t, os.RemoveAll(dir))
	w.s.scan()
	if got := text(w.last()); got != "a b" {
		t.Errorf("got %q, want both kept", got)
	}
	if next := w.s.nextLook(); !next.IsZero() {
		t.Errorf("something is to be looked for at %v", next)
	}
	must(t, os.Mkdir(dir, 0o755))
	w.s.scan()
	if n, r := count[Replaced](w); n != 1 || !slices.Equal(r.Kept, []string{"a", "b"}) {
		t.Errorf("kept: got %q, want both", r.Kept)
	}
}

func TestLinkThatIsPointedElsewhereIsAnotherDirectory(t *testing.T) {
	t.Parallel()
	one, two := services(t, "a", "b"), services(t, "b", "c")
	link := filepath.Join(tempDir(t), "link")
	must(t, os.Symlink(one, link))
	w := start(t, link)
	w.awaitText("a b")
	begin := time.Now()
	must(t, os.Symlink(two, link+"2"))
	must(t, os.Rename(link+"2", link))
	w.awaitText("a b c")
	if took := time.Since(begin); took > Slow+Slow/2 {
		t.Errorf("seen after %v, want %v", took, Slow)
	}
	if _, r := count[Replaced](w); !slices.Equal(r.Kept, []string{"a"}) {
		t.Errorf("kept: got %q, want a", r.Kept)
	}
	begin = time.Now()
	put(t, filepath.Join(two, "d"), script, 0o755)
	w.awaitText("a b c d")
	if took := time.Since(begin); took > Slow/2 {
		t.Errorf("a new entry was seen after %v: no bell rings", took)
	}
}

// A daemon that is not root may lose the right to look at what it can list, or
// to list what is there. Neither makes a service go, nor keeps one.
func TestDirectoryWithoutRightsChangesNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	dir := services(t, "a", "b")
	for up := dir; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		must(t, os.Chmod(up, 0o755)) // as far as the test's own places go
	}
	must(t, os.Chown(dir, nobody, nobody))
	const want = "755: a b, 644: a b, 755: a b, a removed: -a b, 333: -a b, 755 and a second: b"
	if got := output(t, "nobody", dir); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

const nobody = 65534

func scanAsNobody(dir string) string {
	if err := unix.Setresuid(nobody, nobody, nobody); err != nil {
		return err.Error()
	}
	w := &world{dir: dir, news: make(chan struct{}, 1)}
	s, err := New(Config{Dir: dir, Send: w.send, Report: func(Fact) {}})
	if err != nil {
		return err.Error()
	}
	s.watcher, _ = watch.New(nil)
	var all []string
	look := func(what string, mode os.FileMode) {
		os.Chmod(dir, mode)
		s.scan()
		all = append(all, what+": "+text(w.last()))
	}
	look("755", 0o755)
	look("644", 0o644)
	look("755", 0o755)
	os.Remove(filepath.Join(dir, "a"))
	look("a removed", 0o755)
	look("333", 0o333)
	time.Sleep(Grace)
	look("755 and a second", 0o755)
	return strings.Join(all, ", ")
}

func TestWithoutInotifyNewEntriesAreSeenAllTheSame(t *testing.T) {
	t.Parallel()
	if got, want := output(t, "without descriptors", services(t, "a")), "a, a b, watchless 1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func scanWithoutDescriptors(dir string) string {
	time.Sleep(time.Nanosecond) // the runtime takes descriptors of its own for its first timer
	seen := make(chan string, 100)
	var mu sync.Mutex
	watchless := 0
	ready := make(chan struct{})
	s, err := New(Config{
		Dir:  dir,
		Send: func(entries []Entry) { seen <- text(entries) },
		Report: func(f Fact) {
			mu.Lock()
			defer mu.Unlock()
			switch f.(type) {
			case Watchless:
				if watchless++; watchless == 1 {
					close(ready)
				}
			}
		},
	})
	if err != nil {
		return err.Error()
	}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64})
	var full []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		full = append(full, fd)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-ready
	for _, fd := range full {
		unix.Close(fd)
	}
	next := func() string {
		select {
		case s := <-seen:
			return s
		case <-time.After(soon):
			return "nothing"
		}
	}
	first := next()
	if err := os.Symlink("a", filepath.Join(dir, "b")); err != nil {
		return err.Error()
	}
	second := next()
	mu.Lock()
	defer mu.Unlock()
	return fmt.Sprintf("%s, %s, watchless %d", first, second, watchless)
}

func TestTenThousandEntries(t *testing.T) {
	t.Parallel()
	const n = 10_000
	dir := services(t)
	// In memory, if there is such a place: ten thousand links take a disk seconds.
	if memory, err := os.MkdirTemp("/dev/shm", "scanner"); err == nil {
		t.Cleanup(func() { os.RemoveAll(memory) })
		must(t, os.Chmod(memory, 0o755))
		dir = memory
	}
	must(t, os.WriteFile(filepath.Join(dir, "s"), []byte(script), 0o644))
	must(t, os.Chmod(filepath.Join(dir, "s"), 0o755))
	target := filepath.Join(dir, "s")
	for i := range n - 1 {
		must(t, os.Symlink(target, filepath.Join(dir, fmt.Sprintf("service-%05d", i))))
	}
	w := start(t, dir)
	if len(w.last()) != n {
		t.Fatalf("got %d entries, want %d", len(w.last()), n)
	}
	w.rescan()
	_, s := count[Scanned](w)
	t.Logf("%d entries, nothing new: %v", s.Entries, s.Took)
	must(t, os.Symlink(target, filepath.Join(dir, "new")))
	w.await("one more", func(entries []Entry) bool { return len(entries) == n+1 })
	must(t, os.Remove(filepath.Join(dir, "new")))
	w.await("one less", func(entries []Entry) bool { return len(entries) == n })
}

// ln -sfn makes the new link under a name of its own and renames it over the
// old one: that name is no service.
func TestLinkThatIsRenamedAtOnceWasNeverThere(t *testing.T) {
	t.Parallel()
	dir := services(t)
	target := filepath.Join(t.TempDir(), "prog")
	put(t, target, "#!/bin/sh\n", 0o755)
	must(t, os.Symlink(target, filepath.Join(dir, "web")))
	w := start(t, dir)
	w.awaitText("web")
	brief := make(map[string]bool)
	for i := range 20 {
		name := "CuAbCdE" + string(rune('a'+i))
		begin := time.Now()
		must(t, os.Symlink(target, filepath.Join(dir, name)))
		time.Sleep(pause / 4)
		must(t, os.Rename(filepath.Join(dir, name), filepath.Join(dir, "web")))
		brief[name] = time.Since(begin) < settle/2 // not on a machine that stood still
		time.Sleep(pause)
	}
	put(t, filepath.Join(dir, "last"), "#!/bin/sh\n", 0o755)
	w.await("the last", func(entries []Entry) bool { return entries[0].Name == "last" || len(entries) > 1 })
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, entries := range w.snapshots {
		for _, e := range entries {
			if brief[e.Name] {
				t.Fatalf("told of %s", e.Name)
			}
		}
	}
}

// A look that is through, and whose goroutine was stopped before it could say
// so, is waited for.
func TestALookThatIsOverIsNotTakenForOneThatHangs(t *testing.T) {
	s := &Scanner{hung: make(map[string]chan struct{})}
	want := Entry{Name: "web"}
	l := &looking{names: []string{"web"}, known: make([]Entry, 1), entries: []Entry{want}, done: make(chan struct{})}
	l.at.Store(1)
	go func() {
		time.Sleep(2*answerTime + answerTime/2)
		close(l.done)
	}()
	if n := s.await(l); n != 1 || l.known[0] != want || len(s.hung) != 0 {
		t.Errorf("got %d entries, %+v, hung %v, want 1, %+v, none", n, l.known, s.hung, want)
	}
}
