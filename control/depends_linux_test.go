//go:build linux

package control

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// A chain waits for its end: who counts as up, and when to ask again.
func TestCountsAsUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "web")
	// A child that another test forks meanwhile would have it open for writing
	// until it has executed: ETXTBSY.
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte("#!/bin/sh\nread -r line\nexec sleep 1000\n"), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(t, "a script that waits", func() bool { return !isBusy(cmd.Process.Pid) })
	view := func(change func(*View)) View {
		v := View{Status: rundir.Status{Phase: rundir.Up, Pid: cmd.Process.Pid, Calls: -1, Clock: rundir.Clock() - 200*time.Millisecond}}
		change(&v)
		return v
	}
	const no, soon, later = "no", "no, soon", "no, later"
	for _, c := range []struct {
		what   string
		change func(*View)
		script string // while it is still the script
		exec   string // once it has executed something else
	}{
		{"just up", func(v *View) {}, soon, "up"},
		{"stopping", func(v *View) { v.Phase = rundir.Stopping }, no, no},
		{"in back-off", func(v *View) { v.Phase, v.Pid = rundir.Backoff, 0 }, no, no},
		{"ready", func(v *View) { v.Ready = true }, "up", "up"},
		{"ready, and it crashed", func(v *View) { v.Ready, v.Failures = true, 3 }, "up", "up"},
		{"waiting", func(v *View) { v.Waiting = []string{"db"} }, no, no},
		{"waiting and ready", func(v *View) { v.Waiting, v.Ready = []string{"db"}, true }, no, no},
		{"up for a second", func(v *View) { v.Clock -= time.Second }, "up", "up"},
		{"up for a second, all of it waiting", func(v *View) { v.Clock -= time.Second; v.Went = rundir.Clock() - 100*time.Millisecond }, soon, "up"},
		{"crashed", func(v *View) { v.Failures = 1 }, later, later},
		{"crashed, and up for a second", func(v *View) { v.Failures, v.Clock = 1, v.Clock-time.Second }, "up", "up"},
		{"known not to call", func(v *View) { v.Calls = 0 }, "up", "up"},
		{"known to call once, and has", func(v *View) { v.Calls, v.Called = 1, 1 }, "up", "up"},
		{"known to call twice, and has once", func(v *View) { v.Calls, v.Called = 2, 1 }, soon, "up"},
		{"known to call twice, and up for a second", func(v *View) { v.Calls, v.Clock = 2, v.Clock-time.Second }, "up", "up"},
		{"crashed and known", func(v *View) { v.Failures, v.Calls = 1, 0 }, later, later},
	} {
		got := func() string {
			up, again := view(c.change).Counts(path)
			switch {
			case up && again == 0:
				return "up"
			case up:
				return fmt.Sprintf("up, and again in %v", again)
			case again == 0:
				return no
			case again <= 100*time.Millisecond+time.Second/20: // half of its life, and a bit for a slow machine
				return soon
			}
			return later
		}
		if got := got(); got != c.script {
			t.Errorf("%s, in its script: got %q, want %q", c.what, got, c.script)
		}
		defer func() {
			if got := got(); got != c.exec {
				t.Errorf("%s, past its script: got %q, want %q", c.what, got, c.exec)
			}
		}()
	}
	// Another spelling of the same place is no other script.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if hasExecuted(cmd.Process.Pid, filepath.Join(link, "web")) || !hasExecuted(cmd.Process.Pid, "/elsewhere/web") {
		t.Error("a script is not known by its place")
	}
	fmt.Fprintln(in)
	eventually(t, "exec", func() bool { return hasExecuted(cmd.Process.Pid, path) })
	if hasExecuted(1<<30, path) {
		t.Error("what is not there has executed something")
	}
}

func TestStartIsNotDoneByWaiting(t *testing.T) {
	t.Parallel()
	v := View{Status: rundir.Status{Phase: rundir.Up, Clock: rundir.Clock() - time.Hour}, Waited: time.Hour}
	if done, again, err := Running(false)(v); done || err != nil || again < steady/2 || again > steady {
		t.Errorf("after an hour of waiting: got %v, again %v, %v", done, again, err)
	}
	v.Waited -= 2 * time.Second
	if done, _, err := Running(false)(v); !done || err != nil {
		t.Errorf("after an hour of waiting and two seconds: got %v, %v", done, err)
	}
}

