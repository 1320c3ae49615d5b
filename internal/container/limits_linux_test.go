package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// group makes a control group with a limit, of version 2 or 1, whichever the
// machine has, and returns its folder.
func group(t *testing.T, controller, file2, file1, limit string) string {
	t.Helper()
	needed(t)
	var top, file string
	switch {
	case contains("/sys/fs/cgroup/cgroup.controllers", controller):
		top, file = "/sys/fs/cgroup", file2
		os.WriteFile(filepath.Join(top, "cgroup.subtree_control"), []byte("+"+controller), 0)
	case exists(filepath.Join("/sys/fs/cgroup", controller, "cgroup.procs")):
		top, file = filepath.Join("/sys/fs/cgroup", controller), file1
	default:
		t.Skipf("this machine gives us no cgroup controller %q", controller)
	}
	dir, err := os.MkdirTemp(top, "sysmgr-test-")
	if err != nil {
		t.Skipf("this machine gives us no cgroup: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, file), []byte(limit), 0); err != nil {
		t.Skipf("this machine gives us no cgroup controller %q: %v", controller, err)
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func contains(path, word string) bool {
	data, _ := os.ReadFile(path)
	for _, w := range strings.Fields(string(data)) {
		if w == word {
			return true
		}
	}
	return false
}

// within starts sysmgr as process 1 in a control group.
func (c *container) within(group string, args ...string) {
	c.t.Helper()
	c.start(fmt.Sprintf(`echo 0 >%s/cgroup.procs; exec "$@"`, group), append([]string{filepath.Join(bin, "sysmgr")}, args...)...)
}

// A service that takes every process there may be: the others live on, those
// that cannot be started say why, and come up when there is room.
func TestLimitOfProcesses(t *testing.T) {
	dir := group(t, "pids", "pids.max", "pids.max", "100")
	c := prepared(t)
	c.service("side", "exec sleep 1000")
	c.within(dir)
	c.up("side")
	side := c.status("side", "pid")
	// A shell that cannot fork gives up; then it sleeps too, to keep its place.
	c.service("bomb", "( trap 'exec sleep 1000' EXIT; while :; do sleep 1000 & done ) 2>/dev/null\nexec sleep 1001")
	c.soon("the bomb has gone off", func() bool {
		now, _ := os.ReadFile(filepath.Join(dir, "pids.current"))
		return strings.TrimSpace(string(now)) == "100"
	})
	c.service("late", "exec sleep 1000")
	c.soon("the late one says why it cannot be started", func() bool {
		return c.status("late", "phase") == "backoff" && strings.Contains(c.status("late", "cause"), "resource temporarily unavailable")
	})
	c.must("-w", "90", "stop", "bomb")
	c.must("-w", "90", "wait", "up", "late")
	if got := c.status("side", "pid"); got != side {
		t.Errorf("the other service: got process %s, want %s", got, side)
	}
	c.cmd.Process.Signal(unix.SIGTERM)
	c.exits(0)
}

// A service that takes all the memory there may be is killed and started
// again; nobody else is.
func TestLimitOfMemory(t *testing.T) {
	dir := group(t, "memory", "memory.max", "memory.limit_in_bytes", strconv.Itoa(100<<20))
	c := prepared(t)
	c.service("side", "exec sleep 1000")
	c.within(dir)
	c.up("side")
	side := c.status("side", "pid")
	// tail keeps the last line, which never ends.
	c.service("glutton", "tail /dev/zero")
	c.soon("it was killed and is tried again", func() bool {
		restarts, _ := strconv.Atoi(c.status("glutton", "restarts"))
		return restarts >= 2 && c.status("glutton", "phase") == "backoff"
	})
	// The shell says of its tail what the kernel did.
	if got := c.status("glutton", "last-exit"); got != "exit 137" && got != "killed by KILL" {
		t.Errorf("its end: got %q, want exit 137 or killed by KILL", got)
	}
	if got := c.status("side", "pid"); got != side {
		t.Errorf("the other service: got process %s, want %s", got, side)
	}
	c.must("-w", "90", "stop", "glutton")
	c.must("-w", "90", "restart", "side")
	c.cmd.Process.Signal(unix.SIGTERM)
	c.exits(0)
}
