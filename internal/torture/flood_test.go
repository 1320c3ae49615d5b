//go:build linux

package torture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// What a service, or whoever may control one, can pour into its folder. The
// others do not notice, and the daemon stays small.
func TestFloodInOneFolderIsNobodyElsesTrouble(t *testing.T) {
	t.Parallel()
	for _, flood := range []struct {
		what  string
		count int
		pour  func(folder string, i int) error
	}{
		{"files", choose(3000, 20_000, 100_000), func(folder string, i int) error {
			return os.WriteFile(filepath.Join(folder, "x"+strconv.Itoa(i)), nil, 0o644)
		}},
		{"toggles of the lock", choose(400, 2000, 10_000), func(folder string, i int) error {
			lock := filepath.Join(folder, rundir.Lock)
			if i%2 == 0 {
				return os.WriteFile(lock, []byte("TERM\n"), 0o644)
			}
			return os.Remove(lock)
		}},
		{"requests", choose(400, 2000, 10_000), func(folder string, i int) error {
			return os.WriteFile(filepath.Join(folder, rundir.Control), []byte("restart "+strconv.Itoa(i)+"\n"), 0o644)
		}},
	} {
		try(t, "flood of "+flood.what, fmt.Sprint(flood.count), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			web, other := w.add("web", "ready"), w.add("other", "ready")
			w.begin()
			w.watch()
			w.converge(4)
			before := w.settled()
			folder := filepath.Join(w.Rundir, "web")
			web.mu.Lock()
			web.touched = true
			web.mu.Unlock()
			done := make(chan error, 1)
			go func() {
				for i := range flood.count {
					if err := flood.pour(folder, i); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
			var err error
			for busy := true; busy; {
				w.ask("-q", "status", "other")
				begin := time.Now()
				w.order(other, "restart")
				w.answered("svctl restart other", begin, 2*answerTime)
				select {
				case err = <-done:
					busy = false
				default:
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			w.wants(web, "start")
			w.converge(15)
			w.order(web, "restart")
			w.order(web, "stop")
			if peak := w.peak(); peak > 96<<10 {
				t.Errorf("the daemon came to %d kB", peak)
			}
			small := func() bool { return w.Usage().PSS < before.PSS+8<<10 }
			w.Until("the daemon to be small again", small)
			if after := w.settled(); after.Descriptors > before.Descriptors {
				broken(t, 13, "got %d descriptors, want %d", after.Descriptors, before.Descriptors)
			}
			w.endHard(w.Patience) // its folder stays, with what others left there
		})
	}
}

// peak is the most memory that the daemon ever had, in kB.
func (w *world) peak() (kB int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Daemon.Pid))
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "VmHWM: %d kB", &kB)
	}
	return kB
}

// wrote tells whether the daemon has written something to its log.
func (w *world) wrote(words string) bool {
	text, _ := os.ReadFile(w.Log)
	return strings.Contains(string(text), words)
}

