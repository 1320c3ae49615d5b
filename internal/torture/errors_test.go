//go:build linux

package torture

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// failure is a way in which system calls fail.
type failure struct {
	errno string
	calls string
	every int  // one in so many fails; 1: all
	forks bool // nothing can be started while it lasts
}

func (f failure) fault() string {
	if f.every > 1 {
		return fmt.Sprintf("%s of one call in %d", f.errno, f.every)
	}
	return f.errno
}

// failures are those that last: a full or dead or read-only file system, no
// descriptors, no processes, signals all the time.
var failures = []failure{
	{errno: "ENOSPC", calls: "create,mkdirat,write,renameat,linkat,symlinkat,inotify_add_watch", every: 1},
	{errno: "EROFS", calls: "create,mkdirat,unlinkat,renameat,linkat,symlinkat,fchmod,fchmodat,fchown", every: 1},
	{errno: "EMFILE", calls: "openat,pipe,pidfd_open,inotify_init", every: 1, forks: true},
	{errno: "EIO", calls: "openat,mkdirat,unlinkat,renameat,linkat,symlinkat,write,read,fchmod,getdents,fstat,fstatat,flock", every: 1},
	{errno: "EACCES", calls: "openat,mkdirat,unlinkat,renameat,linkat,fchmod,fstatat", every: 1},
	{errno: "EINTR", calls: "openat,write,read,flock,fchmod,renameat,unlinkat,mkdirat,linkat,fstatat,getdents", every: 2},
	{errno: "EIO", calls: "openat,mkdirat,unlinkat,renameat,linkat,write,read,fchmod,getdents,fstat,fstatat,flock,pipe,fork,pidfd_open", every: 3, forks: true},
	{errno: "EAGAIN", calls: "fork", every: 1, forks: true},
	{errno: "ENOMEM", calls: "fork,openat,mkdirat", every: 2, forks: true},
}

// single are those of which exactly one call fails.
var single = []failure{
	{errno: "ENOSPC", calls: "create,mkdirat,write,renameat,linkat,symlinkat,inotify_add_watch"},
	{errno: "EROFS", calls: "create,mkdirat,unlinkat,renameat,linkat,fchmod"},
	{errno: "EMFILE", calls: "openat,pipe,pidfd_open,inotify_init"},
	{errno: "EIO", calls: "openat,mkdirat,unlinkat,renameat,linkat,write,read,fchmod,getdents,fstat,fstatat,flock"},
	{errno: "EINTR", calls: "openat,write,read,flock,fchmod,renameat,unlinkat,mkdirat,linkat,fstatat,getdents"},
	{errno: "EAGAIN", calls: "fork,pipe"},
}

// answered holds against the daemon how long an answer took that has just
// come: no longer than may be, as far as the machine lets it.
func (w *world) answered(what string, begun time.Time, may time.Duration) {
	w.t.Helper()
	if took := time.Since(begun); took > may {
		if late := w.lag(begun); took > may+late {
			broken(w.t, 12, "%s took %s, want %s and %s for a slow machine", what, took, may, late)
		}
	}
}

// ask calls svctl, which has to come back in time with whatever answer.
func (w *world) ask(args ...string) int {
	w.t.Helper()
	begin := time.Now()
	_, code := w.Svctl(args...)
	if w.lives() {
		w.answered(fmt.Sprintf("svctl %v", args), begin, answerTime)
	}
	return code
}

// The calls of the daemon fail for a while, all of them or some. Meanwhile it
// answers, and keeps alive what it can; afterwards all is as it should be.
func TestDaemonLivesThroughCallsThatFailForAWhile(t *testing.T) {
	t.Parallel()
	for _, f := range some(failures, 2) {
		name := strings.ReplaceAll(f.fault(), " ", "-") + "-of-" + strings.SplitN(f.calls, ",", 2)[0]
		try(t, f.fault()+" for a while", name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			for _, s := range []string{"one", "two", "three", "four", "prey", "leaving"} {
				w.add(s, "ready")
			}
			w.add("flaky", "life=5 code=1")
			c := w.beginTraced("-calls", f.calls, "-fail", f.errno, "-every", strconv.Itoa(f.every))
			w.awaitRest()
			w.watch()
			// A process that is a second old is started again at once.
			time.Sleep(time.Second)
			c.meddle(true)
			w.under(f)
			c.meddle(false)
			lifted := time.Now()
			w.converge(15)
			w.checkAfterCrash()
			t.Logf("converged %s after the end of it; %s", time.Since(lifted).Round(time.Millisecond), c.says("failed"))
			w.sound()
			w.endTraced(c, w.Patience)
		})
	}
}

