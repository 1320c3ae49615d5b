package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// The ways in which a client's wish comes to nothing, beside
// rundir.ErrNotRunning and fs.ErrPermission.
var (
	// ErrUnknown: there is no such service.
	ErrUnknown = errors.New("no such service")
	// ErrTime: the time to wait ran out. A request that was placed stays
	// valid.
	ErrTime = errors.New("time ran out")
	// ErrRefused is wrapped by the reason why a wish cannot come true.
	ErrRefused = errors.New("")
)

// View is what a client sees of a service.
type View struct {
	rundir.Status
	Ready   bool          // it has said that it is ready
	Waiting []string      // the services it waits for
	Needs   []string      // the services it has waited for in this run
	Waited  time.Duration // how long, all together
	Went    time.Duration // when it ended to wait, by rundir.Clock; 0: it has not
	Called  int           // how often this run has called sysmgr-depends
	Gone    bool          // it has no folder, or none with a status, any more
}

// IsUp tells whether it runs, and is not itself waiting for others.
func (v View) IsUp() bool { return v.Phase == rundir.Up && len(v.Waiting) == 0 }

// For is how long the service has been in its phase.
func (v View) For() time.Duration { return v.At(rundir.Clock()) }

// At is For, at a moment of rundir.Clock.
func (v View) At(now time.Duration) time.Duration { return max(0, now-v.Clock) }

// Life is how long a service that is up has been so without waiting for
// others.
func (v View) Life() time.Duration { return max(0, v.For()-v.Waited) }

// Look reads what there is to see of a service. Without a folder or a status
// in it the error is fs.ErrNotExist.
func Look(dir *rundir.Dir, name string) (View, error) {
	f, err := dir.Folder(name)
	if err != nil {
		return View{}, err
	}
	defer f.Close()
	status, err := f.ReadStatus()
	if err != nil {
		return View{}, err
	}
	status.Said = rundir.Said{} // which may be behind what is read here
	v := View{Status: status, Ready: f.Has(rundir.Ready)}
	if status.Phase == rundir.Up {
		v.Waiting = f.ReadNames(rundir.Waiting)
		wait := f.ReadWait()
		v.Waited, v.Went, v.Called = wait.At(rundir.Clock()), wait.Ended, wait.Calls
	}
	if status.Phase == rundir.Up || status.Phase == rundir.Stopping {
		v.Needs = f.ReadNames(rundir.Needs)
	}
	return v, nil
}

// Goal says whether what a client waits for has come. It returns done; or how
// soon to ask again although nothing changes, 0 for never; or why it cannot
// come any more.
type Goal func(View) (done bool, again time.Duration, err error)

// Glance is Look for a list of services: without Needs, and without what there is
// to know of a wait that is over. Shown is the process that the pid file names,
// which the service may have rewritten. buf is longer than rundir.MaxFile.
//
// With hearsay, what the service says of itself is taken from its status, if the
// daemon hears of that: it may be a moment behind, and nothing else is read. A
// daemon has to be there.
func Glance(dir *rundir.Dir, name string, hearsay bool, buf []byte) (v View, shown int, err error) {
	data, err := dir.Peek(name, rundir.State, buf)
	if err != nil {
		return v, 0, err
	}
	if v.Status, err = rundir.ParseStatus(data); err != nil {
		return v, 0, fmt.Errorf("%s: %w", filepath.Join(dir.Path(), name, rundir.State), err)
	}
	heard := v.Said
	v.Said = rundir.Said{}
	if v.Phase != rundir.Up && v.Phase != rundir.Stopping {
		return v, v.Pid, nil // what a run has said does not hold after it
	}
	if hearsay && heard.Heard {
		v.Ready, shown = heard.Ready, v.Pid
		if v.Phase == rundir.Up {
			v.Waiting = heard.Waiting
		}
		if v.Pid != 0 && heard.Pid != 0 {
			shown = heard.Pid
		}
		return v, shown, nil
	}
	v.Ready = dir.Holds(name, rundir.Ready)
	// To look for what is not there, as a rule, costs less than to open it.
	if v.Phase == rundir.Up && dir.Holds(name, rundir.Waiting) {
		if data, err := dir.Peek(name, rundir.Waiting, buf); err == nil {
			v.Waiting = rundir.ParseNames(data)
		}
	}
	shown = v.Pid
	if v.Pid != 0 {
		if data, err := dir.Peek(name, rundir.Pid, buf); err == nil {
			if pid, err := rundir.ParsePid(data); err == nil {
				shown = pid
			}
		}
	}
	return v, shown, nil
}

