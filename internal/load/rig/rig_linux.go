package rig

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/control"
	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// Patience is how long anything may take that is not itself the subject: the
// machine may be busy with other things.
const Patience = 40 * time.Second

// mark is the variable that every process of a rig has in its environment.
const mark = "SYSMGR_RIG"

// Rig is one daemon with folders of its own. Its methods, but for Svctl and
// Try, are for the goroutine of the test.
type Rig struct {
	t      testing.TB
	build  Build
	marked string // the entry of the environment by which its processes are known

	Sysdir string
	Rundir string // not made: the daemon does that
	Work   string // for the test, and for victims
	Log    string // the daemon's standard error, and that of its services

	Stdout *os.File // that of its services, if it is not to be Log

	Patience time.Duration // Patience, for what is larger than usual more

	Daemon *os.Process // nil while there is none
	begun  time.Time
	ended  chan struct{} // closed when the daemon has ended
	state  *os.ProcessState
}

// New makes the folders. When the test ends, the daemon is ended too and
// everything of it that is left is killed.
func New(t testing.TB, b Build) *Rig {
	t.Helper()
	top := t.TempDir()
	r := &Rig{
		t: t, build: b, marked: mark + "=" + rand.Text(), Patience: Patience,
		Sysdir: filepath.Join(top, "services"),
		Rundir: filepath.Join(memory(t, top), "run"),
		Work:   filepath.Join(top, "work"),
		Log:    filepath.Join(top, "log"),
	}
	for _, dir := range []string{r.Sysdir, r.Work} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(r.clean)
	return r
}