// under is what happens while a failure lasts.
func (w *world) under(f failure) {
	w.t.Helper()
	one, two, prey, leaving := w.known("one"), w.known("two"), w.known("prey"), w.known("leaving")
	if code := w.ask("-q", "status"); code > 1 {
		w.t.Errorf("svctl status: got exit status %d, want 0 or 1", code)
	}
	prey.touched = true
	killed := w.Kill(w.leaderOf("prey"))

	// Nobody knows what comes of these; but that something comes of them.
	one.maybe = []string{"stop"}
	if w.ask("-q", "-w", "0.5", "stop", "one") == 0 {
		if left := w.Processes("one"); len(left) > 0 {
			broken(w.t, 2, "stop of one: processes %v are there", left)
		}
		w.wants(one, "stop")
		one.held = rundir.Clock()
	}
	two.maybe = []string{"start"}
	old := w.leaderOf("two")
	two.touched = true
	if w.ask("-q", "-w", "0.5", "restart", "two") == 0 {
		if now := w.leaderOf("two"); now == old || now == 0 {
			broken(w.t, 7, "two is process %d, and was %d", now, old)
		}
	}
	w.add("late", "ready")
	w.wants(leaving, "gone")
	os.Remove(filepath.Join(w.Sysdir, "leaving"))

	if !f.forks && f.every == 1 {
		// It is supervised as if nothing had happened.
		restarted := func() bool { return w.startsSince("prey", killed) > 0 }
		for begin := time.Now(); !restarted(); time.Sleep(5 * time.Millisecond) {
			if time.Since(begin) > 3*time.Second+w.lag(begin) {
				broken(w.t, 4, "prey was killed, and is not started again while the fault lasts")
				break
			}
		}
	}
	for end := time.Now().Add(choose(time.Second, 2*time.Second, 4*time.Second)); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		w.ask("-q", "status")
	}
}

// sound looks for signs of distress in what the daemon wrote.
func (w *world) sound() {
	w.t.Helper()
	text, _ := os.ReadFile(w.Log)
	for _, bad := range []string{"panic: ", "fatal error: ", "DATA RACE"} {
		if strings.Contains(string(text), bad) {
			w.t.Errorf("daemon wrote %q", bad)
		}
	}
}

// endTraced is endHard for a daemon under the tracer.
func (w *world) endTraced(c *traced, may time.Duration) {
	w.t.Helper()
	w.endOf(c.pid, may)
}

// endHard sends TERM to a daemon that may be in trouble, and holds against it
// that it ends in time and leaves no process. What End wants more, that no
// folder is left, some troubles do not allow.
func (w *world) endHard(may time.Duration) {
	w.t.Helper()
	w.endOf(w.Daemon.Pid, may)
}

func (w *world) endOf(pid int, may time.Duration) {
	w.t.Helper()
	w.daemon.Store(0)
	begin := time.Now()
	unix.Kill(pid, unix.SIGTERM)
	select {
	case <-w.Ended():
	case <-time.After(w.Patience):
		broken(w.t, 12, "daemon still there %s after TERM", w.Patience)
		unix.Kill(pid, unix.SIGKILL)
		<-w.Ended()
		return
	}
	w.answered("the end of the daemon", begin, may)
	if code := w.State().ExitCode(); code != 0 {
		w.t.Errorf("daemon after TERM: got %v, want exit status 0", w.State())
	}
	if left := w.Processes(""); len(left) > 0 {
		broken(w.t, 2, "processes after the daemon's end: got %v, want none", left)
	}
}

