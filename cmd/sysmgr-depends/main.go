// Command sysmgr-depends is called inside a service script: it returns when
// the services it names are up.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sysmgr/control"
	"sysmgr/internal/cli"
	"sysmgr/internal/rundir"
)

var program = cli.Program{Name: "sysmgr-depends", Usage: `usage: sysmgr-depends [-r] [-w SEC] NAME...

  -r      wait until they are ready, not only up
  -w SEC  wait this long at most (default: for ever; 0: do not wait)
  -h, -V  print this help, the version

Exit status: 0 all are up; 1 it can never be, as in a cycle; 2 wrong usage; 3
time ran out; 4 no such service; 5 sysmgr is not running; 6 permission denied.
`}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	set := flag.NewFlagSet(program.Name, flag.ContinueOnError)
	ready := set.Bool("r", false, "")
	word := set.String("w", "", "")
	if code, done := program.Parse(set, args); done {
		return code
	}
	wait := time.Duration(math.MaxInt64)
	if *word != "" {
		var ok bool
		if wait, ok = rundir.ParseSeconds(*word); !ok {
			return program.Misused("-w %s: not a number of seconds", *word)
		}
	}
	if set.NArg() == 0 {
		return program.Misused("no service named")
	}
	names := set.Args()
	for _, name := range names {
		if err := rundir.CheckName(name); err != nil {
			return program.Misused("%.80q: %v", name, err)
		}
	}
	w, err := prepare(names, *ready)
	if err == nil {
		w.onSignal()
		err = w.wait(wait)
		w.end()
	}
	if err == nil {
		return cli.OK
	}
	program.Errorf("%v", err)
	return control.ExitStatus(err)
}

// waiter is one run of sysmgr-depends.
type waiter struct {
	names  []string
	ready  bool
	sysdir string
	dir    *rundir.Dir
	client *control.Client
	told   map[string]bool // what was said already
	second bool            // the daemon is not the one we began with

	// mu guards the rest against the end by a signal.
	mu    sync.Mutex
	self  string // the service that calls us, or empty; or it has no folder to write into
	open  []string
	since time.Duration // when we began to wait, by rundir.Clock; 0: we did not
	ended bool
	mute  bool // it was said that its folder cannot be written to
}

func prepare(names []string, ready bool) (*waiter, error) {
	sysdir, err := cli.Sysdir()
	if err != nil {
		return nil, err
	}
	path, err := cli.Rundir()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		_, err := os.Lstat(filepath.Join(sysdir, name))
		if errors.Is(err, fs.ErrNotExist) || rundir.Ignored(name) {
			return nil, fmt.Errorf("%s: %w in %s", name, control.ErrUnknown, sysdir)
		}
	}
	dir, err := rundir.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", rundir.ErrNotRunning, path)
	}
	if err != nil {
		return nil, err
	}
	w := &waiter{names: names, ready: ready, sysdir: sysdir, dir: dir, told: make(map[string]bool)}
	// Called from a script of the daemon that serves this RUNDIR?
	if name := os.Getenv("SYSMGR_NAME"); os.Getenv("SYSMGR_DIR") == filepath.Join(path, name) && rundir.CheckName(name) == nil {
		w.self = name
	}
	return w, nil
}

// wait blocks until all services are as they should be, all at the same time.
func (w *waiter) wait(limit time.Duration) error {
	if w.self != "" && slices.Contains(w.names, w.self) {
		return circle{w.self, w.self}
	}
	end := time.Now().Add(limit)
	var err error
	w.client, err = control.Connect(w.dir, w.sysdir)
	if w.self != "" && errors.Is(err, rundir.ErrNotRunning) {
		err = w.succeed(end, limit) // who started us has been killed meanwhile
	}
	if err != nil {
		return err
	}
	w.call()
	for {
		open := slices.DeleteFunc(slices.Clone(w.names), w.counts)
		if len(open) == 0 {
			return w.settle()
		}
		w.note(open)
		err := w.pursue(open, end, limit)
		if errors.Is(err, rundir.ErrNotRunning) {
			err = w.succeed(end, limit)
		}
		if err != nil {
			return err
		}
	}
}

// pursue waits for some of the services.
func (w *waiter) pursue(names []string, end time.Time, limit time.Duration) error {
	targets := make([]*control.Target, len(names))
	for i, name := range names {
		targets[i] = &control.Target{Name: name, Goal: w.goal(name)}
	}
	w.client.Pursue(targets, max(0, min(limit, time.Until(end))))
	var first error
	var late []string
	for _, t := range targets {
		switch {
		case errors.Is(t.Err, control.ErrTime):
			late = append(late, t.Name)
		case errors.As(t.Err, new(circle)):
			return t.Err
		case t.Err != nil && first == nil:
			first = fmt.Errorf("%s: %w", t.Name, t.Err)
		}
	}
	if first == nil && len(late) > 0 {
		first = fmt.Errorf("%s: %w after %s", strings.Join(late, ", "), control.ErrTime, limit)
	}
	return first
}

// succeed waits for the next daemon: the one we began with was killed, and
// with it all news has ended.
func (w *waiter) succeed(end time.Time, limit time.Duration) error {
	for {
		if w.client != nil {
			w.client.Close()
			w.client = nil
		}
		err := control.Successor(w.dir, 0)
		if errors.Is(err, control.ErrTime) {
			w.say("", "sysmgr is not running any more; waiting for the next one")
			err = control.Successor(w.dir, min(limit, time.Until(end)))
		}
		if errors.Is(err, control.ErrTime) {
			return fmt.Errorf("sysmgr is not running: %w after %s", err, limit)
		}
		if err != nil {
			return err
		}
		w.second = true
		w.client, err = control.Connect(w.dir, w.sysdir)
		if !errors.Is(err, rundir.ErrNotRunning) {
			return err
		}
	}
}

// counts tells whether a service is as it should be, as far as one can see
// now.
func (w *waiter) counts(name string) bool {
	v, err := control.Look(w.dir, name)
	if err != nil {
		return false
	}
	up, _ := w.judge(name, v)
	return up
}

// judge tells whether a service is as it should be, or when to ask again.
func (w *waiter) judge(name string, v control.View) (up bool, again time.Duration) {
	if w.second && v.Pid != 0 && !rundir.Leads(v.Pid) {
		return false, 0 // word of the last daemon, which the next will put right
	}
	if w.ready {
		return v.IsUp() && v.Ready, 0
	}
	return v.Counts(filepath.Join(w.sysdir, name))
}

// goal is what one of the services has to come to.
func (w *waiter) goal(name string) control.Goal {
	return func(v control.View) (bool, time.Duration, error) {
		up, again := w.judge(name, v)
		if up {
			w.note(slices.DeleteFunc(slices.Clone(w.open), func(open string) bool { return open == name }))
			return true, 0, nil
		}
		if v.Phase == rundir.Down && v.Wanted == rundir.Down {
			w.say(name, fmt.Sprintf("held down; waiting until it is started (svctl start %s)", name))
		}
		if w.self != "" {
			if way := control.FindCircle(w.dir, w.self, w.open, w.since); way != nil {
				return false, 0, circle(way)
			}
		}
		return false, again, nil
	}
}

// circle is the way from a service back to itself by who waits for whom.
type circle []string

func (c circle) Error() string { return "they wait for each other: " + strings.Join(c, " -> ") }

// say says something on standard error, once.
func (w *waiter) say(name, what string) {
	if w.told[name+what] {
		return
	}
	w.told[name+what] = true
	if name != "" {
		what = name + ": " + what
	}
	program.Errorf("%s", what)
}
