//go:build linux

package torture

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// chaos is a world in which everything goes wrong that can.
type chaos struct {
	*world
	names []string // of services; the others come and go
	small bool     // the run directory is on a file system of its own, which can be filled

	log struct {
		sync.Mutex
		lines []string
	}

	life    sync.Mutex // guards the daemon: who kills it, starts it again
	pid     atomic.Int64
	deaths  int
	refused int

	// A daemon that is killed has to find its records again: who takes them
	// away holds this until they are back.
	records sync.Mutex

	termed  atomic.Int64
	planted sync.Map // paths
	entries sync.Map // name -> true while its entry is as it should be
}

// did writes down an operation.
func (c *chaos) did(format string, args ...any) {
	c.log.Lock()
	defer c.log.Unlock()
	c.log.lines = append(c.log.lines, fmt.Sprintf("%12.6f ", rundir.Clock().Seconds())+fmt.Sprintf(format, args...))
}

// Everything goes wrong at once, at random, in rounds. After each of them the
// faults are lifted, and then the laws hold.
func TestLawsHoldAfterChaos(t *testing.T) {
	if amount == "" {
		t.Skip("everything at random: make torture brings it")
	}
	t.Parallel()
	worlds := choose(0, 1, 2)
	for i := range worlds {
		try(t, "chaos", fmt.Sprintf("SEED=%d,%d", seed, i), func(t *testing.T) {
			t.Parallel()
			duration := choose(0, 20*time.Second, time.Duration(minutes)*time.Minute)
			runChaos(t, rand.New(rand.NewPCG(seed, 1000+uint64(i))), duration)
		})
	}
}

func runChaos(t *testing.T, draw *rand.Rand, duration time.Duration) {
	w := newWorld(t, rig.Race)
	c := &chaos{world: w}
	t.Cleanup(func() {
		if t.Failed() {
			c.tell()
		}
	})
	c.small = c.mountSmall()
	for i := range 16 {
		name := fmt.Sprintf("wild%02d", i)
		c.names = append(c.names, name)
		s := w.service(name, "wild="+strconv.FormatUint(draw.Uint64(), 10))
		s.calm = false
		c.restoreEntry(name)
	}
	c.spawn()
	w.watch()
	end := time.Now().Add(duration)
	for round := 1; time.Now().Before(end) && !t.Failed(); round++ {
		c.did("--- round %d", round)
		c.round(rand.New(rand.NewPCG(draw.Uint64(), 0)), min(5*time.Second, time.Until(end)+time.Second))
		c.lift()
		c.did("--- round %d: faults lifted", round)
		c.settle()
	}
	c.log.Lock()
	t.Logf("%d operations, %d daemons killed, %d refused to start", len(c.log.lines), c.deaths, c.refused)
	c.log.Unlock()
	if t.Failed() {
		return
	}
	w.sound()
	w.daemon.Store(0)
	w.End()
}

// tell prints what was done: all of it into a file, the end of it here.
func (c *chaos) tell() {
	c.log.Lock()
	defer c.log.Unlock()
	f, err := os.CreateTemp("", "torture-operations-")
	if err == nil {
		f.WriteString(strings.Join(c.log.lines, "\n") + "\n")
		f.Close()
		c.t.Logf("all operations: %s", f.Name())
	}
	log, _ := os.ReadFile(c.Log)
	if f, err := os.CreateTemp("", "torture-log-"); err == nil {
		f.Write(log)
		f.Close()
		c.t.Logf("the whole log: %s", f.Name())
	}
	last := max(0, len(c.log.lines)-150)
	c.t.Logf("SEED=%d, the last operations:\n%s", seed, strings.Join(c.log.lines[last:], "\n"))
}

// mountSmall puts a small file system under the run directory.
func (w *world) mountSmall() bool {
	dir := filepath.Dir(w.Rundir)
	if dir == w.top || os.Geteuid() != 0 {
		return false
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=512k,nr_inodes=600,mode=755"); err != nil {
		w.t.Logf("the run directory has no file system of its own: mount: %v", err)
		return false
	}
	w.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return true
}

