// Command svctl controls the services of a running sysmgr, and shows how they
// are. It works through the files of the run directory only.
//
// Its manners: data on standard output, "svctl: NAME: reason" on standard
// error; every name is validated before any file is touched; every name is
// tried, and the worst result is the exit status; requests for all names go
// out first, then it waits once.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/control"
	"sysmgr/internal/cli"
	"sysmgr/internal/rundir"
)

var program = cli.Program{Name: "svctl", Usage: `usage: svctl [-w SEC] [-qjt] VERB [NAME...]

  start, up NAME...      keep alive from now on
  stop, down NAME...     stop and hold
  restart NAME...        stop, then start
  once NAME...           start, and do not restart when it ends
  kill NAME...           stop with KILL, and hold
  reload NAME...         send HUP
  signal SIG NAME...     send any other signal
  status, stat [NAME...] show how they are; no name: all
  wait STATE NAME...     wait until they are: up, down or ready
  watch [NAME...]        show how they are, then every change; no name: all

  -w SEC  wait this long at most (60; 0: do not wait); watch: this long
  -q      print nothing
  -j      status: print JSON; watch: a line of JSON for each change
  -t      status: print who needs whom, as a tree
  -h, -V  print this help, the version

A NAME may be a path: its last part counts.
Exit status: 0 done, all up; 1 not reached, not all up; 2 wrong usage; 3 time
ran out; 4 no such service; 5 sysmgr is not running; 6 permission denied.
`}

func main() { os.Exit(run(os.Args[1:])) }

// session is one run of svctl.
type session struct {
	wait  time.Duration
	quiet bool
	json  bool
	tree  bool

	sysdir string
	dir    *rundir.Dir
	code   int // the worst so far

	hearsay bool // what services say of themselves is read from their status: see few
}

func run(args []string) int {
	var s session
	set := flag.NewFlagSet(program.Name, flag.ContinueOnError)
	wait := set.String("w", "60", "")
	set.BoolVar(&s.quiet, "q", false, "")
	set.BoolVar(&s.json, "j", false, "")
	set.BoolVar(&s.tree, "t", false, "")
	if code, done := program.Parse(set, args); done {
		return code
	}
	var ok bool
	if s.wait, ok = rundir.ParseSeconds(*wait); !ok {
		return program.Misused("-w %s: not a number of seconds", *wait)
	}
	if set.NArg() == 0 {
		return program.Misused("no verb")
	}
	verb, names := set.Arg(0), set.Args()[1:]
	if verb == "status" || verb == "stat" || verb == "watch" {
		// People write the options that are for them behind them.
		late := flag.NewFlagSet(program.Name, flag.ContinueOnError)
		late.BoolVar(&s.quiet, "q", s.quiet, "")
		late.BoolVar(&s.json, "j", s.json, "")
		late.BoolVar(&s.tree, "t", s.tree, "")
		if code, done := program.Parse(late, names); done {
			return code
		}
		names = late.Args()
	} else if len(names) > 0 && names[0] == "--" {
		names = names[1:]
	}
	plan, words, err := planOf(verb, names)
	if err != nil {
		return program.Misused("%v", err)
	}
	names = names[words:]
	if len(names) == 0 && !plan.status && !plan.watch {
		return program.Misused("%s: no service named", verb)
	}
	valid := s.validated(names)
	if plan.watch {
		if len(valid) > 0 || len(names) == 0 {
			s.watch(valid, given(set, "w"))
		}
		return s.code
	}
	err = s.open()
	if err != nil {
		s.fail("", err)
	}
	switch {
	case plan.status && s.dir != nil:
		// Of a dead daemon the last known facts are shown.
		s.status(valid, len(names) == 0, err == nil)
	case err == nil:
		s.pursue(plan, valid)
	}
	return s.code
}

// given tells whether an option was on the command line.
func given(set *flag.FlagSet, option string) (yes bool) {
	set.Visit(func(f *flag.Flag) { yes = yes || f.Name == option })
	return yes
}

// plan is what a verb comes to.
type plan struct {
	status  bool
	watch   bool
	request control.Request
	asks    bool         // there is a request
	goal    control.Goal // nil: it is enough that the request was taken
}

