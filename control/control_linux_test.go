//go:build linux

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

func TestEachVerbIsDeliveredAndKeptInTheLock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, before, want, lock string }{
		{"start a\n", "TERM\n", "start web #a", "-"},
		{"up a\n", "-", "start web #a", "-"},
		{"stop a\n", "-", "stop web #a lock", "TERM\n"},
		{"down\n", "once\n", "stop web lock", "TERM\n"},
		{"kill a\n", "-", "kill web #a lock", "KILL\n"},
		{"once a\n", "TERM\n", "once web #a lock", "once\n"},
		{"restart a\n", "KILL\n", "restart web #a", "-"},
		{"signal USR1 a\n", "-", "signal web USR1 #a", "-"},
		{"reload a\n", "once\n", "signal web HUP #a", "once\n"},
		{"explode a\n", "once\n", `refused web #a (unknown verb "explode")`, "once\n"},
		{"signal NOPE a\n", "-", `refused web #a (unknown signal "NOPE")`, "-"},
	} {
		for _, how := range []string{"echo", "svctl"} {
			t.Run(how+" "+strings.TrimSpace(c.line), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				f, err := w.dir.MakeFolder("web")
				w.must(err)
				defer f.Close()
				first := "released web"
				if c.before != "-" {
					w.put("web", rundir.Lock, c.before)
					first = map[string]string{"TERM\n": "stop", "KILL\n": "kill", "once\n": "once"}[c.before] + " web lock"
				}
				w.run().control.Attend("web")
				w.expect(first)
				if how == "echo" {
					w.echo("web", rundir.Control, c.line)
				} else {
					w.must(f.WriteNew(rundir.Control, []byte(c.line)))
				}
				w.expect(c.want)
				// The lock that was written here does not come back as a message.
				w.quiet()
				if got := w.lock("web"); got != c.lock {
					t.Errorf("lock: got %q, want %q", got, c.lock)
				}
				w.none("web", rundir.Control, rundir.Taken)
			})
		}
	}
}

// A request that was placed before anybody attended is not lost.
func TestRequestThatWaitsAtTheBeginningIsTaken(t *testing.T) {
	t.Parallel()
	for _, file := range []string{rundir.Control, rundir.Taken} {
		w := newWorld(t)
		w.must(os.Mkdir(filepath.Join(w.dir.Path(), "web"), 0o755))
		w.echo("web", file, "restart a\n")
		w.run().control.Attend("web")
		w.expect("restart web #a")
	}
}

func TestEmptyRequestWaitsForItsWriter(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	for {
		begin := time.Now()
		f, err := os.Create(w.path("web", rundir.Control))
		w.must(err)
		time.Sleep(3 * blink)
		_, err = f.WriteString("restart a\n")
		w.must(errors.Join(err, f.Close()))
		if time.Since(begin) < unfilled {
			break // it has not been thrown away
		}
		// The machine is so slow that it may have been.
		m, ok := w.next("")
		for ; !ok; m, ok = w.next("") {
			<-w.said
		}
		t.Logf("too slow: %s", text(m))
	}
	w.expect("restart web #a")
	w.quiet()
	w.none("web", rundir.Control, rundir.Taken)
}

func TestEmptyRequestIsThrownAwayAfterASecond(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	begin := time.Now()
	w.echo("web", rundir.Control, "")
	w.expect("refused web (empty request)")
	if took := time.Since(begin); took < unfilled {
		t.Errorf("thrown away after %v, want %v or more", took, unfilled)
	}
	w.quiet()
	w.none("web", rundir.Control, rundir.Taken)
	w.echo("web", rundir.Control, "restart a\n")
	w.expect("restart web #a")
}

// While somebody's request stays empty, others find the place free.
func TestEmptyRequestKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	w.echo("web", rundir.Control, "")
	f, err := w.dir.Folder("web")
	w.must(err)
	defer f.Close()
	late := time.Now().Add(soon)
	for f.WriteNew(rundir.Control, []byte("restart a\n")) != nil {
		if time.Now().After(late) {
			t.Fatal("the place is never free")
		}
		time.Sleep(time.Millisecond)
	}
	w.expect("refused web (empty request)", "restart web #a")
}

func TestOddRequestIsRefusedAndRemoved(t *testing.T) {
	t.Parallel()
	for name, make := range odd {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, "web")
			w.must(make(w.path("web", rundir.Control)))
			w.expect("refused web (the request is " + rundir.ErrIrregular.Error() + ")")
			w.quiet()
			w.none("web", rundir.Control, rundir.Taken)
			w.echo("web", rundir.Control, "restart a\n")
			w.expect("restart web #a")
		})
	}
}

