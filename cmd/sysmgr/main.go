// Command sysmgr keeps the services of a directory alive.
//
// This file reads the command line, makes the parts and ties them together;
// the parts know nothing of each other but what passes here.
package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/oklog/run"
	"golang.org/x/sys/unix"

	"sysmgr/actor"
	"sysmgr/control"
	"sysmgr/internal/cli"
	"sysmgr/internal/rundir"
	"sysmgr/reaper"
	"sysmgr/scanner"
)

var self = cli.Program{Name: "sysmgr", Usage: `usage: sysmgr [-v] [-l console|json] [-t SEC] [-e NAME]

  -v       log every decision
  -l KIND  encoding of the log: console (default) or json
  -t SEC   seconds from the stop signal to KILL (10; 0: never KILL)
  -e NAME  when service NAME ends, stop the others and exit with its code
  -h, -V   print this help, the version

Keeps every executable in SYSDIR alive and publishes its state in RUNDIR.
`}

// signals is where they arrive, from before anything else: one that comes now
// must not end us.
var signals = listen()

func main() { os.Exit(start(os.Args[1:])) }

// settings is what the command line and the environment say.
type settings struct {
	sysdir, rundir string
	manner         rundir.Manner
	essential      string
}

func start(args []string) int {
	if few, ok := tooFew(); ok {
		self.Errorf("only %d open files are allowed (RLIMIT_NOFILE): at least %d are needed", few, fewest)
		return cli.Fail
	}
	set := flag.NewFlagSet(self.Name, flag.ContinueOnError)
	debug := set.Bool("v", false, "")
	encoding := set.String("l", "console", "")
	grace := set.String("t", "10", "")
	essential := set.String("e", "", "")
	if code, done := self.Parse(set, args); done {
		return code
	}
	timeout, ok := rundir.ParseSeconds(*grace)
	switch {
	case set.NArg() > 0:
		return self.Misused("unexpected %q", set.Arg(0))
	case *encoding != "console" && *encoding != "json":
		return self.Misused("-l %s: neither console nor json", *encoding)
	case !ok:
		return self.Misused("-t %s: not a number of seconds", *grace)
	}
	if *essential != "" {
		if err := rundir.CheckName(*essential); err != nil {
			return self.Misused("-e %q: %v", *essential, err)
		}
	}
	s := settings{manner: rundir.Manner{Signal: unix.SIGTERM, Grace: timeout}, essential: *essential}
	var err error
	if s.sysdir, err = cli.Sysdir(); err == nil {
		s.rundir, err = cli.Rundir()
	}
	if err != nil {
		self.Errorf("%v", err)
		return cli.Fail
	}
	return serve(s, signals, newJournal(*debug, *encoding == "json"))
}

// serve is the daemon, from its claim on the run directory to its release.
func serve(s settings, signals chan os.Signal, log *journal) (code int) {
	path, pathErr := itself() // before anything can change where that is
	prepare()
	fail := func(err error) int {
		log.close()
		self.Errorf("%v", err)
		return cli.Fail
	}
	dir, err := rundir.Create(s.rundir)
	if err != nil {
		return fail(err)
	}
	var scan *scanner.Scanner
	// What happens to services brings the slow check back: what follows from it
	// may be for the scanner or the keeper to see.
	report := func(fact any) {
		log.report(fact)
		scan.Stir()
	}
	reap, err := reaper.New(func(f reaper.Fact) { report(f) })
	if err != nil {
		return fail(err)
	}
	reap.Processors(reaper.Enough())
	look := make(chan struct{}, 1) // at the run directory
	knock := func() {
		select {
		case look <- struct{}{}:
		default:
		}
	}
	var supervisor *actor.Supervisor
	scan, err = scanner.New(scanner.Config{
		Dir: s.sysdir,
		Send: func(entries []scanner.Entry) {
			log.report(found{len(entries)})
			supervisor.Found(translate(entries))
		},
		Early: func(e scanner.Entry) {
			supervisor.Early(translate([]scanner.Entry{e})[0])
			if log.debug() {
				log.report(come{e.Name})
			}
		},
		Restless: func() []string { return supervisor.Restless() },
		Tick:     knock,
		Ways:     dir.Own(),
		Report:   func(f scanner.Fact) { log.report(f) },
	})
	if errors.Is(err, os.ErrNotExist) {
		os.Remove(s.rundir) // which may have been made for nothing
		return fail(errors.New("service directory " + s.sysdir + " does not exist: make it, or set SYSDIR to another"))
	}
	if err != nil {
		return fail(err)
	}
	claim, err := dir.Inherit(os.Getenv(inherited))
	replaced := err == nil
	if !replaced {
		claim, err = claimSoon(dir, log)
	}
	os.Unsetenv(inherited)
	if errors.Is(err, rundir.ErrRunning) {
		return fail(errors.New("already running in " + s.rundir))
	}
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err := claim.Release(); err != nil {
			log.report(actor.Unpublished{Err: err})
		}
		log.report(ended{code})
		log.close()
	}()
	records, past, err := claim.Records()
	if err != nil {
		log.report(unrecorded{err})
	}
	if records.Incomplete() {
		past = append(past, unwritten(dir, s.sysdir, past)...)
	}
	if replaced {
		children := make([]int, 0, len(past))
		for _, record := range past {
			if record.Pid != 0 {
				children = append(children, record.Pid)
			}
		}
		reap.Expect(children...)
	}
	requests := control.New(control.Config{
		Rundir:  dir,
		Deliver: func(m control.Message) { supervisor.Deliver(m.Service, order(m)) },
		Report:  func(f control.Fact) { report(f) },
		Deaf:    func() { supervisor.Deafen() },
	})
	over := make(chan syscall.WaitStatus, 1) // the essential service has ended
	supervisor = actor.NewSupervisor(&actor.Config{
		Sysdir:    s.sysdir,
		Rundir:    dir,
		Records:   records,
		Env:       cli.Environment(os.Environ(), s.sysdir, s.rundir),
		Manner:    s.manner,
		Processes: reap,
		Report:    func(f actor.Fact) { report(f) },
		Debug:     log.debug,
		Essential: s.essential,
		Ended: func(status syscall.WaitStatus) {
			select {
			case over <- status:
			default:
			}
		},
		Attend: requests.Attend,
		Forget: requests.Forget,
		Mute:   requests.Mute,
		Heed:   requests.Heed,
	}, past...)
	log.report(begun{s.sysdir, s.rundir, len(past)})
	next := replacement{path, pathErr, claim, reap, requests, supervisor, log, signals, over}

	// The first to return ends all the others, in this order.
	var group run.Group
	ctx, cancel := context.WithCancel(context.Background())
	reaping, finish := context.WithCancel(context.Background())
	group.Add(func() error { code = obey(ctx, signals, over, log, scan.Rescan, next); return nil }, func(error) { cancel() })
	group.Add(func() error { return scan.Run(ctx) }, func(error) { cancel() })
	keeper := keeper{claim: claim, collect: reap.Collect, publish: supervisor.Publish, renew: requests.Renew,
		hold: requests.Hold, resume: requests.Resume, stir: scan.Stir, log: log}
	group.Add(func() error { return keeper.run(reaping, look) }, func(error) {})
	group.Add(func() error { return requests.Run(reaping) }, func(error) {}) // svctl kill makes a shutdown quick
	group.Add(func() error { defer finish(); supervisor.Run(); return nil }, func(error) { supervisor.Shutdown() })
	group.Add(func() error { return reap.Run(reaping) }, func(error) {}) // it ends after the last service
	group.Run()
	return code
}