// round lets everybody do what they like for a while.
func (c *chaos) round(draw *rand.Rand, duration time.Duration) {
	c.tampered.Clear()
	var all sync.WaitGroup
	end := time.Now().Add(duration)
	busy := func(pause int, do func(*rand.Rand)) {
		own := rand.New(rand.NewPCG(draw.Uint64(), draw.Uint64()))
		all.Go(func() {
			for time.Now().Before(end) && !c.t.Failed() {
				do(own)
				time.Sleep(time.Duration(own.IntN(pause)) * time.Millisecond)
			}
		})
	}
	// Each client has services of its own.
	const clients = 3
	for i := range clients {
		busy(60, func(d *rand.Rand) { c.client(d, c.names[i*4:i*4+4]) })
	}
	busy(100, func(d *rand.Rand) { c.client(d, c.names[12:14]) })
	busy(100, func(d *rand.Rand) { c.client(d, c.names[12:14]) })
	busy(80, c.strike)
	busy(120, c.entry)
	busy(400, c.daemonTrouble)
	if draw.IntN(3) > 0 {
		busy(100, c.tamper)
	}
	if draw.IntN(3) > 0 && c.small {
		busy(800, c.fill)
	}
	if draw.IntN(4) == 0 {
		busy(3000, c.wipe)
	}
	all.Wait()
}

// client gives an order, and waits for it or not, or gives up.
func (c *chaos) client(d *rand.Rand, names []string) {
	name := names[d.IntN(len(names))]
	verb := []string{"start", "stop", "restart", "once", "kill", "status", "signal", "start", "stop"}[d.IntN(9)]
	args := []string{"-q", "-w", []string{"0", "0.2", "3"}[d.IntN(3)], verb}
	if verb == "signal" {
		args = append(args, []string{"HUP", "CONT", "STOP", "USR1"}[d.IntN(4)])
	}
	args = append(args, name)
	if d.IntN(8) == 0 {
		c.interrupted(d, args)
		return
	}
	termed := c.termed.Load()
	began := rundir.Clock()
	_, complaint, code := c.Ask(args...)
	c.did("svctl %s: %d %s", strings.Join(args, " "), code, strings.TrimSpace(complaint))
	if code != 0 || args[2] == "0" || name >= "wild12" {
		return
	}
	if verb != "stop" && verb != "kill" {
		return
	}
	// Nothing of it may be there, unless somebody else had it started.
	left := c.Processes(name)
	if _, tampered := c.tampered.Load(name); len(left) > 0 && !tampered && c.termed.Load() == termed {
		broken(c.t, 2, "%s of %s, given at %.6f: processes %v are there", verb, name, began.Seconds(), left)
	}
}

// interrupted is a client that gets ^C.
func (c *chaos) interrupted(d *rand.Rand, args []string) {
	cmd := exec.Command(rig.Program(c.t, rig.Plain, "svctl"), args...)
	cmd.Env = c.Environment()
	if err := cmd.Start(); err != nil {
		return
	}
	time.Sleep(time.Duration(d.IntN(30)) * time.Millisecond)
	cmd.Process.Signal(unix.SIGINT)
	cmd.Wait()
	c.did("svctl %s: ^C", strings.Join(args, " "))
}

// strike sends a signal to a process of a service.
func (c *chaos) strike(d *rand.Rand) {
	name := c.names[d.IntN(len(c.names))]
	pids := c.Processes(name)
	if len(pids) == 0 {
		return
	}
	pid := pids[d.IntN(len(pids))]
	sig := []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGSTOP, unix.SIGSEGV, unix.SIGCONT}[d.IntN(5)]
	c.Signal(pid, sig)
	c.did("kill -%s %d (%s)", rundir.SignalName(sig), pid, name)
}