// full makes a directory that is not empty: no known name, so nobody's to
// remove but his who made it.
func full(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "full")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What cannot be removed is its owner's to take away: it is told of once, and
// then requests are taken again.
func TestRequestThatCannotBeRemovedIsToldOfOnce(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	w.must(os.Rename(full(t), w.path("web", rundir.Control)))
	w.expect("refused web (the request is " + rundir.ErrIrregular.Error() + ")")
	// Control by the lock goes on.
	w.put("web", rundir.Lock, "TERM")
	w.expect("stop web lock")
	w.put("web", rundir.Lock, "KILL")
	w.expect("kill web lock")
	w.quiet()
	w.must(os.RemoveAll(w.path("web", rundir.Control)))
	w.echo("web", rundir.Control, "restart a\n")
	w.expect("restart web #a")
}

func TestWordsOfTheLock(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"TERM\n": "stop web lock", "15\n": "stop web lock", "anything": "stop web lock", "TERM": "stop web lock",
		"KILL\n": "kill web lock", "9": "kill web lock",
		"once\n": "once web lock", "0\n": "once web lock",
		"": "stop web lock", "\n": "stop web lock",
	} {
		t.Run(fmt.Sprintf("%q", word), func(t *testing.T) {
			t.Parallel()
			var w *world
			for slow := true; slow; {
				w = start(t, "web")
				begin := time.Now()
				w.echo("web", rundir.Lock, word)
				// A writer that takes that long looks like one that writes nothing.
				slow = time.Since(begin) >= blink
			}
			m := w.expect(want)
			f, err := w.dir.Folder("web")
			w.must(err)
			defer f.Close()
			if m.Lock != f.Stamp(rundir.Lock) {
				t.Errorf("stamp: got %+v, want that of the file", m.Lock)
			}
			w.quiet()
			if got := w.lock("web"); got != word {
				t.Errorf("the lock: got %q, want it untouched", got)
			}
		})
	}
}

func TestOddLockStops(t *testing.T) {
	t.Parallel()
	for name, make := range odd {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, "web")
			w.must(make(w.path("web", rundir.Lock)))
			w.expect("stop web lock")
			w.quiet()
			w.must(os.RemoveAll(w.path("web", rundir.Lock)))
			w.expect("released web")
		})
	}
}

func TestLockThatIsThereAtTheBeginningIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t).run()
	w.must(os.Mkdir(filepath.Join(w.dir.Path(), "web"), 0o755))
	w.put("web", rundir.Lock, "once\n")
	w.control.Attend("web")
	w.expect("once web lock")
	w.quiet()
}

func TestEachVersionOfALockIsToldOnce(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	for range 5 {
		for word, want := range map[string]string{"TERM\n": "stop web lock", "KILL\n": "kill web lock", "once\n": "once web lock"} {
			w.put("web", rundir.Lock, word)
			w.expect(want)
			w.put("web", rundir.Lock, word) // again: a new order
			w.expect(want)
			w.quiet()
		}
	}
}

func TestLockThatIsRemovedReleases(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	w.put("web", rundir.Lock, "TERM\n")
	w.expect("stop web lock")
	w.must(os.Remove(w.path("web", rundir.Lock)))
	w.expect("released web")

	// One that was written here, too.
	w.echo("web", rundir.Control, "kill a\n")
	w.expect("kill web #a lock")
	w.must(os.Remove(w.path("web", rundir.Lock)))
	w.expect("released web")
}

// An empty request that waits for its writer says nothing about a lock that
// is just being written.
func TestLockBeingWrittenIsNotMisreadBesideAnEmptyRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // not running: the test looks itself, when it wants to
	watcher, err := watch.New(nil)
	w.must(err)
	defer watcher.Close()
	w.control.watcher = watcher
	w.control.Attend("web")
	w.control.answer()
	w.expect("released web")
	w.echo("web", rundir.Control, "")
	w.control.look("web")
	time.Sleep(2 * blink) // the empty request is older than a lock may be
	w.echo("web", rundir.Lock, "")
	w.control.look("web")
	if m, ok := w.next(""); ok {
		t.Errorf("an empty lock that is new: got %q, want silence", text(m))
	}
	w.echo("web", rundir.Lock, "once\n")
	w.control.look("web")
	w.expect("once web lock")
}