// The kernel keeps so many events and no more: what happens to a daemon that
// does not come to read them is not lost with them.
func TestQueueOfEventsThatOverflowsLosesNothing(t *testing.T) {
	t.Parallel()
	try(t, "event queue overflow", "stopped daemon", func(t *testing.T) {
		const events = "/proc/sys/fs/inotify/max_queued_events"
		text, err := os.ReadFile(events)
		if err != nil {
			t.Skip(err)
		}
		limit, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		if limit > 200_000 {
			t.Skipf("%s is %d", events, limit)
		}
		w := small(t)
		leaving := w.add("leaving", "ready")
		w.begin()
		w.watch()
		w.converge(4)
		w.Daemon.Signal(unix.SIGSTOP)
		// That of the service directory may be on a disk, which is slow.
		dirs := []string{filepath.Join(w.Rundir, "two")}
		lost := []string{"events lost, run directory read again"}
		if amount != "" {
			dirs, lost = append(dirs, w.Sysdir), append(lost, "events lost, service directory read again")
		}
		// Two of a kind in a row are one event. Twice as many as there is room
		// for: a thread may have read some before it was stopped.
		for i := range limit {
			for _, dir := range dirs {
				path := filepath.Join(dir, ".x"+strconv.Itoa(i%2))
				if err := errors.Join(os.Mkdir(path, 0o755), os.Remove(path)); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.add("late", "ready")
		w.wants(leaving, "gone")
		prey, one, two := w.known("prey"), w.known("one"), w.known("two")
		prey.touched, two.touched = true, true
		w.Kill(w.leaderOf("prey"))
		began := rundir.Clock()
		err = errors.Join(os.Remove(filepath.Join(w.Sysdir, "leaving")),
			os.WriteFile(filepath.Join(w.Rundir, "one", rundir.Lock), []byte("TERM\n"), 0o644),
			os.WriteFile(filepath.Join(w.Rundir, "two", rundir.Control), []byte("restart\n"), 0o644))
		if err != nil {
			t.Fatal(err)
		}
		w.wants(one, "stop")
		w.Daemon.Signal(unix.SIGCONT)
		w.Until("the restart of two", func() bool { return w.startsSince("two", began) == 1 })
		w.converge(15)
		for _, words := range lost {
			if !w.wrote(words) {
				t.Errorf("the daemon did not say %q", words)
			}
		}
		w.served()
		w.converge(15)
		w.finish()
	})
}

// In a user namespace of its own the daemon has as little of inotify(7) as we
// like, and nobody else has less. It polls then, and works.
func TestDaemonWorksWithoutInotify(t *testing.T) {
	needRoot(t)
	t.Parallel()
	if err := exec.Command("unshare", "--user", "--map-root-user", "test", "-w", "/proc/sys/user/max_inotify_watches").Run(); err != nil {
		t.Skipf("no user namespace with limits: %v", err)
	}
	for _, few := range some([]struct {
		of    string
		count int
	}{{"instances", 0}, {"instances", 1}, {"watches", 0}, {"watches", 3}}, 2) {
		try(t, "few inotify "+few.of, fmt.Sprint(few.count), func(t *testing.T) {
			t.Parallel()
			w := small(t)
			shell := fmt.Sprintf(`echo %d >/proc/sys/user/max_inotify_%s && exec "$@"`, few.count, few.of)
			start := func() {
				w.LaunchUnder([]string{"unshare", "--user", "--map-root-user", "/bin/sh", "-c", shell, "sh"}, nil)
				w.Until("a daemon", w.claimed)
				w.daemon.Store(int64(w.Daemon.Pid))
			}
			start()
			w.watch()
			w.converge(4)
			w.served()
			late := w.add("late", "ready")
			w.await(late, "start")
			lock := filepath.Join(w.Rundir, "late", rundir.Lock)
			w.must(os.WriteFile(lock, []byte("TERM\n"), 0o644))
			w.await(late, "stop")
			w.must(os.Remove(lock))
			w.await(late, "start")
			w.must(os.Remove(filepath.Join(w.Sysdir, "late")))
			w.wants(late, "gone")
			w.await(late, "gone")
			if !w.wrote(" is polled") {
				t.Error("the daemon does not say that it polls")
			}
			// Of one instance nobody knows whether it is the scanner that has it, or
			// who hears what services say.
			w.Until("no status that claims to know what nobody hears", func() bool {
				if few.of == "instances" && few.count == 1 && !w.wrote("run directory is polled") {
					return true
				}
				claims, err := filepath.Glob(filepath.Join(w.Rundir, "*", rundir.State))
				return err == nil && len(claims) > 0 && !slices.ContainsFunc(claims, func(path string) bool {
					text, err := os.ReadFile(path)
					return err != nil || bytes.Contains(text, []byte("\nready "))
				})
			})
			w.crash()
			start()
			w.converge(4)
			w.checkAfterCrash()
			w.served()
			w.finish()
		})
	}
}

// A run directory is made read-only when there is no daemon: while there is
// one the kernel does not let it, because of the lock. The next daemon works
// there all the same, and nothing is lost or begun twice.
func TestReadOnlyRunDirectoryIsTakenOver(t *testing.T) {
	needRoot(t)
	t.Parallel()
	try(t, "RUNDIR remounted read-only", "between two daemons", func(t *testing.T) {
		w := small(t)
		if !w.mountSmall() {
			t.Skip("no file system of its own for the run directory")
		}
		held := w.known("three")
		remount := func(flags uintptr) error {
			return unix.Mount("", filepath.Dir(w.Rundir), "", unix.MS_REMOUNT|flags, "")
		}
		w.begin()
		w.watch()
		w.converge(4)
		w.order(held, "stop")
		if err := remount(unix.MS_RDONLY); !errors.Is(err, unix.EBUSY) {
			t.Errorf("remounted read-only under a daemon: got %v, want EBUSY", err)
		}
		w.crash()
		if err := remount(unix.MS_RDONLY); err != nil {
			t.Fatal(err)
		}
		// Its number cannot be written, so that it serves is seen by its log.
		w.Launch(nil)
		w.Until("that it cannot write", func() bool { return w.wrote("read-only file system") })
		w.daemon.Store(int64(w.Daemon.Pid))
		if _, complaint, code := w.Ask("-q", "status", "two"); code != 0 {
			t.Errorf("svctl status: got exit status %d (%s), want 0", code, complaint)
		}
		w.checkAfterCrash()
		if err := remount(0); err != nil {
			t.Fatal(err)
		}
		w.converge(4)
		w.served()
		w.finish()
	})
}

// No room for records of what is started, and then the daemon is killed: what
// has no record is found all the same, and not started a second time.
func TestServicesWithoutRecordAreFound(t *testing.T) {
	needRoot(t)
	t.Parallel()
	for _, end := range []string{"killed", "killed and robbed", "replaced"} {
		try(t, end+" with a full RUNDIR", "services without records", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			if !w.mountSmall() {
				t.Skip("no file system of its own for the run directory")
			}
			w.add("first", "ready")
			w.begin()
			w.watch()
			w.converge(4)
			fill := filepath.Join(filepath.Dir(w.Rundir), "fill")
			f, err := os.Create(fill)
			for err == nil {
				_, err = f.Write(make([]byte, 1024))
			}
			f.Close()
			for i := range 10 {
				name := "late" + strconv.Itoa(i)
				w.add(name, "child")
				w.untilStarted(name, 0)
			}
			if end != "replaced" {
				w.crash()
				w.must(os.Remove(fill))
				if end == "killed and robbed" {
					w.must(os.Remove(filepath.Join(w.Rundir, rundir.Private, "records")))
				}
				w.begin()
			} else {
				w.died() // as if: nothing may be restarted
				w.daemon.Store(int64(w.Daemon.Pid))
				w.Daemon.Signal(unix.SIGUSR2)
				w.Until("a new program", func() bool { return w.wrote("replace program") })
				w.must(os.Remove(fill))
			}
			w.converge(15)
			w.checkAfterCrash()
			w.secondAct()
		})
	}
}

// Whatever the clock says, everything goes on as it would: what the daemon
// measures, it measures by a clock that nobody can set. Its idea of the time of
// day is set, to long ago and to late, and back. The time stamps of files stay
// the kernel's, and the clocks of svctl and of services stay right, so that the
// daemon is in disagreement with all of them.
func TestClockThatIsSetChangesNothing(t *testing.T) {
	t.Parallel()
	for _, at := range some([]time.Time{time.Unix(3600, 0), time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)}, 1) {
		try(t, "the clock set to another year", fmt.Sprint(at.Year()), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			for _, name := range []string{"one", "two", "prey"} {
				w.add(name, "ready")
			}
			w.add("deaf", "ready deaf=-1 grace=0.3")
			w.add("slow", "") // it is up when a second has passed
			w.add("flaky", "life=5 code=1")
			c := w.beginTraced("-clock", fmt.Sprint(at.Unix()))
			w.awaitRest()
			w.watch()
			time.Sleep(time.Second) // a life of a second is none that failed
			c.meddle(true)
			w.keepsTime("one", "prey")
			time.Sleep(time.Second)
			c.meddle(false)
			w.keepsTime("two", "one") // which was started when the clock was wrong
			if c.says("clock") == "" {
				t.Error("the clock has not been set")
			}
			w.add("late", "ready")
			w.converge(15)
			w.died()
			unix.Kill(c.pid, unix.SIGKILL)
			<-w.Ended()
			w.begin()
			w.converge(4)
			w.checkAfterCrash()
			w.finish()
		})
	}
}