// entry changes an entry of the service directory.
func (c *chaos) entry(d *rand.Rand) {
	name := c.names[d.IntN(len(c.names))]
	path := filepath.Join(c.Sysdir, name)
	c.entries.Delete(name)
	what, err := "", error(nil)
	switch d.IntN(8) {
	case 0, 1:
		what, err = "rm "+name, os.Remove(path)
	case 2:
		other := c.names[d.IntN(len(c.names))]
		c.entries.Delete(other)
		what, err = "mv "+name+" "+other, os.Rename(path, filepath.Join(c.Sysdir, other))
	case 3:
		os.Remove(path)
		what, err = "an empty file in place of "+name, os.WriteFile(path, nil, 0o755)
	case 4:
		os.Remove(path)
		what, err = "a file that is not executable in place of "+name, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o644)
	case 5:
		os.Remove(path)
		what, err = "a dangling link in place of "+name, os.Symlink("/nowhere", path)
	case 6, 7:
		what = "ln -sf victim " + name
		c.restoreEntry(name)
	}
	c.did("%s: %v", what, err)
}

// restoreEntry makes an entry what it should be, in one step.
func (c *chaos) restoreEntry(name string) {
	tmp := filepath.Join(c.Sysdir, ".tmp-"+name+strconv.Itoa(rand.IntN(1e9)))
	err := os.Symlink(rig.Program(c.t, rig.Plain, "victim"), tmp)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(c.Sysdir, name))
	}
	if err != nil {
		c.t.Errorf("entry %s: %v", name, err)
	}
	c.entries.Store(name, true)
}

var stateFiles = []string{
	rundir.Pid, rundir.Syspid, rundir.State, rundir.Lock, rundir.Control, rundir.Taken, rundir.GuardFile,
	rundir.Ready, rundir.StopSignal, rundir.StopTimeout, rundir.Waiting, rundir.Needs,
}

// tamper puts something into a folder of the run directory that does not
// belong there, or takes something away.
func (c *chaos) tamper(d *rand.Rand) {
	name := c.names[d.IntN(5)*3] // the others are left alone
	c.tampered.Store(name, true)
	folder := filepath.Join(c.Rundir, name)
	file := stateFiles[d.IntN(len(stateFiles))]
	path := filepath.Join(folder, file)
	if d.IntN(8) == 0 {
		c.did("rm -r %s: %v", name, os.RemoveAll(folder))
		return
	}
	c.planted.Store(path, true)
	var what string
	var err error
	switch d.IntN(9) {
	case 0:
		what, err = "rm", os.Remove(path)
	case 1:
		os.RemoveAll(path)
		what, err = "FIFO", unix.Mkfifo(path, 0o666)
	case 2:
		os.RemoveAll(path)
		what, err = "link to a secret", os.Symlink(filepath.Join(c.decoy, "secret"), path)
	case 3:
		os.RemoveAll(path)
		what, err = "link to nowhere", os.Symlink(filepath.Join(c.decoy, "nowhere"), path)
	case 4:
		os.RemoveAll(path)
		what, err = "directory", errors.Join(os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "x"), nil, 0o644))
	case 5:
		os.RemoveAll(path) // not through a link that somebody has planted
		what, err = "40 kB", os.WriteFile(path, make([]byte, 40<<10), 0o644)
	case 6:
		os.RemoveAll(path)
		what, err = "the number of a canary", os.WriteFile(path, fmt.Appendln(nil, c.canaries[0].Process.Pid), 0o644)
	case 7:
		word := []string{"0", "-1", "1", "99999999999", "", "x y", "\x00\x00", strconv.Itoa(os.Getpid())}[d.IntN(8)]
		if file == rundir.StopTimeout && word == "0" {
			word = "x" // for ever is too long for us
		}
		os.RemoveAll(path)
		what, err = fmt.Sprintf("%q", word), os.WriteFile(path, []byte(word), 0o644)
	case 8:
		what, err = "chmod 777", os.Chmod(folder, 0o777)
	}
	c.did("%s/%s: %s: %v", name, file, what, err)
}