// Target is one service and what is wanted of it.
type Target struct {
	Name    string
	Request *Request  // placed first, if there is one
	Goal    Goal      // nil: it is enough that the daemon has taken the request
	After   []*Target // the request is placed when these are down, or KILL has not helped

	// Err is the outcome, nil if the goal was reached.
	Err error

	watched bool
	placed  bool
	done    bool
	next    time.Time // when to look again; zero: at the next bell
	view    View      // the last one
}

// View is the last that was seen of the target.
func (t *Target) View() View { return t.view }

// Client places requests and waits.
type Client struct {
	dir     *rundir.Dir
	sysdir  string
	witness *rundir.Witness
	watcher *watch.Watcher // nil until something is waited for
	gone    <-chan struct{}
	over    bool // the daemon has ended
}

// Connect makes a client of the daemon that serves dir. It is
// rundir.ErrNotRunning if there is none.
func Connect(dir *rundir.Dir, sysdir string) (*Client, error) {
	witness, err := dir.Daemon()
	if err != nil {
		return nil, err
	}
	return &Client{dir: dir, sysdir: sysdir, witness: witness}, nil
}

// listen makes the client hear of changes.
func (c *Client) listen() {
	if c.watcher == nil {
		// Without inotify the watcher polls, which is good enough for a client.
		c.watcher, _ = watch.New(nil)
		c.gone = c.witness.Gone()
	}
}

// Close ends the client.
func (c *Client) Close() {
	if c.watcher != nil {
		c.watcher.Close()
	} else {
		c.witness.Close()
	}
}

// placing is how long a client that does not want to wait tries to place its
// requests all the same, if others are in the way.
const placing = time.Second

