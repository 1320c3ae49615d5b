package rig

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process occupies and has used up, from /proc.
type Usage struct {
	Descriptors int
	Threads     int
	Switches    int           // context switches of all threads, wanted or not
	Ticks       int           // of user and system time, 100 a second
	CPU         time.Duration // the same, as the scheduler counts it, of the threads that there are
	PSS         int           // kB: memory, with what is shared divided by its users
}

// Usage of the daemon now.
func (r *Rig) Usage() Usage {
	r.t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(r.Daemon.Pid))
	var u Usage
	u.Descriptors = len(r.list(filepath.Join(dir, "fd")))
	for _, thread := range r.list(filepath.Join(dir, "task")) {
		u.Threads++
		status := filepath.Join(dir, "task", thread, "status")
		u.Switches += r.field(status, "voluntary_ctxt_switches:") + r.field(status, "nonvoluntary_ctxt_switches:")
		u.CPU += r.ran(filepath.Join(dir, "task", thread, "schedstat"))
	}
	// proc_pid_stat(5): utime and stime are fields 14 and 15; the first one
	// behind the parenthesis is 3.
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		r.t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, field := range fields[14-3 : 16-3] {
		ticks, _ := strconv.Atoi(field)
		u.Ticks += ticks
	}
	u.PSS = r.field(filepath.Join(dir, "smaps_rollup"), "Pss:")
	return u
}

// ran is how long a thread has been on a processor: nanoseconds, which come
// first in schedstat (proc(5)).
func (r *Rig) ran(schedstat string) time.Duration {
	text, err := os.ReadFile(schedstat)
	if err != nil {
		r.t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return time.Duration(ns)
}

func (r *Rig) list(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		r.t.Fatal(err)
	}
	return names
}

// field is the number behind a word at the beginning of a line.
func (r *Rig) field(path, word string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == word {
			n, _ := strconv.Atoi(fields[1])
			return n
		}
	}
	return 0
}