// fill fills the file system of the run directory, or makes room again.
func (c *chaos) fill(d *rand.Rand) {
	dir := filepath.Join(filepath.Dir(c.Rundir), "fill")
	if d.IntN(2) == 0 {
		c.did("room: %v", os.RemoveAll(dir))
		return
	}
	os.Mkdir(dir, 0o755)
	if d.IntN(2) == 0 {
		f, err := os.Create(filepath.Join(dir, "big"))
		if err == nil {
			for err == nil {
				_, err = f.Write(make([]byte, 64<<10))
			}
			f.Close()
		}
		c.did("full: %v", err)
		return
	}
	var err error
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644)
	}
	c.did("no inodes: %v", err)
}

// wipe removes the whole run directory, the records included, and gives the
// daemon time to write them again before anybody kills it.
func (c *chaos) wipe(d *rand.Rand) {
	time.Sleep(time.Duration(d.IntN(500)) * time.Millisecond)
	c.records.Lock()
	defer c.records.Unlock()
	os.RemoveAll(filepath.Join(filepath.Dir(c.Rundir), "fill"))
	for _, name := range c.names {
		c.tampered.Store(name, true)
	}
	c.shaky.Store(true)
	err := os.RemoveAll(c.Rundir)
	c.did("rm -r RUNDIR: %v", err)
	time.Sleep(6 * time.Second)
	c.shaky.Store(false)
}

// spawn starts a daemon, as often as it takes.
func (c *chaos) spawn() {
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		c.Launch(nil, "-t", "1", "-v")
		pid := c.Daemon.Pid
		c.pid.Store(int64(pid))
		c.daemon.Store(int64(pid))
		for c.lives() {
			if c.begun() {
				c.did("daemon %d", pid)
				return
			}
			time.Sleep(time.Millisecond)
			c.makeRoom(begin)
		}
		c.refused++
		c.did("daemon %d did not start: %v", pid, c.State())
		c.daemon.Store(0)
		c.makeRoom(begin)
		if time.Since(begin) > convergence {
			c.t.Errorf("no daemon starts any more: %v", c.State())
			return
		}
	}
}

// makeRoom is for a daemon that cannot write its number for want of room, for a
// while: nobody else may be left to make some.
func (c *chaos) makeRoom(since time.Time) {
	if time.Since(since) > 2*time.Second {
		os.RemoveAll(filepath.Join(filepath.Dir(c.Rundir), "fill"))
	}
}

// daemonTrouble does something to the daemon itself.
func (c *chaos) daemonTrouble(d *rand.Rand) {
	c.life.Lock()
	defer c.life.Unlock()
	kill := func(sig unix.Signal) { c.Daemon.Signal(sig) }
	switch n := d.IntN(20); {
	case n < 6:
		c.records.Lock()
		defer c.records.Unlock()
		kill(unix.SIGKILL)
		<-c.Ended()
		c.deaths++
		c.daemon.Store(0)
		c.did("daemon %d killed", c.Daemon.Pid)
		time.Sleep(time.Duration(d.IntN(2)*d.IntN(300)) * time.Millisecond)
		c.spawn()
	case n < 8:
		c.termed.Add(1)
		c.did("daemon %d: TERM, twice", c.Daemon.Pid)
		kill(unix.SIGTERM)
		time.Sleep(time.Duration(d.IntN(20)) * time.Millisecond)
		kill(unix.SIGTERM)
		select {
		case <-c.Ended():
		case <-time.After(convergence):
			broken(c.t, 12, "daemon still there %s after TERM", convergence)
			return
		}
		c.daemon.Store(0)
		for _, name := range c.names {
			if left := c.Processes(name); len(left) > 0 {
				broken(c.t, 2, "daemon ended, and left %v of %s", left, name)
			}
		}
		c.spawn()
	case n < 11:
		kill(unix.SIGSTOP)
		pause := time.Duration(d.IntN(1500)) * time.Millisecond
		time.Sleep(pause)
		kill(unix.SIGCONT)
		c.did("daemon stopped for %s", pause)
	case n < 14:
		kill(unix.SIGUSR2)
		c.did("daemon: USR2")
	case n < 16:
		kill(unix.SIGHUP)
		c.did("daemon: HUP")
	default:
		kill([]unix.Signal{unix.SIGUSR1, unix.SIGPIPE, unix.SIGALRM, unix.SIGWINCH}[d.IntN(4)])
	}
	if !c.lives() {
		c.t.Errorf("the daemon has ended by itself: %v", c.State())
	}
}

