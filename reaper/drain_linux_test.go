package reaper

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Four thousand services that each left a child behind could not be stopped:
// for every child that ended, every other group was looked at again.
func TestEveryGroupIsNotLookedAtForEveryOrphan(t *testing.T) {
	const count = 600
	r, err := New(func(Fact) {})
	if err != nil {
		t.Fatal(err)
	}
	defer r.null.Close()
	never := filepath.Join(t.TempDir(), "never")
	if err := unix.Mkfifo(never, 0o600); err != nil {
		t.Fatal(err)
	}
	sleeper := func(group int) int {
		pid, err := syscall.ForkExec("/bin/cat", []string{"cat", never}, &syscall.ProcAttr{
			Files: []uintptr{0, 1, 2},
			Sys:   &syscall.SysProcAttr{Setpgid: true, Pgid: group},
		})
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	var left []int
	defer func() {
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL) // unreaped, so still ours
		}
	}()
	for range count {
		leader := sleeper(0)
		left = append(left, sleeper(leader))
		unix.Kill(leader, unix.SIGKILL)
		if _, err := syscall.Wait4(leader, nil, 0, nil); err != nil {
			t.Fatal(err)
		}
		r.draining[leader] = leftover{child: child{exited: make(chan Exit, 2)}}
	}

	// Of this thread, so that others on the machine do not count.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
			t.Fatal(err)
		}
		return time.Duration(now.Nano())
	}
	look := time.Hour // at every group, once
	for range 5 {
		begin := used()
		r.drain()
		look = min(look, used()-begin)
	}
	if len(r.draining) != count {
		t.Fatalf("groups with a process: got %d, want %d", len(r.draining), count)
	}
	for _, pid := range left {
		unix.Kill(pid, unix.SIGKILL)
	}
	for _, pid := range left {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(os.NewSyscallError("waitid", err))
		}
	}
	left = nil
	begin := used()
	r.reap(anyChild)
	took := used() - begin
	if len(r.draining) != 0 {
		t.Errorf("groups that still count as draining: got %d, want none", len(r.draining))
	}
	t.Logf("a look at all %d groups: %s; reaping %d orphans: %s", count, look, count, took)
	if most := look * count / 4; took > most {
		t.Errorf("reaping %d orphans of %d groups: got %s of CPU, want less than %s", count, count, took, most)
	}
}