// keepsTime holds against the daemon how long things take that have a time of
// their own. Its services are at rest, and a second old. One of them is
// restarted, and one is killed, which has not died before.
func (w *world) keepsTime(restarted, victim string) {
	w.t.Helper()
	timed := func(what string, least, most time.Duration, do func()) {
		w.t.Helper()
		begin := time.Now()
		do()
		if took := time.Since(begin); took < least || took > most+w.lag(begin) {
			w.t.Errorf("%s: got %s, want between %s and %s", what, took, least, most)
		}
	}
	each := func(steps ...func()) {
		var all sync.WaitGroup
		for _, step := range steps {
			all.Go(step)
		}
		all.Wait()
	}
	order := func(name, verb string) { w.t.Helper(); w.order(w.known(name), verb) }
	each(func() {
		timed("restart", 0, 2*time.Second, func() { order(restarted, "restart") })
	}, func() {
		timed("stop of a deaf service", 300*time.Millisecond, 2*time.Second, func() { order("deaf", "stop") })
		order("deaf", "start")
	}, func() {
		timed("start of a service that is not ready", time.Second, 3*time.Second, func() { order("slow", "restart") })
	}, func() {
		prey := w.known(victim)
		prey.mu.Lock()
		prey.touched = true
		prey.mu.Unlock()
		w.untilStarted(victim, w.Kill(w.leaderOf(victim)))
		if w.wrote(`service in backoff	{"service": "` + victim + `"`) {
			w.t.Errorf("%s had lived for more than a second, and was not started again at once", victim)
		}
	}, func() {
		v, _, _ := w.view("flaky")
		if v.Phase != rundir.Backoff {
			return // in these milliseconds it lives
		}
		timed("back-off", 0, v.RetryIn+2*time.Second, func() { w.untilStarted("flaky", v.Clock) })
	})
}

// untilStarted waits until a service has been started since a moment.
func (w *world) untilStarted(name string, since time.Duration) {
	w.t.Helper()
	for deadline := time.Now().Add(w.rest); w.startsSince(name, since) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			broken(w.t, 4, "%s is not started again", name)
			return
		}
	}
}