// planOf reads a verb, and as many of the words behind it as belong to it.
func planOf(verb string, words []string) (p plan, used int, err error) {
	p.asks = true
	switch verb {
	case "start", "up":
		p.request.Verb, p.goal = control.Start, control.Running(false)
	case "restart":
		p.request.Verb, p.goal = control.Restart, control.Running(false)
	case "once":
		p.request.Verb, p.goal = control.Once, control.Running(true)
	case "stop", "down":
		p.request.Verb, p.goal = control.Stop, control.Stopped
	case "kill":
		p.request.Verb, p.goal = control.Kill, control.Stopped
	case "reload":
		p.request.Verb, p.request.Signal = control.Signal, unix.SIGHUP
	case "signal":
		if len(words) == 0 {
			return p, 0, errors.New("signal: which one? for example: svctl signal USR1 NAME")
		}
		sig, ok := rundir.ParseSignal(words[0])
		if !ok {
			return p, 0, fmt.Errorf("signal: %q is not a signal", words[0])
		}
		p.request.Verb, p.request.Signal, used = control.Signal, sig, 1
	case "wait":
		goals := map[string]control.Goal{"up": control.IsUp, "down": control.IsDown, "ready": control.IsReady}
		if len(words) == 0 || goals[words[0]] == nil {
			return p, 0, errors.New("wait: for what? up, down or ready")
		}
		p.asks, p.goal, used = false, goals[words[0]], 1
	case "status", "stat":
		p.asks, p.status = false, true
	case "watch":
		p.asks, p.watch = false, true
	default:
		return p, 0, fmt.Errorf("%q is not a verb", verb)
	}
	return p, used, nil
}

// open finds the two directories and sees whether a daemon is there. Only for
// rundir.ErrNotRunning the run directory may be there all the same.
func (s *session) open() error {
	var err error
	if s.sysdir, err = cli.Sysdir(); err != nil {
		return err
	}
	path, err := cli.Rundir()
	if err != nil {
		return err
	}
	s.dir, err = rundir.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no %s", rundir.ErrNotRunning, path)
	}
	if err != nil {
		return err
	}
	witness, err := s.dir.Daemon()
	if errors.Is(err, rundir.ErrNotRunning) {
		return fmt.Errorf("%w in %s", err, path)
	}
	if err != nil {
		return err
	}
	witness.Close()
	return nil
}

// validated reduces names to their last part and drops, with a message, those
// that can be no service's. None is given twice.
func (s *session) validated(names []string) []string {
	var valid []string
	for _, name := range names {
		base := name
		if strings.Contains(name, "/") {
			base = path.Base(strings.TrimRight(name, "/"))
		}
		if err := rundir.CheckName(base); err != nil {
			s.say(fmt.Sprintf("%.80q", name), err)
			s.code = max(s.code, cli.Usage)
			continue
		}
		if !slices.Contains(valid, base) {
			valid = append(valid, base)
		}
	}
	return valid
}

// pursue does everything but status.
func (s *session) pursue(p plan, names []string) {
	client, err := control.Connect(s.dir, s.sysdir)
	if err != nil {
		s.fail("", err)
		return
	}
	defer client.Close()
	targets := make([]*control.Target, len(names))
	for i, name := range names {
		targets[i] = &control.Target{Name: name, Goal: p.goal}
		if p.asks {
			r := p.request
			r.ID = control.NewID()
			targets[i].Request = &r
		}
	}
	if p.request.Verb == control.Stop {
		control.InOrder(s.dir, targets)
	}
	client.Pursue(targets, s.wait)
	dead := false
	for _, t := range targets {
		switch {
		case t.Err == nil:
		case errors.Is(t.Err, rundir.ErrNotRunning):
			if !dead { // once is enough
				s.fail("", fmt.Errorf("%w any more: it ended while svctl waited", rundir.ErrNotRunning))
			}
			dead = true
		case errors.Is(t.Err, control.ErrTime):
			now := "not taken up by sysmgr yet"
			if v := t.View(); v.Phase != "" {
				now = "still " + v.Phase
				if len(v.Waiting) > 0 {
					now = "still waiting for " + strings.Join(v.Waiting, ", ")
				}
				if v.Cause != "" {
					now += " (" + v.Cause + ")"
				}
			}
			s.fail(t.Name, fmt.Errorf("%w after %s: %s", control.ErrTime, s.wait, now))
		case errors.Is(t.Err, fs.ErrPermission):
			s.fail(t.Name, fmt.Errorf("%w; run svctl as root or as someone who may write to %s",
				fs.ErrPermission, path.Join(s.dir.Path(), t.Name)))
		default:
			s.fail(t.Name, t.Err)
		}
	}
}

// fail says an error and remembers its exit status if it is the worst.
func (s *session) fail(name string, err error) {
	s.say(name, err)
	s.code = max(s.code, control.ExitStatus(err))
}

func (s *session) say(name string, err error) {
	if s.quiet {
		return
	}
	if name != "" {
		program.Errorf("%s: %v", name, err)
	} else {
		program.Errorf("%v", err)
	}
}
