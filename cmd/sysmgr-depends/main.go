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
		defer w.end()
		err = w.wait(wait)
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
	self   string // the service that calls us, or empty
	dir    *rundir.Dir
	client *control.Client
	told   map[string]bool // held services that were spoken of
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
	client, err := control.Connect(dir, sysdir)
	if err != nil {
		return nil, err
	}
	w := &waiter{names: names, ready: ready, dir: dir, client: client, told: make(map[string]bool)}
	// Called from a script of the daemon that serves this RUNDIR?
	if name := os.Getenv("SYSMGR_NAME"); os.Getenv("SYSMGR_DIR") == filepath.Join(path, name) && rundir.CheckName(name) == nil {
		w.self = name
	}
	return w, nil
}

// wait blocks until all services are as they should be.
func (w *waiter) wait(limit time.Duration) error {
	if slices.Contains(w.names, w.self) {
		return fmt.Errorf("%s: it would wait for itself", w.self)
	}
	if err := w.note(); err != nil {
		return err
	}
	targets := make([]*control.Target, len(w.names))
	for i, name := range w.names {
		targets[i] = &control.Target{Name: name, Goal: w.goal(name)}
	}
	w.client.Pursue(targets, limit)
	var first error
	var late []string
	for _, t := range targets {
		switch {
		case errors.Is(t.Err, control.ErrTime):
			late = append(late, t.Name)
		case t.Err != nil && first == nil:
			first = fmt.Errorf("%s: %w", t.Name, t.Err)
		}
	}
	if first == nil && len(late) > 0 {
		first = fmt.Errorf("%s: %w after %s", strings.Join(late, ", "), control.ErrTime, limit)
	}
	if first != nil {
		return first
	}
	return w.settle()
}

// goal is what one of the services has to come to.
func (w *waiter) goal(name string) control.Goal {
	return func(v control.View) (bool, time.Duration, error) {
		if v.IsUp() && (v.Ready || !w.ready) {
			return true, 0, nil
		}
		if v.Phase == rundir.Down && v.Wanted == rundir.Down && !w.told[name] {
			w.told[name] = true
			program.Errorf("%s: held down; waiting until it is started (svctl start %s)", name, name)
		}
		if len(v.Waiting) > 0 && w.self != "" {
			if circle := w.circle(name, v.Waiting, make(map[string]bool)); circle != nil {
				return false, 0, fmt.Errorf("they wait for each other: %s", strings.Join(circle, " -> "))
			}
		}
		return false, 0, nil
	}
}

// circle follows who waits for whom, from name on. If that leads back to the
// service that calls us, it returns the way. Each service is asked once: their
// files are theirs to write, and there are more ways than anyone can go.
func (w *waiter) circle(name string, waiting []string, seen map[string]bool) []string {
	seen[name] = true
	if slices.Contains(waiting, w.self) {
		return []string{w.self, name, w.self}
	}
	for _, next := range waiting {
		if seen[next] {
			continue
		}
		v, err := control.Look(w.dir, next)
		if err != nil {
			seen[next] = true
			continue
		}
		if circle := w.circle(next, v.Waiting, seen); circle != nil {
			return slices.Insert(circle, 1, name)
		}
	}
	return nil
}

// note writes whom the calling service waits for into its folder.
func (w *waiter) note() error {
	if w.self == "" {
		return nil
	}
	f, err := w.dir.Folder(w.self)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Write(rundir.Waiting, []byte(strings.Join(w.names, "\n")+"\n"))
}

// settle turns waiting into needs: what the service waited for, now and
// before.
func (w *waiter) settle() error {
	if w.self == "" {
		return nil
	}
	f, err := w.dir.Folder(w.self)
	if err != nil {
		return err
	}
	defer f.Close()
	needs, _ := f.Read(rundir.Needs)
	all := strings.Split(strings.TrimSpace(string(needs)), "\n")
	for _, name := range w.names {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	text := strings.TrimSpace(strings.Join(all, "\n")) + "\n"
	if err := f.Write(rundir.Waiting, []byte(text)); err != nil {
		return err
	}
	return f.Rename(rundir.Waiting, rundir.Needs)
}

// end takes the note away if it is still there: nobody waits any more.
func (w *waiter) end() {
	w.client.Close()
	if w.self == "" {
		return
	}
	if f, err := w.dir.Folder(w.self); err == nil {
		f.Remove(rundir.Waiting)
		f.Close()
	}
}