// A request is there; the one call fails with which the daemon looks at it,
// takes it or acts upon it. It is carried out all the same, and soon.
func TestRequestOutlivesACallThatFails(t *testing.T) {
	t.Parallel()
	for _, f := range []struct{ call, file string }{
		{"fstatat", rundir.Control}, {"fstatat", rundir.Taken}, {"renameat", rundir.Taken},
		{"openat", rundir.Taken}, {"read", rundir.Taken}, {"unlinkat", rundir.Taken},
		{"renameat", rundir.Lock}, {"fstatat", rundir.Lock},
	} {
		try(t, "a single EIO about a request", f.call+" of "+f.file, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			web := w.add("web", "ready")
			c := w.beginTraced("-calls", f.call, "-under", filepath.Join(w.Rundir, "web", f.file), "-fail", "EIO", "-from", "1", "-to", "1")
			w.await(web, "start")
			c.meddle(true)
			for _, verb := range []string{"stop", "start"} {
				w.order(web, verb)
			}
			if c.says("failed") == "" {
				t.Errorf("no call failed")
			}
			w.endTraced(c, w.Patience)
		})
	}
}

// Nobody can tell whether there is a lock: then nothing is held that was not,
// not even when its process ends just then.
func TestLockThatNobodyCanLookForHoldsNothing(t *testing.T) {
	t.Parallel()
	for _, errno := range []string{"EACCES", "EIO", "EMFILE"} {
		try(t, "lock that cannot be looked for", errno, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			web := w.add("web", "ready")
			c := w.beginTraced("-calls", "openat,fstatat", "-under", filepath.Join(w.Rundir, "web", rundir.Lock), "-fail", errno)
			w.await(web, "start")
			c.meddle(true)
			web.touched = true
			w.untilStarted("web", w.Kill(w.leaderOf("web")))
			c.meddle(false)
			w.converge(15)
			w.endTraced(c, w.Patience)
		})
	}
}

// A watch that could not be had at first and can be had later is no sign that
// its directory is another one: what is held stays held, and what is removed
// goes.
func TestAWatchThatComesLateChangesNothing(t *testing.T) {
	t.Parallel()
	try(t, "a watch that comes late", "of a held service", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rig.Plain)
		web := w.add("web", "ready")
		folder := filepath.Join(w.Rundir, "web")
		w.must(os.MkdirAll(folder, 0o755))
		w.must(os.Chmod(w.Rundir, 0o755))
		w.must(os.WriteFile(filepath.Join(folder, rundir.Lock), []byte("TERM\n"), 0o644))
		web.want = "stop"
		c := w.beginTraced("-armed", "-calls", "inotify_add_watch", "-under", folder, "-fail", "ENOSPC")
		w.await(web, "stop")
		w.Until("a watch to fail", func() bool { return c.says("failed") != "" })
		c.meddle(false)
		w.order(web, "stop") // so that somebody has looked
		w.order(web, "stop")
		if started := w.Journalled("start", "web"); len(started) > 0 {
			broken(t, 3, "web was held, and was started %d times", len(started))
		}
		w.converge(15)
		w.endTraced(c, w.Patience)
	})
	try(t, "a watch that comes late", "of the service directory", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rig.Plain)
		w.add("web", "ready")
		leaving := w.add("leaving", "ready")
		c := w.beginTraced("-armed", "-calls", "inotify_add_watch", "-under", w.Sysdir, "-fail", "ENOSPC")
		w.awaitRest()
		w.Until("it to poll", func() bool { return w.wrote("service directory is polled") })
		c.meddle(false)
		w.wants(leaving, "gone")
		w.must(os.Remove(filepath.Join(w.Sysdir, "leaving")))
		w.await(leaving, "gone")
		w.endTraced(c, w.Patience)
	})
}

// TERM is heeded while calls fail.
func TestTermIsHeededWhileCallsFail(t *testing.T) {
	t.Parallel()
	for _, f := range some(failures, 3) {
		name := strings.ReplaceAll(f.fault(), " ", "-") + "-of-" + strings.SplitN(f.calls, ",", 2)[0]
		try(t, "TERM during "+f.fault(), name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			for _, s := range []string{"one", "two", "three"} {
				w.add(s, "ready child")
			}
			c := w.beginTraced("-calls", f.calls, "-fail", f.errno, "-every", strconv.Itoa(f.every))
			w.awaitRest()
			c.meddle(true)
			w.endTraced(c, answerTime)
			w.sound()
		})
	}
}

