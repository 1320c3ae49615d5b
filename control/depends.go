package control

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sysmgr/internal/needs"
	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// Counts is the rule by which a service counts as up for those that depend on
// it, as sysmgr-depends(1) states it; again is how soon to ask again although
// nothing changes, 0 for never. path is the service's entry in SYSDIR.
//
// A service is up from its first instruction, and its script may yet call
// sysmgr-depends itself. So this asks for a sign that it will not.
func (v View) Counts(path string) (up bool, again time.Duration) {
	life := v.Life()
	since := min(v.For(), max(0, rundir.Clock()-v.Went)) // it has begun, or gone on
	switch {
	case !v.IsUp():
		return false, 0
	case v.Ready, since >= patient:
		return true, 0
	case v.Failures > 0 && life < steady:
		return false, steady - life // one of those that come and go, perhaps
	case v.Calls >= 0 && v.Called >= v.Calls:
		return true, 0
	case hasExecuted(v.Pid, path):
		return true, 0
	case since < steady:
		// Nothing tells of an execve(2). How late this may be is in
		// proportion to how long the script takes to come to it.
		return false, min(max(since/4, time.Millisecond), steady-since)
	case isBusy(v.Pid):
		return false, steady / 10 // on a slow machine a second is nothing
	}
	return true, 0
}

// patient is how long a script that is busy may take to come to its call.
const patient = 30 * time.Second

// hasExecuted tells whether a process that began as a script has executed its
// program, or began as one: then the script is none of its arguments
// (proc_pid_cmdline(5)). Where that cannot be seen it is false.
func hasExecuted(pid int, path string) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || len(line) == 0 {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	return !slices.ContainsFunc(args[1:], func(arg string) bool {
		if filepath.Base(arg) != filepath.Base(path) {
			return false
		}
		return arg == path || sameFile(filepath.Dir(arg), filepath.Dir(path))
	})
}

// isBusy tells whether a process or a descendant runs, waits for a disk or for
// a processor, or is a sysmgr-depends: then a script may still be on its way
// (proc_pid_stat(5), proc_pid_task(5)). Where that cannot be seen it is false.
func isBusy(pid int) bool {
	tasks, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*"))
	for _, task := range tasks {
		stat, _ := os.ReadFile(filepath.Join(task, "stat"))
		begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		if begin < 0 || end < 0 || end+2 >= len(stat) {
			continue
		}
		if state := stat[end+2]; state == 'R' || state == 'D' || string(stat[begin+1:end]) == "sysmgr-depends" {
			return true
		}
		children, _ := os.ReadFile(filepath.Join(task, "children"))
		for _, child := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(child); err == nil && isBusy(pid) {
				return true
			}
		}
	}
	return false
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// FindCircle returns the way from a service back to itself by who waits for
// whom, nil if there is none. The service itself waits for others, and has
// done so since a moment of rundir.Clock. It leaves word of it in the service's folder: the others in
// the circle find that even when this one waits no more. Each of them looks at
// the one it waits for only, so the word goes round.
func FindCircle(dir *rundir.Dir, name string, others []string, since time.Duration) []string {
	graph, found := waits(dir, name, others, since)
	circle := graph.Circle(name)
	if circle == nil {
		if circle = needs.Graph(found.Needs).Circle(name); circle == nil {
			return nil
		}
	} else {
		found = rundir.Found{Clock: rundir.Clock(), Needs: graph.Ring(name)}
	}
	if f, err := dir.Folder(name); err == nil {
		f.WriteFound(found)
		f.Close()
	}
	return circle
}

// waits follows who waits for whom, from a service on; and what those have
// found whom it waits for, since the service itself waits.
func waits(dir *rundir.Dir, name string, others []string, since time.Duration) (graph needs.Graph, found rundir.Found) {
	graph = needs.Graph{name: others}
	for next := slices.Clone(others); len(next) > 0; next = next[1:] {
		if _, seen := graph[next[0]]; seen {
			continue
		}
		graph[next[0]] = nil
		f, err := dir.Folder(next[0])
		if err != nil {
			continue
		}
		if waiting := f.ReadNames(rundir.Waiting); waiting != nil {
			// What is left in the folder of one that has ended says nothing.
			if status, err := f.ReadStatus(); err == nil && status.Phase == rundir.Up {
				graph[next[0]] = waiting
				next = append(next, waiting...)
			}
		}
		if slices.Contains(others, next[0]) {
			// It is written in thousandths of a second.
			if c := f.ReadFound(); c.Clock+time.Millisecond >= since && needs.Graph(c.Needs).Circle(name) != nil {
				found = c
			}
		}
		f.Close()
	}
	return graph, found
}

// Successor waits until another daemon serves dir, when the last one was
// killed. If that has ended in good order, it is rundir.ErrNotRunning at once;
// after so much time it is ErrTime.
func Successor(dir *rundir.Dir, wait time.Duration) error {
	watcher, _ := watch.New(func(name string, _ watch.Change) watch.Mark {
		if name == rundir.Pid {
			return watch.Rings
		}
		return 0
	})
	defer watcher.Close()
	late := time.NewTimer(wait)
	defer late.Stop()
	watcher.Add(dir.Path(), "")
	for {
		witness, err := dir.Daemon()
		if err == nil {
			witness.Close()
		}
		if !errors.Is(err, rundir.ErrNotRunning) {
			return err
		}
		// A daemon that ends in good order takes its pid file along.
		if _, err := os.Lstat(filepath.Join(dir.Path(), rundir.Pid)); errors.Is(err, os.ErrNotExist) {
			return rundir.ErrNotRunning
		}
		select {
		case <-watcher.Bell():
			watcher.Take()
		case <-late.C:
			return ErrTime
		}
	}
}