// On a slow machine a second is nothing: while a script, or what it has
// called, has yet to get a processor, it may still come to wait.
func TestBusyScriptMayStillComeToItsCall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "web")
	counts := func(script string, arg string) func() bool {
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, arg)
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		err := cmd.Start()
		for errors.Is(err, unix.ETXTBSY) { // a child of another test has not executed yet
			cmd = exec.Command(path, arg)
			cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL); cmd.Wait() })
		return func() bool {
			v := View{Status: rundir.Status{Phase: rundir.Up, Pid: cmd.Process.Pid, Calls: -1, Clock: rundir.Clock() - 2*time.Second}}
			up, again := v.Counts(path)
			if !up && again != steady/10 {
				t.Errorf("got again %v, want %v", again, steady/10)
			}
			old := v
			old.Clock -= patient
			if up, _ := old.Counts(path); !up {
				t.Error("it does not count in the end")
			}
			return up
		}
	}
	asleep := counts("#!/bin/sh\nsleep 1000\nexit\n", "")
	eventually(t, "a sleeping script to count", asleep)
	calls := filepath.Join(dir, "sysmgr-depends")
	if err := os.Symlink("/bin/sleep", calls); err != nil {
		t.Fatal(err)
	}
	calling := counts("#!/bin/sh\n\"$1\" 1000\nexit\n", calls)
	time.Sleep(200 * time.Millisecond)
	for range 20 {
		if calling() {
			t.Fatal("a script that calls sysmgr-depends counts as up")
		}
	}
	running := counts("#!/bin/sh\n(while :; do :; done)\nexit\n", "")
	for range 20 {
		if running() {
			t.Fatal("a script that runs counts as up")
		}
	}
}

// waits makes services that wait for others, as "a:b b:c,d".
func (w *world) waits(text string) {
	w.t.Helper()
	for _, word := range strings.Fields(text) {
		name, others, _ := strings.Cut(word, ":")
		f, err := w.dir.MakeFolder(name)
		w.must(err)
		w.must(f.Write(rundir.State, rundir.Status{Phase: rundir.Up}.Encode()))
		if others != "" {
			w.must(f.Write(rundir.Waiting, rundir.Names(strings.Split(others, ","))))
		}
		f.Close()
	}
}

func TestCircleIsFoundByAllInItEvenWhenSomeHaveGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.waits("a:b b:c,x c:a x:y y:y2 outside:a")
	since := rundir.Clock()
	find := func(name string, since time.Duration, others ...string) string {
		return strings.Join(FindCircle(w.dir, name, others, since), " ")
	}
	if got := find("outside", since, "a"); got != "" {
		t.Errorf("outside: got %q, want none", got)
	}
	if got := find("x", since, "y"); got != "" {
		t.Errorf("x: got %q, want none", got)
	}
	if got := find("a", since, "b"); got != "a b c a" {
		t.Errorf("a: got %q", got)
	}
	// a has exited; the word goes round against the direction of the waits.
	f, err := w.dir.Folder("a")
	w.must(err)
	defer f.Close()
	w.must(f.Remove(rundir.Waiting))
	w.must(f.Write(rundir.State, rundir.Status{Phase: rundir.Backoff}.Encode()))
	if got := find("b", since, "c", "x"); got != "" {
		t.Errorf("b, which cannot know yet: got %q", got)
	}
	if got := find("outside", since, "a"); got != "" {
		t.Errorf("outside: got %q, want none", got)
	}
	if got := find("c", since, "a"); got != "c a b c" {
		t.Errorf("c: got %q", got)
	}
	if got := find("b", since, "c", "x"); got != "b c a b" {
		t.Errorf("b: got %q", got)
	}
	// Whoever waits since later was not in it.
	if got := find("c", rundir.Clock()+time.Second, "a"); got != "" {
		t.Errorf("c, the next time: got %q, want none", got)
	}
	// What is left of a wait in the folder of one that has ended is none.
	w.waits("p:q q:p")
	w.must(os.WriteFile(w.path("q", rundir.State), rundir.Status{Phase: rundir.Backoff}.Encode(), 0o644))
	if got := find("p", since, "q"); got != "" {
		t.Errorf("p: got %q, want none", got)
	}
}

func TestSuccessorIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cmd, _ := hold(t, w.dir.Path())
	if err := Successor(w.dir, soon); err != nil {
		t.Errorf("it is still there: got %v", err)
	}
	w.must(cmd.Process.Signal(unix.SIGKILL))
	cmd.Wait()
	if err := Successor(w.dir, 50*time.Millisecond); !errors.Is(err, ErrTime) {
		t.Errorf("got %v, want %v", err, ErrTime)
	}
	done := make(chan error, 1)
	go func() { done <- Successor(w.dir, time.Duration(1<<63-1)) }()
	claim, err := w.dir.Claim()
	w.must(err)
	within(t, soon, "to see the next daemon", func() { err = <-done })
	if err != nil {
		t.Errorf("got %v", err)
	}
	w.must(claim.Release()) // an end in good order
	if err := Successor(w.dir, soon); !errors.Is(err, rundir.ErrNotRunning) {
		t.Errorf("got %v, want %v", err, rundir.ErrNotRunning)
	}
}

// stops pursues a stop of services in order; said is told of each request as
// it is taken.
func (d *daemon) stops(names []string, wait time.Duration) []*Target {
	targets := make([]*Target, len(names))
	for i, name := range names {
		targets[i] = &Target{Name: name, Request: &Request{Verb: Stop, ID: NewID()}, Goal: Stopped}
	}
	InOrder(d.dir, targets)
	d.client().Pursue(targets, wait)
	return targets
}

func TestStopsOfSeveralGoInOrder(t *testing.T) {
	t.Parallel()
	d := serve(t, "net", "db", "web")
	for name, needs := range map[string]string{"web": "db", "db": "net"} {
		d.put(name, rundir.Needs, needs+"\n")
	}
	var asked []string
	d.act = func(s *rundir.Status, m Message) {
		asked = append(asked, m.Service)
		s.Phase, s.Wanted = rundir.Stopping, rundir.Down
		if m.Service == "web" {
			// KILL does not end it.
			s.Killed = rundir.Clock()
			return
		}
		if web := d.status["web"]; web.Killed == 0 || rundir.Clock()-web.Killed < outliving {
			t.Errorf("%s was asked before web had outlived its KILL", m.Service)
		}
		name := m.Service
		time.AfterFunc(50*time.Millisecond, func() { d.phase(name, rundir.Down, rundir.Down) })
	}
	targets := d.stops([]string{"net", "web"}, 2*time.Second) // net by way of db
	d.mu.Lock()
	defer d.mu.Unlock()
	if got := strings.Join(asked, " "); got != "web net" {
		t.Errorf("asked in the order %q, want %q", got, "web net")
	}
	if targets[0].Err != nil || !errors.Is(targets[1].Err, ErrTime) {
		t.Errorf("got %v, %v; want the one stopped and the other out of time", targets[0].Err, targets[1].Err)
	}
	if d.status["db"].Phase != rundir.Up {
		t.Errorf("db: got %s, want up", d.status["db"].Phase)
	}
}

func TestStopIsAskedForWhenTheTimeIsOver(t *testing.T) {
	t.Parallel()
	d := serve(t, "db", "web")
	d.put("web", rundir.Needs, "db\n")
	asked := make(chan string, 2)
	d.act = func(s *rundir.Status, m Message) { // it never ends
		s.Phase, s.Wanted = rundir.Stopping, rundir.Down
		asked <- m.Service
	}
	// So long that web is asked before, on any machine.
	for _, target := range d.stops([]string{"db", "web"}, 2*time.Second) {
		if !errors.Is(target.Err, ErrTime) {
			t.Errorf("%s: got %v, want %v", target.Name, target.Err, ErrTime)
		}
	}
	var order []string
	within(t, soon, "both to be asked", func() { order = append(order, <-asked, <-asked) })
	if got := strings.Join(order, " "); got != "web db" {
		t.Errorf("got %q, want %q", got, "web db")
	}
}