func TestFolderThatIsRemovedStartsTheService(t *testing.T) {
	t.Parallel()
	w := start(t, "web", "db")
	for i := range 10 {
		switch i % 3 {
		case 0:
			w.put("web", rundir.Lock, "TERM\n")
			w.expect("stop web lock")
		case 1:
			w.echo("web", rundir.State, "phase up\n")
		}
		w.must(os.RemoveAll(filepath.Join(w.dir.Path(), "web")))
		w.expect("start web lost")
		// It is there again, watched, and only told of once.
		w.echo("web", rundir.Control, "restart a\n")
		w.expect("restart web #a")
		w.quiet()
	}
}

// The actor makes the folder too, when it publishes: it may come between the
// rm -r and our look. File systems like to give the new one the old number.
func TestFolderThatIsReplacedAtOnceStartsTheServiceToo(t *testing.T) {
	t.Parallel()
	folder := func(w *world, name string) string { return filepath.Join(w.dir.Path(), name) }
	for how, replace := range map[string]func(w *world){
		"removed and made": func(w *world) {
			w.must(os.RemoveAll(folder(w, "web")))
			if err := os.Mkdir(folder(w, "web"), 0o755); !errors.Is(err, fs.ErrExist) {
				w.must(err)
			}
		},
		"exchanged": func(w *world) {
			w.must(os.Mkdir(folder(w, ".spare"), 0o755))
			w.must(unix.Renameat2(unix.AT_FDCWD, folder(w, ".spare"), unix.AT_FDCWD, folder(w, "web"), unix.RENAME_EXCHANGE))
			w.must(os.RemoveAll(folder(w, ".spare")))
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := start(t, "web")
			for range 20 {
				replace(w)
				w.expect("start web lost")
				w.echo("web", rundir.Control, "restart a\n")
				w.expect("restart web #a")
			}
			w.quiet()
		})
	}
}

// A status that somebody removes is written again: also one that was not there
// yet when the folder was first looked at, and removed before the next look.
func TestStatusThatIsRemovedBeforeItWasSeenIsMissed(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	w.put("web", rundir.State, "phase up\n")
	w.must(os.Remove(w.path("web", rundir.State)))
	w.expect("released web lost")
}

// On a full file system neither a lock nor a status may be there: that nobody
// can see either is no order to start what is held.
func TestMissingStatusIsNoOrderWhereTheLockCouldNotBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f, err := w.dir.MakeFolder("web")
	w.must(err)
	defer f.Close()
	long := time.Now().Add(-2 * unfilled)
	for _, unwritten := range []bool{true, false} {
		k := &folder{status: true, unwritten: unwritten, pending: &pending{missed: long}}
		if got, want := w.control.bereft("web", k, f.Content()), !unwritten; got != want {
			t.Errorf("lock unwritten: %v: got %v, want %v", unwritten, got, want)
		}
	}
}

// A lock or a request in the folder that took the place of the old one counts.
func TestFolderThatIsReplacedIsRead(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	spare := filepath.Join(w.dir.Path(), ".spare")
	w.must(os.Mkdir(spare, 0o755))
	w.must(os.WriteFile(filepath.Join(spare, rundir.Lock), []byte("TERM\n"), 0o644))
	w.must(os.WriteFile(filepath.Join(spare, rundir.Control), []byte("signal HUP a\n"), 0o644))
	w.must(unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, filepath.Join(w.dir.Path(), "web"), unix.RENAME_EXCHANGE))
	w.expect("start web lost", "signal web HUP #a", "stop web lock")
}

// Without a run directory nothing can be asked for: not even, every second
// anew, that everything be started.
func TestRunDirectoryThatIsGoneIsNoStreamOfOrders(t *testing.T) {
	t.Parallel()
	w := start(t, "web", "db")
	// Control makes the folders anew until the directory itself is gone.
	eventually(t, "rm -r", func() bool { return os.RemoveAll(w.dir.Path()) == nil })
	time.Sleep(blink) // what it said to that
	w.mu.Lock()
	before := len(w.messages)
	w.mu.Unlock()
	time.Sleep(3 * unfilled) // time for two more looks at least
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.messages[before:] {
		t.Errorf("got %q, want silence", text(m))
	}
}

func TestForgottenServiceIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	w.echo("web", "mine", "not sysmgr's\n") // which keeps the folder
	w.control.Forget("web")
	w.quiet()
	w.echo("web", rundir.Control, "stop a\n")
	w.must(os.RemoveAll(filepath.Join(w.dir.Path(), "web")))
	w.quiet()
	if _, err := os.Lstat(filepath.Join(w.dir.Path(), "web")); err == nil {
		t.Error("the folder was made again")
	}
	w.control.Attend("web")
	w.expect("released web")
	w.echo("web", rundir.Control, "stop a\n")
	w.expect("stop web #a lock")
}

