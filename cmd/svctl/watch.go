package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"sysmgr/control"
	"sysmgr/internal/cli"
)

// moment is how a line of watch begins.
const moment = "2006-01-02 15:04:05.000"

// A line of watch for programs begins with the time and with what it is of:
// service, gone or daemon.
type (
	serviceLine struct {
		Time  string `json:"time"`
		Event string `json:"event"`
		object
	}
	goneLine struct {
		Time  string `json:"time"`
		Event string `json:"event"`
		Name  string `json:"name"`
	}
	daemonLine struct {
		Time    string `json:"time"`
		Event   string `json:"event"`
		Running bool   `json:"running"`
		Pid     int    `json:"pid,omitempty"`
	}
)

// watch prints how the services are, and then each change, until it is killed
// or, if limited, until the time to wait is over.
func (s *session) watch(names []string, limited bool) {
	path, err := cli.Rundir()
	if err != nil {
		s.fail("", err)
		return
	}
	stop := make(chan struct{})
	if limited {
		time.AfterFunc(s.wait, func() { close(stop) })
	}
	tell := func(control.Change) {}
	switch {
	case s.quiet:
	case s.json:
		out := json.NewEncoder(os.Stdout)
		out.SetEscapeHTML(false)
		tell = func(c control.Change) { out.Encode(objectOf(c)) }
	default:
		colour := colours()
		tell = func(c control.Change) { os.Stdout.WriteString(lineOf(c, colour)) }
	}
	if err := control.Follow(path, names, tell, stop); err != nil {
		s.fail("", err)
	}
}

// lineOf is a change for people.
func lineOf(c control.Change, colour func(row, string) string) string {
	now := time.Now().Format(moment)
	switch {
	case c.Name == "" && c.Running:
		return fmt.Sprintf("%s sysmgr is running (pid %d)\n", now, c.Pid)
	case c.Name == "":
		return now + " sysmgr is not running\n"
	case c.View.Gone:
		return fmt.Sprintf("%s %s: GONE\n", now, c.Name)
	}
	r := row{name: c.Name, view: c.View, pid: c.Pid}
	parts := []string{now, c.Name + ":", colour(r, r.word())}
	if r.pid != 0 {
		parts = append(parts, fmt.Sprintf("(pid %d)", r.pid))
	}
	line := strings.Join(parts, " ")
	if details := r.details(); details != "" {
		line += "  " + details
	}
	return line + "\n"
}

// objectOf is a change for programs.
func objectOf(c control.Change) any {
	now := time.Now().Format(time.RFC3339Nano)
	switch {
	case c.Name == "":
		return daemonLine{now, "daemon", c.Running, c.Pid}
	case c.View.Gone:
		return goneLine{now, "gone", c.Name}
	}
	return serviceLine{now, "service", row{name: c.Name, view: c.View, pid: c.Pid}.object()}
}
