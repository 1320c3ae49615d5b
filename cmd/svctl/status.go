package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"sysmgr/control"
	"sysmgr/internal/cli"
	"sysmgr/internal/rundir"
)

// row is one service in the output of status.
type row struct {
	name    string
	view    control.View
	pid     int  // what the pid file says, which the service may have rewritten
	depth   int  // in the tree
	above   bool // where its needs are shown
	pending bool // there is nothing to say about its time
	stale   bool // there is no daemon; alive tells of the process
	alive   bool
	err     error // why nothing of the above can be seen
}

// status prints one line a service, or JSON. With all set, names are those
// that the run directory has.
func (s *session) status(names []string, all, running bool) {
	if all {
		var err error
		if names, err = s.dir.Names(); err != nil {
			s.fail("", err)
			return
		}
		slices.Sort(names)
	}
	s.hearsay = running && len(names) > few
	// As much as 16 MB, more than what is known of ten thousand, ends with us: to
	// collect it before that took a third of the time.
	debug.SetGCPercent(400)
	rows := slices.DeleteFunc(s.looks(names, running), func(r row) bool {
		// A folder without a status is no service: a lock kept for one that
		// was removed.
		if r.err != nil && !(all && errors.Is(r.err, control.ErrUnknown)) {
			s.fail(r.name, r.err)
		}
		return r.err != nil
	})
	if s.tree {
		rows = s.grow(rows, all, running)
	}
	for _, r := range rows {
		if !r.view.IsUp() || r.stale {
			s.code = max(s.code, cli.Fail)
		}
	}
	if s.quiet {
		return
	}
	if s.json {
		printJSON(rows)
	} else {
		printTable(rows)
	}
}

// few is of how many services what they say of themselves is read from the files
// that say it, as svctl wait does, so that it never contradicts that one. Who lists
// more than fit on a screen does not want to know what happened in the last moment:
// then it is taken from the status, which is read anyway. It depends on nothing but
// the number of names.
const few = 16

// looks looks at all of them, on all processors. There is a goroutine for each,
// and no more: one that waited for its turn would have the runtime hand the
// processors on at each system call that takes its time.
func (s *session) looks(names []string, running bool) []row {
	rows := make([]row, len(names))
	var next atomic.Int64
	var wait sync.WaitGroup
	const share = 64 // is worth a goroutine
	for range min(runtime.NumCPU(), (len(names)+share-1)/share) {
		wait.Go(func() {
			buf := make([]byte, rundir.MaxFile+1)
			for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
				rows[i] = s.row(names[i], running, buf)
			}
		})
	}
	wait.Wait()
	return rows
}

func (s *session) row(name string, running bool, buf []byte) (r row) {
	r = row{name: name, stale: !running}
	if s.json || s.tree {
		r.view, r.err = control.Look(s.dir, name)
		if r.pid = r.view.Pid; r.pid != 0 && running {
			if data, err := s.dir.Peek(name, rundir.Pid, buf); err == nil {
				if pid, err := rundir.ParsePid(data); err == nil {
					r.pid = pid
				}
			}
		}
	} else {
		r.view, r.pid, r.err = control.Glance(s.dir, name, s.hearsay, buf)
	}
	switch {
	case errors.Is(r.err, fs.ErrNotExist):
		return s.bare(name, running, buf)
	case r.stale && r.view.Pid != 0:
		r.pid, r.alive = r.view.Pid, rundir.Leads(r.view.Pid)
	}
	return r
}

// bare is the row of a service without a status.
func (s *session) bare(name string, running bool, buf []byte) row {
	r := row{name: name, pending: true}
	r.view.Clock = rundir.Clock()
	if data, err := s.dir.Peek(name, rundir.Syspid, buf); running && err == nil {
		// This much was written, before there was no room any more.
		if pid, err := rundir.ParsePid(data); err == nil {
			r.view.Phase, r.view.Wanted, r.view.Pid, r.pid = rundir.Up, rundir.Up, pid, pid
			r.view.Cause = "its status cannot be written"
			return r
		}
	}
	if _, err := os.Lstat(filepath.Join(s.sysdir, name)); running && err == nil && !rundir.Ignored(name) {
		r.view.Phase, r.view.Wanted = rundir.Down, rundir.Up
		r.view.Cause = "not taken up by sysmgr yet"
		return r
	}
	return row{name: name, err: control.ErrUnknown}
}

// word is the phase as the first word of a line.
func (r row) word() string {
	if len(r.view.Waiting) > 0 {
		return "WAITING for " + strings.Join(r.view.Waiting, " ")
	}
	return strings.ToUpper(r.view.Phase)
}