func TestLockThatCannotBeWrittenIsReportedAndTheOrderGoesOn(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	w.must(os.Rename(full(t), w.path("web", rundir.Lock)))
	w.expect("stop web lock")
	w.echo("web", rundir.Control, "start a\n")
	w.expect("start web #a")
	w.quiet()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, f := range w.facts {
		if f, ok := f.(Unwritten); ok && f.Service == "web" && f.Err != nil {
			n++
		}
	}
	if n != 1 {
		t.Errorf("got %d reports of it, want 1", n)
	}
}

// In a user namespace of its own the number of watches can be limited without
// taking them from others.
func TestWithoutWatchesRequestsAreTakenAllTheSame(t *testing.T) {
	t.Parallel()
	got := output(t, "without watches", t.TempDir(), ownNamespace())
	if strings.HasPrefix(got, "cannot") {
		t.Skip(got)
	}
	if want := "watchless 1, deaf 1, said 0, taken a b c d"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func attendWithoutWatches(path string) string {
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("1"), 0o644); err != nil {
		return "cannot limit watches: " + err.Error()
	}
	dir, err := rundir.Create(filepath.Join(path, "run"))
	if err != nil {
		return err.Error()
	}
	var watchless, deaf, said atomic.Int32
	taken := make(chan string, 100)
	c := New(Config{
		Rundir: dir,
		Deliver: func(m Message) {
			if m.Request.Verb == Restart {
				taken <- m.Service
			}
			if m.Said {
				said.Add(1)
			}
		},
		Deaf: func() { deaf.Add(1) },
		Report: func(f Fact) {
			if _, ok := f.(Watchless); ok {
				watchless.Add(1)
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	defer func() { cancel(); <-done }()
	names := []string{"a", "b", "c", "d"}
	if f, err := dir.MakeFolder("a"); err == nil { // or another could be watched before it
		f.Close()
	}
	for _, name := range names {
		c.Attend(name)
		f, err := dir.MakeFolder(name)
		if err == nil && name != "a" { // which has the one watch there is
			err = f.WriteNew(rundir.Ready, nil)
		}
		if err == nil {
			err = f.WriteNew(rundir.Control, []byte("restart\n"))
			f.Close()
		}
		if err != nil {
			return err.Error()
		}
	}
	got := make(map[string]bool)
	for len(got) < len(names) {
		select {
		case name := <-taken:
			got[name] = true
		case <-time.After(soon):
			return fmt.Sprintf("only %v", got)
		}
	}
	return fmt.Sprintf("watchless %d, deaf %d, said %d, taken %s", watchless.Load(), deaf.Load(), said.Load(), strings.Join(names, " "))
}

// A folder that could not be watched at first is no other folder when it can be:
// nobody has removed it, and nothing held is started.
func TestWatchThatIsHadLateStartsNothing(t *testing.T) {
	t.Parallel()
	got := output(t, "watches come back", t.TempDir(), ownNamespace())
	if strings.HasPrefix(got, "cannot") {
		t.Skip(got)
	}
	if want := "stop b lock, restart b #1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func attendUntilWatchesComeBack(path string) string {
	limit := func(n string) error { return os.WriteFile("/proc/sys/user/max_inotify_watches", []byte(n), 0o644) }
	if err := limit("1"); err != nil {
		return "cannot limit watches: " + err.Error()
	}
	dir, err := rundir.Create(filepath.Join(path, "run"))
	if err != nil {
		return err.Error()
	}
	said := make(chan string, 100)
	c := New(Config{
		Rundir: dir,
		Deliver: func(m Message) {
			if m.Service == "b" && m.Request.Verb != Released {
				said <- text(m)
			}
		},
		Report: func(Fact) {},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	defer func() { cancel(); <-done }()
	put := func(name, file, line string) error {
		f, err := dir.MakeFolder(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Write(file, []byte(line))
	}
	if err := errors.Join(put("a", rundir.State, "phase down\n"), put("b", rundir.State, "phase down\n"), put("b", rundir.Lock, "TERM\n")); err != nil {
		return err.Error()
	}
	c.Attend("a")
	c.Attend("b")
	words := []string{<-said}
	if err := errors.Join(limit("100"), put("b", rundir.Control, "restart 1\n")); err != nil {
		return err.Error()
	}
	for !strings.HasPrefix(words[len(words)-1], "restart") {
		select {
		case word := <-said:
			words = append(words, word)
		case <-time.After(soon):
			return fmt.Sprintf("only %v", words)
		}
	}
	return strings.Join(words, ", ")
}

// A request that cannot be taken away is answered all the same, and once.
func TestOnAReadOnlyFileSystemARequestIsTakenOnce(t *testing.T) {
	t.Parallel()
	attr := ownNamespace()
	attr.Cloneflags |= unix.CLONE_NEWNS
	got := output(t, "read-only", t.TempDir(), attr)
	if strings.HasPrefix(got, "cannot") {
		t.Skip(got)
	}
	if want := "[restart web #a]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// ownNamespace makes a process root in a user namespace of its own
// (user_namespaces(7)): what it limits there it takes from nobody.
func ownNamespace() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}

func attendReadOnly(path string) string {
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("none", path, "tmpfs", 0, ""),
	); err != nil {
		return "cannot mount: " + err.Error()
	}
	dir, err := rundir.Create(filepath.Join(path, "run"))
	if err != nil {
		return err.Error()
	}
	web := filepath.Join(dir.Path(), "web")
	if err := errors.Join(
		os.Mkdir(web, 0o755),
		os.WriteFile(filepath.Join(web, rundir.Taken), []byte("restart a\n"), 0o644),
		unix.Mount("none", path, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""),
	); err != nil {
		return "cannot remount: " + err.Error()
	}
	var got []string
	c := New(Config{Rundir: dir, Report: func(Fact) {}, Deliver: floodgate(&got)})
	if c.watcher, err = watch.New(nil); err != nil {
		return err.Error()
	}
	c.Attend("web")
	c.answer()
	c.look("web")
	c.look("web")
	return fmt.Sprint(got)
}

// floodgate is a Deliver that keeps what comes and ends the process when it
// does not stop coming.
func floodgate(got *[]string) func(Message) {
	return func(m Message) {
		if m.Request.Verb != Released {
			*got = append(*got, text(m))
		}
		if len(*got) > 100 {
			fmt.Print("a flood of ", (*got)[0])
			os.Exit(0)
		}
	}
}

// With the last descriptor taken, a request is neither lost nor seen where
// there is none.
func TestWithoutDescriptorsNoRequestIsLost(t *testing.T) {
	t.Parallel()
	if got, want := output(t, "without descriptors", t.TempDir(), nil), "[] [] [stop web #a lock]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// lookWithoutDescriptors looks with no request there, with one there, both
// with a single descriptor left, and then with enough of them.
func lookWithoutDescriptors(path string) string {
	dir, err := rundir.Create(filepath.Join(path, "run"))
	if err != nil {
		return err.Error()
	}
	var got []string
	c := New(Config{Rundir: dir, Report: func(Fact) {}, Deliver: floodgate(&got)})
	if c.watcher, err = watch.New(nil); err != nil {
		return err.Error()
	}
	c.Attend("web")
	c.answer()
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64})
	var full []int
	scarce := func() {
		for {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				break
			}
			full = append(full, fd)
		}
		unix.Close(full[len(full)-1])
		full = full[:len(full)-1]
	}
	plenty := func() {
		for _, fd := range full {
			unix.Close(fd)
		}
		full = nil
	}
	said := func() (s string) {
		s, got = fmt.Sprint(got), nil
		return s
	}
	scarce()
	c.look("web")
	all := []string{said()}
	plenty()
	if err := os.WriteFile(filepath.Join(dir.Path(), "web/control"), []byte("stop a\n"), 0o644); err != nil {
		return err.Error()
	}
	scarce()
	c.look("web")
	all = append(all, said())
	plenty()
	c.look("web")
	return strings.Join(append(all, said()), " ")
}

// A look that comes late, with an old bell in hand, must not bring back the
// folder of a service that is gone.
func TestForgottenFolderDoesNotComeBack(t *testing.T) {
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c := New(Config{Rundir: dir, Deliver: func(Message) {}, Report: func(Fact) {}})
	if c.watcher, err = watch.New(nil); err != nil {
		t.Fatal(err)
	}
	defer c.watcher.Close()
	c.Attend("web")
	c.answer()
	c.Forget("web")
	if err := dir.RemoveFolder("web"); err != nil { // as its actor does
		t.Fatal(err)
	}
	c.look("web")
	c.answer()
	if _, err := dir.Folder("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder: got %v, want it gone", err)
	}
}
