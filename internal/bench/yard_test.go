//go:build linux

package bench

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// yard is a rig whose services tell when they began.
type yard struct {
	testing.TB
	*rig.Rig
	path   string   // of what is run as a service
	out    *os.File // where those write their stamps
	stamps chan stamp
	env    []string
}

// stamp is what a service says of itself.
type stamp struct {
	pid  int
	born time.Duration // by rundir.Clock
}

func newYard(t testing.TB) *yard {
	y := &yard{TB: t, Rig: rig.New(t, rig.Plain), stamps: make(chan stamp, 1<<15)}
	y.path = y.program()
	fifo := filepath.Join(y.Work, "stamps")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// Open for both: services do not wait, and there is never an end.
	out, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.FcntlInt(out.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	in, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	y.out, y.Stdout = out, out
	y.env = y.Environment("VICTIM_STAMP=1")
	go func() {
		var words [3]uint64
		for buf := make([]byte, 24); ; {
			if _, err := io.ReadFull(in, buf); err != nil {
				return
			}
			for i := range words {
				words[i] = binary.NativeEndian.Uint64(buf[8*i:])
			}
			y.stamps <- stamp{int(words[2]), time.Duration(words[0])*time.Second + time.Duration(words[1])}
		}
	}()
	return y
}

// next waits for as many services to have begun. It returns when the last one
// did, and their processes.
func (y *yard) next(count int) (last time.Duration, pids []int) {
	y.Helper()
	deadline := time.After(patience)
	for range count {
		select {
		case s := <-y.stamps:
			last, pids = max(last, s.born), append(pids, s.pid)
		case <-deadline:
			y.Fatalf("services begun within %s: got %d, want %d", patience, len(pids), count)
		}
	}
	return last, pids
}

// patience is how long anything may take; 10,000 of something take long.
const patience = 3 * time.Minute

// kill kills services that have told of themselves: so they are there, and
// none ends by itself. It returns when it began.
func (y *yard) kill(pids ...int) time.Duration {
	at := rundir.Clock()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			y.Fatalf("kill %d: %v", pid, err)
		}
	}
	return at
}

// spawn starts a program that is not a service.
func (y *yard) spawn(out *os.File, args ...string) (pid int) {
	y.Helper()
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{Env: y.env, Files: []uintptr{0, out.Fd(), 2}})
	if err != nil {
		y.Fatalf("%s: %v", args[0], err)
	}
	return pid
}

// wait waits for its end.
func (y *yard) wait(pid int) syscall.WaitStatus {
	y.Helper()
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err == nil {
			return status
		}
		if err != syscall.EINTR {
			y.Fatal(err)
		}
	}
}

// run runs a command to its end and returns how long that took. Its exit
// status may say anything.
func (y *yard) run(args ...string) time.Duration {
	y.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		y.Fatal(err)
	}
	defer null.Close()
	begin := rundir.Clock()
	y.wait(y.spawn(null, args...))
	return rundir.Clock() - begin
}

func median[T int | float64 | time.Duration](samples []T) T { return quantile(samples, 50) }

func quantile[T int | float64 | time.Duration](samples []T, percent int) T {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[((len(sorted)-1)*percent+99)/100]
}