// lift ends all faults.
func (c *chaos) lift() {
	os.RemoveAll(filepath.Join(filepath.Dir(c.Rundir), "fill"))
	c.planted.Range(func(path, _ any) bool {
		os.RemoveAll(path.(string))
		c.planted.Delete(path)
		return true
	})
	for _, name := range c.names {
		if _, ok := c.entries.Load(name); !ok {
			c.restoreEntry(name)
		}
		for _, pid := range c.Processes(name) {
			c.Signal(pid, unix.SIGCONT)
		}
	}
	if !c.lives() {
		c.t.Errorf("the daemon has ended by itself: %v", c.State())
		return
	}
	c.Daemon.Signal(unix.SIGCONT)
}

// settle waits until each service is what its lock says.
func (c *chaos) settle() {
	begin := time.Now()
	for {
		var problems []string
		for _, name := range c.names {
			if p := c.consistent(name); p != "" {
				problems = append(problems, name+": "+p)
			}
		}
		if len(problems) == 0 {
			c.did("at rest after %s", time.Since(begin).Round(time.Millisecond))
			return
		}
		if doubles := c.doubles(); len(doubles) > 0 {
			c.t.Errorf("run twice: %v", doubles)
			return
		}
		if c.Daemon != nil && !c.lives() {
			c.t.Errorf("the daemon has ended by itself: %v", c.State())
			return
		}
		if time.Since(begin) > c.rest {
			for _, p := range problems {
				name, _, _ := strings.Cut(p, ":")
				c.known(name).suspect.Store(true)
				broken(c.t, 15, "%s", p)
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// consistent says what is wrong with a service, if anything is: its lock says
// how it is to be.
func (c *chaos) consistent(name string) string {
	s := c.known(name)
	dir, err := rundir.Open(c.Rundir)
	if err != nil {
		return err.Error()
	}
	defer dir.Close()
	f, err := dir.Folder(name)
	if err != nil {
		return err.Error()
	}
	hold, _, _ := f.ReadHold()
	f.Close()
	want := "start"
	switch hold {
	case rundir.HoldDown, rundir.HoldKill, rundir.HoldOpen:
		want = "stop"
	case rundir.HoldOnce:
		want = "once"
	}
	if p := c.fits(s, want); p != "" {
		return fmt.Sprintf("to be %s: %s", want, p)
	}
	v, _, _ := c.view(name)
	switch leader := c.leaderOf(name); {
	case v.Phase == rundir.Up && leader == 0:
		return "it is up without a process"
	case v.Phase == rundir.Up && leader != v.Pid:
		return fmt.Sprintf("it is up as %d, but its process is %d", v.Pid, leader)
	case v.Phase == rundir.Backoff && (v.RetryIn <= 0 || v.RetryIn > 31*time.Second || v.For() > v.RetryIn+2*time.Second):
		return fmt.Sprintf("it is in back-off for %s, to be tried after %s", v.For(), v.RetryIn)
	case v.Phase == rundir.Backoff && leader != 0:
		return fmt.Sprintf("it is in back-off beside process %d", leader)
	}
	// Of numbers in its pid file that it wrote itself any will do that lives, or
	// that chaos has killed: the service does not mind.
	path := filepath.Join(c.Rundir, name, rundir.Pid)
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	pid, err := rundir.ParsePid(data)
	if err != nil {
		return err.Error()
	}
	if !slices.Contains(c.Processes(name), pid) && pid != c.child(name) {
		return fmt.Sprintf("pid %d is not of it", pid)
	}
	return ""
}

// child is the process that the last run of a service has made, 0 if none.
func (c *chaos) child(name string) (pid int) {
	for _, words := range c.Journal() {
		switch {
		case len(words) < 3 || words[1] != name:
		case words[0] == "start":
			pid = 0
		case words[0] == "child":
			pid, _ = strconv.Atoi(words[2])
		}
	}
	return pid
}