// unwritten makes a record for each service that has none, where the daemon
// before us could not write all of them: as if it had been about to start that
// one, so that its process is looked for before another is made.
func unwritten(dir *rundir.Dir, sysdir string, past []rundir.Record) (more []rundir.Record) {
	known := make(map[string]bool)
	for _, record := range past {
		known[record.Name] = true
	}
	names, _ := dir.Names()
	names = slices.DeleteFunc(names, func(name string) bool { return !dir.Ours(name) })
	entries, _ := os.ReadDir(sysdir)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	for _, name := range names {
		if known[name] || rundir.CheckName(name) != nil || rundir.Ignored(name) {
			continue
		}
		known[name] = true
		more = append(more, rundir.Record{Name: name, Phase: rundir.Down, Wanted: "up", Since: rundir.Clock(), From: 1})
	}
	return more
}

// claimSoon claims the run directory. One that is just being killed has its
// locks until the kernel is done with it. It may also have been killed in the
// middle of a start: as long as its child has not executed, that has its locks.
// That is waited for, though not for ever.
func claimSoon(dir *rundir.Dir, log *journal) (*rundir.Claim, error) {
	claim, err := dir.Claim()
	for waited := time.Duration(0); errors.Is(err, rundir.ErrRunning); waited += claimAgain {
		if waited >= dying && (waited >= 5*time.Second || !dir.Orphaned()) {
			break
		}
		if waited == dying {
			log.report(inherits{})
		}
		time.Sleep(claimAgain)
		claim, err = dir.Claim()
	}
	return claim, err
}

const (
	claimAgain = 20 * time.Millisecond  // how long to wait between two tries
	dying      = 500 * time.Millisecond // how long a process may take to go that was killed
)

// translate makes what the scanner sees into what the supervisor is told.
func translate(entries []scanner.Entry) []actor.Entry {
	out := make([]actor.Entry, len(entries))
	for i, e := range entries {
		out[i] = actor.Entry{Name: e.Name, Bar: e.Bar, Stamp: e.Stamp.Version, File: actor.File(e.Stamp.ID), Gone: e.Gone}
	}
	return out
}

// order makes what control has read into what a service is told.
func order(m control.Message) actor.Order {
	if m.Said {
		return actor.Order{Said: true, Pid: m.Pid}
	}
	kinds := map[control.Verb]actor.Kind{
		control.Start:    actor.Start,
		control.Stop:     actor.Stop,
		control.Restart:  actor.Restart,
		control.Once:     actor.Once,
		control.Kill:     actor.Kill,
		control.Signal:   actor.Signal,
		control.Released: actor.Released,
	}
	return actor.Order{
		Event:   actor.Event{Kind: kinds[m.Request.Verb], Signal: m.Request.Signal},
		ID:      m.Request.ID,
		Refused: m.Refused,
		Lost:    m.Lost,
		Lock:    m.Lock,
	}
}