// memory is a new folder in memory, where run directories are in life; or the
// usual one, if the machine has none or it is small.
func memory(t testing.TB, usual string) string {
	const shared, enough = "/dev/shm", 512 << 20
	var fs unix.Statfs_t
	if unix.Statfs(shared, &fs) != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < enough {
		return usual
	}
	dir, err := os.MkdirTemp(shared, "sysmgr-rig-")
	if err != nil {
		return usual
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (r *Rig) clean() {
	if r.Daemon != nil {
		r.Daemon.Signal(unix.SIGTERM)
		select {
		case <-r.ended:
		case <-time.After(r.Patience):
			r.t.Errorf("daemon still there %s after TERM", r.Patience)
			r.Daemon.Kill()
			<-r.ended
		}
	}
	for deadline := time.Now().Add(r.Patience); ; time.Sleep(10 * time.Millisecond) {
		left := r.Processes("")
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			r.t.Errorf("processes %v cannot be killed", left)
			break
		}
		for _, pid := range left {
			r.Kill(pid)
		}
	}
	if entries, _ := os.ReadDir(r.Rundir); len(entries) > 0 && r.t.Failed() {
		r.t.Logf("in the run directory: %v", entries[:min(len(entries), 20)])
	}
	if text, err := os.ReadFile(r.Log); err == nil && r.t.Failed() {
		lines := bytes.SplitAfter(text, []byte("\n"))
		r.t.Logf("end of the log:\n%s", bytes.Join(lines[max(0, len(lines)-40):], nil))
	}
}

// Environment of everything that belongs to this rig.
func (r *Rig) Environment(more ...string) []string {
	env := append(os.Environ(), "SYSDIR="+r.Sysdir, "RUNDIR="+r.Rundir, "VICTIM_DIR="+r.Work, r.marked)
	return append(env, more...)
}

// Start starts the daemon with these arguments and returns when it has
// claimed its run directory.
func (r *Rig) Start(args ...string) {
	r.t.Helper()
	r.StartWith(nil, args...)
}

// StartWith is Start with more in the environment.
func (r *Rig) StartWith(env []string, args ...string) {
	r.t.Helper()
	r.Launch(env, args...)
	claimed := func() bool {
		dir, err := rundir.Open(r.Rundir)
		if err != nil {
			return false
		}
		defer dir.Close()
		witness, err := dir.Daemon()
		if err != nil {
			return false
		}
		witness.Close()
		return true
	}
	r.Until("daemon running", claimed, filepath.Dir(r.Rundir), r.Rundir)
}

// Launch starts the daemon and waits for nothing.
func (r *Rig) Launch(env []string, args ...string) {
	r.t.Helper()
	r.LaunchUnder(nil, env, args...)
}

// LaunchUnder starts a program with its arguments, which is to start the
// daemon: the words of its command line follow. Daemon is then that program.
func (r *Rig) LaunchUnder(wrapper, env []string, args ...string) {
	r.t.Helper()
	log, err := os.OpenFile(r.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	words := slices.Concat(wrapper, []string{Program(r.t, r.build, "sysmgr")}, args)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = r.Environment(env...)
	cmd.Stdout, cmd.Stderr = log, log
	if r.Stdout != nil {
		cmd.Stdout = r.Stdout
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.begun = time.Now()
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.Daemon, r.state, r.ended = cmd.Process, nil, make(chan struct{})
	go func(ended chan struct{}) {
		cmd.Wait()
		r.state = cmd.ProcessState // read after ended only
		close(ended)
	}(r.ended)
}

// Ended is closed when the daemon has ended.
func (r *Rig) Ended() <-chan struct{} { return r.ended }

// State is how the daemon has ended, once it has.
func (r *Rig) State() *os.ProcessState {
	<-r.ended
	return r.state
}

// Begun is when the daemon was started.
func (r *Rig) Begun() time.Time { return r.begun }

// End sends the daemon TERM and checks what an orderly end is: exit status 0,
// no process left, no run directory left, no report of the race detector. It
// returns how long the daemon took.
func (r *Rig) End() time.Duration {
	r.t.Helper()
	begin := time.Now()
	r.Daemon.Signal(unix.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(r.Patience):
		r.t.Fatalf("daemon still there %s after TERM", r.Patience)
	}
	took := time.Since(begin)
	r.Daemon = nil
	if code := r.state.ExitCode(); code != 0 {
		r.t.Errorf("daemon after TERM: got %v, want exit status 0", r.state)
	}
	if left := r.Processes(""); len(left) > 0 {
		r.t.Errorf("processes after the daemon's end: got %v, want none", left)
	}
	if entries, err := os.ReadDir(r.Rundir); !errors.Is(err, os.ErrNotExist) {
		r.t.Errorf("run directory after the daemon's end: got %v, %v, want none", entries, err)
	}
	text, err := os.ReadFile(r.Log)
	if err != nil {
		r.t.Error(err)
	}
	for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: "} {
		if at := bytes.Index(text, []byte(bad)); at >= 0 {
			r.t.Errorf("daemon wrote %q: %s", bad, text[max(0, at-200):min(len(text), at+4000)])
		}
	}
	return took
}

// Link puts a program into the service directory under a name, in one step.
func (r *Rig) Link(name, program string) {
	r.t.Helper()
	if err := os.Symlink(program, filepath.Join(r.Sysdir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// Script puts a file into the service directory in one step. It is executable
// unless mode says otherwise.
func (r *Rig) Script(name, text string, mode os.FileMode) {
	r.t.Helper()
	path := filepath.Join(r.Work, "script-"+name)
	err := os.WriteFile(path, []byte(text), mode)
	if err == nil {
		err = errors.Join(os.Chmod(path, mode), os.Rename(path, filepath.Join(r.Sysdir, name)))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// Plan tells the victim of a name how to live from its next start on.
func (r *Rig) Plan(name, words string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.Work, name+".plan"), []byte(words+"\n"), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// Sleeper is the path of a program that sleeps and does nothing else, made of
// one process: a shell that opens a FIFO which nobody ever writes to.
func (r *Rig) Sleeper() string {
	r.t.Helper()
	path := filepath.Join(r.Work, "sleeper")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	never := filepath.Join(r.Work, "never")
	err := errors.Join(unix.Mkfifo(never, 0o600),
		os.WriteFile(path, []byte("#!/bin/sh\nread -r line <'"+never+"'\n"), 0o755), os.Chmod(path, 0o755))
	if err != nil {
		r.t.Fatal(err)
	}
	return path
}

// Svctl runs the real svctl and returns its standard output and exit status. It
// may be called from any goroutine.
func (r *Rig) Svctl(args ...string) (out string, code int) {
	out, _, code = r.Ask(args...)
	return out, code
}

// Ask is Svctl, and what it wrote to its standard error.
func (r *Rig) Ask(args ...string) (out, complaint string, code int) {
	cmd := exec.Command(Program(r.t, r.build, "svctl"), args...)
	// The race detector would have each svctl sleep for a second at its end.
	cmd.Env = r.Environment("GORACE=atexit_sleep_ms=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Errorf("svctl %.100q: %v", args, err)
		return "", "", -1
	}
	if strings.Contains(stderr.String(), "DATA RACE") {
		r.t.Errorf("svctl %.100q: %s", args, stderr.String())
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// Must is Svctl for what has to succeed.
func (r *Rig) Must(args ...string) string {
	r.t.Helper()
	out, code := r.Svctl(args...)
	if code != 0 {
		r.t.Fatalf("svctl %.100q: got exit status %d, want 0\n%.2000s", args, code, out)
	}
	return out
}

// Connect returns a client of the daemon, to be closed before the test ends.
func (r *Rig) Connect() *control.Client {
	r.t.Helper()
	dir, err := rundir.Open(r.Rundir)
	if err != nil {
		r.t.Fatal(err)
	}
	client, err := control.Connect(dir, r.Sysdir)
	if err != nil {
		r.t.Fatal(err)
	}
	return client
}

// Await waits until all the services are as the goal wants them.
func (r *Rig) Await(what string, goal func(control.View) bool, names ...string) {
	r.t.Helper()
	client := r.Connect()
	defer client.Close()
	targets := make([]*control.Target, len(names))
	for i, name := range names {
		targets[i] = &control.Target{Name: name, Goal: func(v control.View) (bool, time.Duration, error) {
			return goal(v), 0, nil
		}}
	}
	client.Pursue(targets, r.Patience)
	for _, t := range targets {
		if t.Err != nil {
			v := t.View()
			r.t.Fatalf("%s: waiting for %s: %v; it is %s, wants %s, cause %q", t.Name, what, t.Err, v.Phase, v.Wanted, v.Cause)
		}
	}
}

// Look is the status of one service now.
func (r *Rig) Look(name string) control.View {
	r.t.Helper()
	dir, err := rundir.Open(r.Rundir)
	if err != nil {
		r.t.Fatal(err)
	}
	defer dir.Close()
	view, err := control.Look(dir, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return view
}

// Until waits for a condition. It is asked again whenever something happens
// in one of the folders, and often enough anyway: not everything rings.
func (r *Rig) Until(what string, condition func() bool, folders ...string) {
	r.t.Helper()
	watcher, _ := watch.New(nil)
	defer watcher.Close()
	deadline := time.After(r.Patience)
	const often = 20 * time.Millisecond
	for {
		for _, folder := range folders {
			watcher.Add(folder, folder) // one that is not there yet is tried again
		}
		if condition() {
			return
		}
		select {
		case <-watcher.Bell():
			watcher.Take()
		case <-time.After(often):
		case <-r.ended:
			r.t.Fatalf("waiting for %s: the daemon has ended: %v", what, r.state)
		case <-deadline:
			r.t.Fatalf("waiting for %s: time ran out", what)
		}
	}
}

// Journal is the lines of the victims' journal, each split into its words.
func (r *Rig) Journal() [][]string {
	text, _ := os.ReadFile(filepath.Join(r.Work, "journal"))
	var lines [][]string
	for line := range strings.Lines(string(text)) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// Journalled is the processes that the journal names behind a word, for one
// service.
func (r *Rig) Journalled(word, name string) []int {
	var pids []int
	for _, line := range r.Journal() {
		if line[0] == word && line[1] == name {
			pid, _ := strconv.Atoi(line[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// Processes lists what is alive of this rig: of one service, or, without a
// name, of all of it, the daemon included.
func (r *Rig) Processes(name string) []int {
	proc, err := os.Open("/proc")
	if err != nil {
		r.t.Fatal(err)
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	var pids []int
	for _, entry := range names {
		if pid, err := strconv.Atoi(entry); err == nil && r.Owns(pid, name) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Owns tells whether a process is of this rig and, unless the name is empty,
// of this service. A zombie has no environment any more and is nobody's.
func (r *Rig) Owns(pid int, name string) bool {
	env, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	marked, named := false, name == ""
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		marked = marked || string(entry) == r.marked
		named = named || string(entry) == "SYSMGR_NAME="+name
	}
	return marked && named
}

// Kill kills a process of this rig, and no other that may have got its number.
// It returns when that was, by rundir.Clock.
func (r *Rig) Kill(pid int) (at time.Duration) { return r.Signal(pid, unix.SIGKILL) }

// Signal is Kill with another signal.
func (r *Rig) Signal(pid int, sig unix.Signal) (at time.Duration) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return rundir.Clock()
	}
	defer unix.Close(fd)
	if r.Owns(pid, "") {
		at = rundir.Clock()
		unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	return at
}
