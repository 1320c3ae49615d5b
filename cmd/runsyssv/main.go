// Command runsyssv runs one service in the foreground, the way sysmgr would,
// but without the daemon and without restarting it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/actor"
	"sysmgr/internal/cli"
	"sysmgr/internal/program"
	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

var self = cli.Program{Name: "runsyssv", Usage: `usage: runsyssv FILE

  -h, -V  print this help, the version

Runs the service FILE in the foreground and keeps its folder in RUNDIR for as
long as it runs. TERM, INT, HUP, QUIT and ABRT stop it, USR1 kills it. Exits
with its exit status, 128+N if signal N ended it.
`}

// grace is the time from the stop signal to KILL, unless the service says
// another.
const grace = 10 * time.Second

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1,
		unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	set := flag.NewFlagSet(self.Name, flag.ContinueOnError)
	if code, done := self.Parse(set, args); done {
		return code
	}
	if set.NArg() != 1 {
		return self.Misused("one FILE, not %d", set.NArg())
	}
	code, err := runFile(set.Arg(0), signals)
	if err != nil {
		self.Errorf("%v", err)
		return cli.Fail
	}
	return code
}

// runFile runs a service from start to end.
func runFile(file string, signals <-chan os.Signal) (code int, err error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return 0, err
	}
	name := filepath.Base(path)
	if err := rundir.CheckName(name); err != nil {
		return 0, fmt.Errorf("%.80q: %w", name, err)
	}
	if err := program.Check(path); err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	sysdir, err := cli.Sysdir()
	if err != nil {
		return 0, err
	}
	run, err := cli.Rundir()
	if err != nil {
		return 0, err
	}
	dir, err := rundir.Create(run)
	if err != nil {
		return 0, err
	}
	guard, before, err := take(dir, name)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	defer guard.Release()
	defer giveBack(dir, name, before)

	reap, err := reaper.New(func(reaper.Fact) {})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { reap.Run(ctx) })
	defer wait.Wait()
	defer cancel()

	var service *actor.Service
	service = actor.NewService(&actor.Config{
		Sysdir:     filepath.Dir(path),
		Rundir:     dir,
		Env:        cli.Environment(os.Environ(), sysdir, dir.Path()),
		Manner:     rundir.Manner{Signal: unix.SIGTERM, Grace: grace},
		Processes:  reap,
		Foreground: true,
		Debug:      func() bool { return false },
		// Called by one goroutine at a time, and not after Run below has
		// returned.
		Report: func(f actor.Fact) {
			changed, ok := f.(actor.Changed)
			if !ok {
				return
			}
			if changed.Event.Kind == actor.Exited {
				status := changed.Event.Exit
				if code = status.ExitStatus(); status.Signaled() {
					code = 128 + int(status.Signal())
				}
			}
			switch changed.New.Phase {
			case actor.Backoff, actor.Blocked:
				err = fmt.Errorf("%s: %s", name, changed.New.Why())
				service.Shutdown()
			case actor.Down:
				service.Shutdown()
			}
		},
	}, name, "")
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case sig := <-signals:
				switch sig {
				case unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT:
					service.Tell(actor.Order{Event: actor.Event{Kind: actor.Stop}})
				case unix.SIGUSR1:
					service.Tell(actor.Order{Event: actor.Event{Kind: actor.Kill}})
				}
			case <-ended:
				return
			}
		}
	}()
	service.Run(actor.WantOnce)
	return code, err
}

// take gets hold of a service's folder, unless the service runs already,
// under the daemon or under another runsyssv. It returns the status that the
// daemon had there, if it did.
func take(dir *rundir.Dir, name string) (guard rundir.Guard, before []byte, err error) {
	f, err := dir.MakeFolder(name)
	if err != nil {
		return rundir.Guard{}, nil, err
	}
	defer f.Close()
	// The guard first, then the look: sysmgr does the same two steps around
	// each start, so one of us sees the other.
	if guard, err = f.Grab(); err != nil {
		return rundir.Guard{}, nil, err
	}
	status, err := f.ReadStatus()
	if errors.Is(err, fs.ErrNotExist) {
		return guard, nil, nil
	}
	witness, daemon := dir.Daemon()
	if daemon == nil {
		witness.Close()
		before, _ = f.Read(rundir.State)
	}
	switch {
	case err != nil:
	case daemon == nil && (status.Phase != rundir.Down || status.Wanted != rundir.Down):
		err = fmt.Errorf("already in the hands of sysmgr (%s); stop it first: svctl stop %s", status.Phase, name)
	case status.Pid != 0 && rundir.Leads(status.Pid):
		err = fmt.Errorf("already running (pid %d)", status.Pid)
	}
	if err != nil {
		guard.Release()
	}
	return guard, before, err
}

// giveBack puts back the status that the daemon had in the folder.
func giveBack(dir *rundir.Dir, name string, status []byte) {
	if status == nil {
		return
	}
	if f, err := dir.Folder(name); err == nil {
		if !f.Has(rundir.State) {
			f.Write(rundir.State, status)
		}
		f.Close()
	}
}