// The daemon starts while calls fail: either it refuses to, and says so, or it
// works; and when that is over, everything does.
func TestDaemonStartsOrRefusesWhileCallsFail(t *testing.T) {
	t.Parallel()
	for _, f := range some(failures, 3) {
		name := strings.ReplaceAll(f.fault(), " ", "-") + "-of-" + strings.SplitN(f.calls, ",", 2)[0]
		try(t, "start during "+f.fault(), name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			for _, s := range []string{"one", "two", "three"} {
				w.add(s, "ready child")
			}
			c := w.beginTraced("-armed", "-calls", f.calls, "-fail", f.errno, "-every", strconv.Itoa(f.every))
			// It may refuse late, on a busy machine.
			for begin := time.Now(); w.lives() && !w.claimed() && time.Since(begin) < w.rest; {
				time.Sleep(5 * time.Millisecond)
			}
			select {
			case <-w.Ended():
				if code := w.State().ExitCode(); code != 1 {
					t.Errorf("daemon that cannot start: got %v, want exit status 1", w.State())
				}
				if text, _ := os.ReadFile(w.Log); !strings.Contains(string(text), "sysmgr: ") {
					t.Errorf("daemon that cannot start wrote %q, want a reason", text)
				}
				c = w.beginTraced()
			case <-time.After(time.Second):
				c.meddle(false)
			}
			w.sound()
			w.converge(15)
			w.endTraced(c, w.Patience)
		})
	}
}

// Exactly one call fails, any one: every order comes to its end all the same.
func TestDaemonLivesThroughASingleCallThatFails(t *testing.T) {
	t.Parallel()
	if amount == "" {
		for _, f := range some(single, 2) {
			n := 1 + rand.New(rand.NewPCG(seed, 99)).IntN(500)
			try(t, "a single "+f.errno, fmt.Sprintf("SEED=%d %s at %d", seed, f.errno, n), func(t *testing.T) {
				t.Parallel()
				failAt(t, f, n)
			})
		}
		return
	}
	for i, f := range single {
		t.Run(f.errno, func(t *testing.T) {
			t.Parallel()
			var points int
			try(t, "a single "+f.errno, "never", func(t *testing.T) { points = failAt(t, f, 0) })
			order := rand.New(rand.NewPCG(seed, 100+uint64(i))).Perm(points)
			if few := int(number("TORTURE_FEW", uint64(choose(0, 2, points)))); few < points {
				order = order[:few]
			}
			if only := os.Getenv("TORTURE_POINT"); only != "" {
				n, _ := strconv.Atoi(only)
				order = []int{n - 1}
			}
			t.Run("at", func(t *testing.T) {
				for _, n := range order {
					try(t, "a single "+f.errno, strconv.Itoa(n+1), func(t *testing.T) {
						t.Parallel()
						failAt(t, f, n+1)
					})
				}
			})
		})
	}
}

func failAt(t *testing.T, f failure, n int) (points int) {
	w := newWorld(t, rig.Plain)
	w.lenient = n > 0
	s := w.prepare()
	w.watch()
	at := strconv.Itoa(n)
	c := w.beginTraced("-armed", "-calls", f.calls, "-fail", f.errno, "-from", at, "-to", at)
	s.play()
	if !w.lives() {
		// At its start it may refuse.
		text, _ := os.ReadFile(w.Log)
		if code := w.State().ExitCode(); code != 1 || !strings.Contains(string(text), "sysmgr: ") || strings.Contains(string(text), "sysmgr started") {
			t.Fatalf("daemon ended at %s: %v", c.says("failed"), w.State())
		}
		c = w.beginTraced()
		s.play()
	}
	t.Logf("call %d failed: %s", n, c.says("failed"))
	w.converge(15)
	w.checkAfterCrash()
	var each sync.WaitGroup
	for _, s := range w.all() {
		if v, there, _ := w.view(s.name); there && v.Phase == rundir.Up && s.calm {
			each.Go(func() { w.order(s, "restart") })
		}
	}
	each.Wait()
	w.sound()
	w.endTraced(c, w.Patience)
	fmt.Sscanf(c.says("counted"), "%d", &points)
	return points
}
