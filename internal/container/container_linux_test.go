package container

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/have"
)

// patience is how long anything may take.
const patience = 90 * time.Second

// bin is where the programs are, static as in an image.
var bin string

// asked is set by make test-container.
const asked = "SYSMGR_TEST_CONTAINER"

func TestMain(m *testing.M) {
	if os.Getenv(asked) == "" {
		os.Exit(m.Run()) // to say that they are skipped
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sysmgr-container-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755)
		bin = filepath.Join(dir, "bin")
		build := exec.Command("go", "build", "-o", bin+"/", "sysmgr/cmd/...")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build:", err)
			return 1
		}
		return m.Run()
	}())
}

// container is a PID namespace whose process 1 is, or becomes, sysmgr.
type container struct {
	t              *testing.T
	sysdir, rundir string
	cmd            *exec.Cmd
	log            string
	ended          chan struct{}
}

// needed skips a test that nobody has asked for.
func needed(t *testing.T) {
	t.Helper()
	if os.Getenv(asked) == "" {
		t.Skip("make test-container runs this")
	}
	have.Root(t)
}

// prepared makes the folders of a container.
func prepared(t *testing.T) *container {
	t.Helper()
	needed(t)
	// Not t.TempDir: other users have to get there.
	dir, err := os.MkdirTemp(filepath.Dir(bin), "container-")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	c := &container{t: t, sysdir: filepath.Join(dir, "services"), rundir: filepath.Join(dir, "run"), log: filepath.Join(dir, "log")}
	if err := os.Mkdir(c.sysdir, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

// service puts a script into SYSDIR.
func (c *container) service(name, script string) {
	c.t.Helper()
	path := filepath.Join(c.sysdir, name)
	err := os.WriteFile(path+".tmp", []byte("#!/bin/sh\n"+script), 0o755)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// start runs a shell script as process 1, which ends with exec "$@": sysmgr
// and these arguments.
func (c *container) start(script string, args ...string) {
	c.t.Helper()
	// The process below dies with this thread, however the test ends.
	runtime.LockOSThread()
	log, err := os.Create(c.log)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	script = "set -e; mount --make-rprivate /; mount -t proc proc /proc; " + script
	c.cmd = exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
	c.cmd.Env = c.env()
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Setsid:     true,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.ended = make(chan struct{})
	go func() {
		c.cmd.Wait()
		close(c.ended)
	}()
	c.t.Cleanup(func() {
		c.cmd.Process.Kill() // the namespace goes with its process 1
		<-c.ended
		if text, err := os.ReadFile(c.log); err == nil && c.t.Failed() {
			lines := bytes.SplitAfter(text, []byte("\n"))
			c.t.Logf("end of the log:\n%s", bytes.Join(lines[max(0, len(lines)-40):], nil))
		}
	})
}

// sysmgr starts it as process 1.
func (c *container) sysmgr(args ...string) {
	c.t.Helper()
	c.start(`exec "$@"`, append([]string{filepath.Join(bin, "sysmgr")}, args...)...)
}

func (c *container) env() []string {
	return append(os.Environ(), "SYSDIR="+c.sysdir, "RUNDIR="+c.rundir, "PATH="+bin+":"+os.Getenv("PATH"))
}

// svctl runs outside of the container, on its run directory.
func (c *container) svctl(args ...string) (string, int) {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "svctl"), args...)
	cmd.Env = c.env()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (c *container) must(args ...string) {
	c.t.Helper()
	if out, code := c.svctl(args...); code != 0 {
		c.t.Fatalf("svctl %q: got exit status %d, want 0\n%s", args, code, out)
	}
}

// up waits until sysmgr and these services are up.
func (c *container) up(names ...string) {
	c.t.Helper()
	c.soon("sysmgr runs", func() bool { _, code := c.svctl("-q", "status"); return code < 2 })
	c.must(append([]string{"-w", "90", "wait", "up"}, names...)...)
}

func (c *container) soon(what string, yes func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !yes(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-c.ended:
			c.t.Fatalf("the container ended, waiting in vain: %s", what)
		default:
		}
		if time.Now().After(end) {
			c.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// exits waits for the end of the container, which leaves no run directory.
func (c *container) exits(want int) {
	c.t.Helper()
	c.ends(want)
	if entries, err := os.ReadDir(c.rundir); err == nil {
		c.t.Errorf("run directory: got %v, want none", entries)
	}
}

// ends waits for the end of the container.
func (c *container) ends(want int) {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Fatalf("the container does not end")
	}
	if got := c.cmd.ProcessState.ExitCode(); got != want {
		c.t.Errorf("exit status of the container: got %v, want %d", c.cmd.ProcessState, want)
	}
}

// status is the value of a key in the status of a service.
func (c *container) status(name, key string) string {
	data, _ := os.ReadFile(filepath.Join(c.rundir, name, "status"))
	for line := range strings.Lines(string(data)) {
		if word, value, _ := strings.Cut(strings.TrimSpace(line), " "); word == key {
			return value
		}
	}
	return ""
}

// children counts the children that the container's process 1 has, from
// outside: those that are alive, and those that are zombies.
func (c *container) children() (alive, zombies int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(c.cmd.Process.Pid) {
			continue
		}
		if fields[0] == "Z" {
			zombies++
		} else {
			alive++
		}
	}
	return alive, zombies
}

// Ten thousand orphans die at once: all are reaped, and services are looked
// after meanwhile.
func TestOrphansAreReaped(t *testing.T) {
	const orphans = 10000
	c := prepared(t)
	gate := filepath.Join(filepath.Dir(c.sysdir), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	// Each waits until somebody opens the other end of the FIFO, then ends.
	c.service("orphans", fmt.Sprintf(`
		half() { i=0; while [ $i -lt %d ]; do ( : <%s & ); i=$((i+1)); done; }
		half & half & wait
		echo yes >"$SYSMGR_DIR/ready"
		exec sleep 1000
	`, orphans/2, gate))
	c.service("side", "exec sleep 1000")
	c.sysmgr()
	c.up("side")
	c.must("-w", "90", "wait", "ready", "orphans")
	c.soon("the orphans are there", func() bool { alive, _ := c.children(); return alive == orphans+2 })
	begin := time.Now()
	fd, err := unix.Open(gate, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c.must("-w", "90", "restart", "side")
	c.soon("all are reaped", func() bool { alive, zombies := c.children(); return alive == 2 && zombies == 0 })
	t.Logf("%d orphans reaped, and a service restarted, in %s", orphans, time.Since(begin).Round(time.Millisecond))
	c.cmd.Process.Signal(unix.SIGTERM)
	c.exits(0)
}

// TERM, as docker stop sends it, stops everything, also what does not want to.
func TestTermStopsEverything(t *testing.T) {
	c := prepared(t)
	said := filepath.Join(filepath.Dir(c.sysdir), "said")
	c.service("polite", "trap 'echo goodbye >"+said+"; exit' TERM; while :; do sleep 0.1; done")
	c.service("deaf", "trap '' TERM; while :; do sleep 0.1; done")
	c.service("escaped", "setsid sleep 1000 & exec sleep 1000")
	c.service("broken", "exit 1")
	c.sysmgr("-t", "1")
	c.up("polite", "deaf", "escaped")
	c.cmd.Process.Signal(unix.SIGTERM)
	c.exits(0)
	if data, err := os.ReadFile(said); string(data) != "goodbye\n" {
		t.Errorf("the polite one: got %q, %v, want its goodbye", data, err)
	}
}

// With -e the container has the exit status of its main service.
func TestExitStatusIsThatOfTheMainService(t *testing.T) {
	for script, want := range map[string]int{
		"exit 7":        7,
		"exit 0":        0,
		"kill -SEGV $$": 128 + 11,
		"kill -KILL $$": 128 + 9,
	} {
		t.Run(script, func(t *testing.T) {
			c := prepared(t)
			said := filepath.Join(filepath.Dir(c.sysdir), "said")
			c.service("side", "trap 'echo goodbye >"+said+"; exit' TERM; echo yes >\"$SYSMGR_DIR/ready\"; while :; do sleep 0.1; done")
			c.service("main", "sysmgr-depends -r side; "+script)
			c.sysmgr("-e", "main")
			c.exits(want)
			if _, err := os.Stat(said); err != nil {
				t.Errorf("the other service was not stopped: %v", err)
			}
		})
	}
}