// details is the rest of a line, behind the phase, the process and the time.
func (r row) details() string {
	v := r.view
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if r.stale && v.Pid != 0 {
		if r.alive {
			add("process alive")
		} else {
			add("process gone")
		}
	}
	switch v.Phase {
	case rundir.Up:
		if v.Ready {
			add("ready")
		}
		if v.Wanted == "once" {
			add("once")
		}
	case rundir.Backoff:
		add("retry in %s", human(max(0, v.RetryIn-v.For()+time.Second-1)))
	case rundir.Stopping:
		if v.Wanted != rundir.Down {
			add("then up")
		}
	}
	if v.Killed > 0 {
		add("KILL sent %s ago", human(max(0, rundir.Clock()-v.Killed)))
	}
	if v.Cause != "" {
		add("%s", v.Cause)
	}
	if v.Restarts > 0 {
		add("restarts %d", v.Restarts)
	}
	if r.above {
		add("needs as above")
	}
	if v.LastExit != "" && !strings.HasPrefix(v.Cause, v.LastExit) {
		add("last exit: %s", v.LastExit)
	}
	return strings.Join(parts, ", ")
}

// cell appends what stands in one of the columns before the details.
func (r *row) cell(b []byte, column int, now time.Duration) []byte {
	switch {
	case column == 0:
		b = append(pad(b, 2*r.depth), r.name...)
		b = append(b, ':')
	case column == 1:
		b = append(b, r.word()...)
	case column == 2 && r.pid != 0:
		b = append(strconv.AppendInt(append(b, "(pid "...), int64(r.pid), 10), ')')
	case column == 3 && !r.pending:
		b = append(b, human(r.view.At(now))...)
	}
	return b
}

func pad(b []byte, n int) []byte {
	for range n {
		b = append(b, ' ')
	}
	return b
}

func printTable(rows []row) {
	const columns = 4
	var width [columns]int
	var cell []byte
	now := rundir.Clock()
	each := func(r *row, f func(column, width int)) {
		for j := range columns {
			cell = r.cell(cell[:0], j, now)
			f(j, utf8.RuneCount(cell))
		}
	}
	total := 0
	for i := range rows {
		each(&rows[i], func(j, w int) { width[j] = max(width[j], w) })
	}
	for _, w := range width {
		total += w + 1
	}
	colour := colours()
	out := make([]byte, 0, len(rows)*total)
	for i := range rows {
		r := &rows[i]
		each(r, func(j, w int) {
			if width[j] == 0 {
				return
			}
			if j > 0 {
				out = append(out, ' ')
			}
			if j == 1 {
				out = append(out, colour(*r, string(cell))...)
			} else {
				out = append(out, cell...)
			}
			out = pad(out, width[j]-w)
		})
		if d := r.details(); d != "" {
			out = append(append(out, "  "...), d...)
		}
		out = append(bytes.TrimRight(out, " "), '\n')
	}
	os.Stdout.Write(out)
}

// colours returns what paints a phase: on a terminal, unless NO_COLOR is set
// (no-color.org) or the terminal is dumb.
func colours() func(row, string) string {
	info, err := os.Stdout.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return func(_ row, word string) string { return word }
	}
	return func(r row, word string) string {
		code := map[string]string{rundir.Up: "32", rundir.Down: "2", rundir.Blocked: "31"}[r.view.Phase]
		if code == "" || len(r.view.Waiting) > 0 {
			code = "33"
		}
		return "\x1b[" + code + "m" + word + "\x1b[0m"
	}
}

// human is a duration as people read it: 3h12m.
func human(d time.Duration) string {
	s := int(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
}

// object is a service for programs: its name and the keys of its status file.
type object struct {
	Name     string   `json:"name"`
	Phase    string   `json:"phase"`
	Wanted   string   `json:"wanted"`
	Pid      int      `json:"pid,omitempty"`
	Since    string   `json:"since,omitempty"`
	Clock    float64  `json:"clock"`
	Starts   int      `json:"starts"`
	Restarts int      `json:"restarts"`
	LastExit string   `json:"last-exit,omitempty"`
	Cause    string   `json:"cause,omitempty"`
	RetryIn  float64  `json:"retry-in,omitempty"`
	Failures int      `json:"failures,omitempty"`
	Killed   float64  `json:"killed,omitempty"`
	Request  []string `json:"request,omitempty"`
	Refused  string   `json:"refused,omitempty"`
	Ready    bool     `json:"ready"`
	Waiting  []string `json:"waiting,omitempty"`
	Needs    []string `json:"needs,omitempty"`
	Waited   float64  `json:"waited,omitempty"`
	Alive    *bool    `json:"alive,omitempty"` // only without a daemon
}

// object is the row for programs.
func (r row) object() object {
	v := r.view
	o := object{
		Name: r.name, Phase: v.Phase, Wanted: v.Wanted, Pid: r.pid,
		Clock: v.Clock.Seconds(), Starts: v.Starts, Restarts: v.Restarts,
		LastExit: v.LastExit, Cause: v.Cause, RetryIn: v.RetryIn.Seconds(),
		Request: v.Requests, Refused: v.Refused, Ready: v.Ready, Waiting: v.Waiting,
		Failures: v.Failures, Killed: v.Killed.Seconds(), Needs: v.Needs, Waited: v.Waited.Seconds(),
	}
	if !v.Since.IsZero() {
		o.Since = v.Since.Format(time.RFC3339Nano)
	}
	if r.stale && v.Pid != 0 {
		o.Alive = &r.alive
	}
	return o
}

func printJSON(rows []row) {
	objects := make([]object, 0, len(rows))
	for _, r := range rows {
		objects = append(objects, r.object())
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	out.Encode(objects)
}