// Pursue places all requests, then waits until each target has its outcome or
// the time is over. A wait of 0 means to place the requests and no more.
// It blocks, and wakes only for changes in the run directory.
func (c *Client) Pursue(targets []*Target, wait time.Duration) {
	limit := wait
	if wait == 0 {
		limit = placing
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for _, t := range targets {
		c.hurry(t)
	}
	c.listen()
	byName := make(map[string][]*Target)
	followers := make(map[*Target][]*Target)
	open := len(targets)
	for _, t := range targets {
		byName[t.Name] = append(byName[t.Name], t)
		for _, first := range t.After {
			followers[first] = append(followers[first], t)
		}
	}
	var look func(*Target)
	look = func(t *Target) {
		if t.done {
			return
		}
		t.done, t.Err = c.look(t, wait == 0)
		if wait == 0 && t.Request == nil {
			c.abandon(t, ErrTime)
		}
		if t.done {
			open--
		} else if rest := t.patience(); rest > 0 && t.next.IsZero() {
			t.next = time.Now().Add(rest)
		}
		if t.yields() {
			for _, follower := range followers[t] {
				if !follower.placed {
					look(follower)
				}
			}
		}
	}
	// The run directory itself tells of services that are not there yet.
	c.watcher.Add(c.dir.Path(), "")
	for _, t := range targets {
		look(t)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for open > 0 {
		timer.Stop()
		if next := soonest(targets); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-c.gone:
			// What it did before it went counts.
			c.over = true
			for _, t := range targets {
				look(t)
				c.abandon(t, rundir.ErrNotRunning)
			}
			return
		case <-deadline.C:
			for _, t := range targets {
				if t.Request != nil && !t.placed && !t.done && t.watched {
					c.place(t) // no order any more, but it is asked for
				}
				c.abandon(t, ErrTime)
			}
			return
		case now := <-timer.C:
			for _, t := range targets {
				if !t.next.IsZero() && !now.Before(t.next) {
					look(t)
				}
			}
		case <-c.watcher.Bell():
			news := c.watcher.Take()
			if _, top := news.Keys[""]; top || news.All {
				for _, t := range targets {
					if news.All || !t.watched {
						look(t)
					}
				}
			}
			for name := range news.Keys {
				for _, t := range byName[name] {
					look(t)
				}
			}
		}
	}
}

// hurry places the request of a target if there is nothing in its way, so that
// the daemon has it while the client makes ready to hear of what becomes of it.
// What is in its way is seen when the target is looked at.
func (c *Client) hurry(t *Target) {
	if t.Request != nil && !t.waits() && c.dir.Holds(t.Name, rundir.State) {
		t.placed = c.place(t) == nil
	}
}

func (c *Client) abandon(t *Target, err error) {
	if !t.done {
		t.done, t.Err = true, err
	}
}

func soonest(targets []*Target) time.Time {
	var next time.Time
	for _, t := range targets {
		if !t.done && !t.next.IsZero() && (next.IsZero() || t.next.Before(next)) {
			next = t.next
		}
	}
	return next
}

// look goes one step on with a target, as far as it can without waiting.
func (c *Client) look(t *Target, placeOnly bool) (done bool, err error) {
	t.next = time.Time{}
	// Each time anew: another folder may have taken the place of the one
	// that is watched.
	f, err := c.dir.Folder(t.Name)
	switch {
	case err == nil:
		_, err = c.watcher.Add(f.Path(), t.Name)
		f.Close()
		t.watched = err == nil || errors.Is(err, watch.ErrPolling)
	case errors.Is(err, fs.ErrNotExist):
		t.watched = false
		return c.absent(t)
	default:
		return true, err
	}
	view, err := Look(c.dir, t.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.watched = false
		return c.absent(t)
	case err != nil:
		return true, err
	}
	t.view = view
	if t.Request != nil && !t.placed && !placeOnly && t.waits() {
		return false, nil // the end of those rings the bell
	}
	if t.Request != nil && !t.placed {
		err := c.place(t)
		if errors.Is(err, fs.ErrExist) {
			return false, nil // another client's; its end rings the bell
		}
		if err != nil {
			return true, err
		}
		t.placed = true
	}
	if t.Request != nil {
		if placeOnly {
			return true, nil
		}
		if id, why, _ := strings.Cut(view.Refused, " "); id == t.Request.ID {
			return true, refused("%s", why)
		}
		if !view.Acted(t.Request.ID) {
			return false, nil
		}
	}
	if t.Goal == nil {
		return true, nil
	}
	done, again, err := t.Goal(view)
	if again > 0 {
		t.next = time.Now().Add(again)
	}
	return done || err != nil, err
}

// absent: a service without a folder or a status. One whose entry is there
// has just not been taken up yet, or its folder is being made anew, or its status
// could not be written: where the run directory is full it is not there until it
// is true again.
func (c *Client) absent(t *Target) (done bool, err error) {
	_, err = os.Lstat(filepath.Join(c.sysdir, t.Name))
	entered := err == nil && !rundir.Ignored(t.Name)
	if t.placed && t.Goal != nil && (c.over || !entered) && !c.dir.Holds(t.Name, rundir.Syspid) {
		t.view.Gone = true
		if done, _, err := t.Goal(t.view); done || err != nil {
			return true, err
		}
	}
	if entered || c.dir.Holds(t.Name, rundir.Syspid) {
		return false, nil
	}
	return true, ErrUnknown
}

// place puts a request where the daemon finds it; fs.ErrExist while another
// one is there.
func (c *Client) place(t *Target) error {
	f, err := c.dir.Folder(t.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.WriteNew(rundir.Control, t.Request.Line())
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w"+format, append([]any{ErrRefused}, args...)...)
}

// steady is how long a service that does not say when it is ready has to run
// before it counts as started.
const steady = time.Second

// Running is the goal of start, restart and once: it has stayed up for a
// second, or is ready. Once tells that it may as well have ended, well.
func Running(once bool) Goal {
	return func(v View) (bool, time.Duration, error) {
		switch {
		case v.Gone:
			return false, 0, refused("removed while it was to start")
		case v.Phase == rundir.Up && len(v.Waiting) > 0:
			return false, 0, nil
		case v.Phase == rundir.Up && v.Ready:
			return true, 0, nil
		case v.Phase == rundir.Up:
			if left := steady - v.Life(); left > 0 {
				return false, left, nil
			}
			return true, 0, nil
		case v.Phase == rundir.Blocked:
			return false, 0, refused("%s", v.Cause)
		case v.Phase == rundir.Backoff && v.RetryIn < time.Second:
			return false, 0, nil // its file is still being written
		case v.Phase == rundir.Backoff:
			return false, 0, refused("did not stay up: %s; next try within %s", v.Cause, v.RetryIn.Round(time.Second))
		case v.Phase == rundir.Down && v.Wanted == rundir.Down && once && v.Starts > 0:
			if v.LastExit != "exit 0" {
				return false, 0, refused("ended: %s", v.LastExit)
			}
			return true, 0, nil
		case v.Phase == rundir.Down && v.Wanted == rundir.Down:
			return false, 0, refused("stopped again by another request")
		}
		return false, 0, nil
	}
}

// Stopped is the goal of stop and kill.
func Stopped(v View) (bool, time.Duration, error) {
	switch {
	case v.Gone, v.Phase == rundir.Down:
		return true, 0, nil
	case v.Wanted != rundir.Down:
		return false, 0, refused("started again by another request")
	}
	return false, 0, nil
}

// The goals of wait.
func IsUp(v View) (bool, time.Duration, error)    { return v.IsUp(), 0, nil }
func IsReady(v View) (bool, time.Duration, error) { return v.IsUp() && v.Ready, 0, nil }
func IsDown(v View) (bool, time.Duration, error) {
	return v.Gone || v.Phase == rundir.Down, 0, nil
}
