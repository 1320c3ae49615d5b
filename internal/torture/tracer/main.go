//go:build linux && amd64

// Command tracer runs a program and meddles with its system calls, by
// ptrace(2): it kills it at the Nth of them, or lets them fail. It does what
// strace(1) can do with -e inject, and what that cannot: it counts the calls
// of all threads together, tells a fork from a thread, leaves the processes
// that the program starts alone once they have executed, kills the program at
// what its unborn child does, and stops meddling when it is told to.
//
//	tracer [-calls NAME,...] [-under DIR,...] [-report FILE] [-armed]
//	       [-kill N] [-after] [-child] [-hold]
//	       [-fail ERRNO] [-from N] [-to N] [-every N] [-clock SECOND]
//	       PROGRAM [ARGUMENT...]
//
// Calls of the names in -calls are counted ("mutating" stands for all that
// change anything, "create" for an openat that may), and of those that are
// about a file only the ones below a folder of -under. -kill N kills the
// program before the Nth of them, or, with -after, when it has been made;
// wait4 counts only when it has reaped. With -child the calls of children
// before their execve are counted instead, in three steps each: born, about
// to execute, executed; and with -hold the child stays where it is, at its
// execve, until the tracer gets USR1. -fail gives the calls from -from to -to,
// or every -every of them, the error instead of what they would do. -clock sets
// the clock of the program (CLOCK_REALTIME) to so many seconds since 1970; that
// one goes on from there, and the time stamps of files are the kernel's as ever.
//
// It meddles from USR2 on, with -armed from the beginning, and until USR1. The
// report has a line with the process of the program, then one for what was
// done, and at the end one with how many calls were counted. The exit status
// is that of the program, or 128+N for a signal.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracer is the meddler and what it knows of the program.
type tracer struct {
	pick   map[string]bool
	under  []string
	report *os.File

	kill  int
	after bool
	child bool
	hold  bool

	fail            unix.Errno
	from, to, every int

	clock int64         // what time it is to be, in seconds; -1: what it is
	skew  time.Duration // what the program's clock is off by, once there is a reason

	armed  atomic.Bool
	lifted atomic.Bool

	pid     int // the program
	over    bool
	code    int
	count   int              // calls that counted
	failed  int              // calls that were made to fail
	known   map[int]bool     // threads that have shown up: true if they are the program's
	inside  map[int]*within  // what a thread has begun
	holding map[int]struct{} // children that wait at their execve
}

// within is a call between its two stops.
type within struct {
	call
	picked bool
	index  int // among those that counted
	failed bool
}

func main() {
	runtime.LockOSThread() // ptrace(2) knows threads
	t := &tracer{
		pick: make(map[string]bool), known: make(map[int]bool),
		inside: make(map[int]*within), holding: make(map[int]struct{}),
	}
	names := flag.String("calls", "mutating", "")
	under := flag.String("under", "", "")
	report := flag.String("report", os.DevNull, "")
	armed := flag.Bool("armed", false, "")
	fail := flag.String("fail", "", "")
	flag.IntVar(&t.kill, "kill", 0, "")
	flag.BoolVar(&t.after, "after", false, "")
	flag.BoolVar(&t.child, "child", false, "")
	flag.BoolVar(&t.hold, "hold", false, "")
	flag.IntVar(&t.from, "from", 1, "")
	flag.IntVar(&t.to, "to", 1<<62, "")
	flag.IntVar(&t.every, "every", 1, "")
	flag.Int64Var(&t.clock, "clock", -1, "")
	flag.Parse()
	for _, name := range strings.Split(*names, ",") {
		if name == "mutating" {
			for _, name := range mutating {
				t.pick[name] = true
			}
		}
		t.pick[name] = true
	}
	if *under != "" {
		t.under = strings.Split(*under, ",")
	}
	if *fail != "" {
		for e := unix.Errno(1); e < 140; e++ {
			if unix.ErrnoName(e) == *fail {
				t.fail = e
			}
		}
		if t.fail == 0 {
			stop(fmt.Errorf("unknown error %q", *fail))
		}
	}
	t.armed.Store(*armed)
	var err error
	if t.report, err = os.OpenFile(*report, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644); err != nil {
		stop(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		for s := range signals {
			if s == unix.SIGUSR2 {
				t.armed.Store(true)
				t.say("armed")
				continue
			}
			t.lifted.Store(true)
			t.say("lifted")
		}
	}()
	if err := t.start(flag.Args()); err != nil {
		stop(err)
	}
	t.loop()
	t.say("counted %d failed %d", t.count, t.failed)
	os.Exit(t.code)
}

func stop(err error) {
	fmt.Fprintf(os.Stderr, "tracer: %v\n", err)
	os.Exit(125)
}

func (t *tracer) say(format string, args ...any) {
	t.report.WriteString(fmt.Sprintf(format, args...) + "\n")
}

func (t *tracer) start(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no program")
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	t.pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return err
	}
	t.say("pid %d", t.pid)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(t.pid, &status, 0, nil); err != nil {
		return err
	}
	t.known[t.pid] = true
	if t.clock >= 0 {
		if err := hideClock(t.pid); err != nil {
			return err
		}
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACEEXEC |
		unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK
	if err := syscall.PtraceSetOptions(t.pid, options); err != nil {
		return err
	}
	return syscall.PtraceSyscall(t.pid, 0)
}

// loop serves stops until nothing is traced any more.
func (t *tracer) loop() {
	for {
		var status syscall.WaitStatus
		options := unix.WALL
		if len(t.holding) > 0 {
			// Nothing would wake us when USR1 comes.
			options |= unix.WNOHANG
		}
		tid, err := syscall.Wait4(-1, &status, options, nil)
		switch {
		case err == nil && tid == 0:
			time.Sleep(2 * time.Millisecond)
			if t.lifted.Load() {
				t.release()
			}
			continue
		case err == syscall.EINTR:
			continue
		case err != nil:
			return // ECHILD
		}
		switch {
		case status.Exited() || status.Signaled():
			delete(t.inside, tid)
			delete(t.known, tid)
			delete(t.holding, tid)
			if tid == t.pid {
				t.over = true
				t.code = status.ExitStatus()
				if status.Signaled() {
					t.code = 128 + int(status.Signal())
				}
				t.say("ended %d", t.code)
			}
		case status.Stopped():
			t.stopped(tid, status)
		}
	}
}

// stopped answers one stop of a thread.
func (t *tracer) stopped(tid int, status syscall.WaitStatus) {
	if _, ok := t.known[tid]; !ok {
		t.known[tid] = owner(tid) == t.pid
		if status.StopSignal() == unix.SIGSTOP {
			if !t.known[tid] {
				t.step(tid, "born")
			}
			syscall.PtraceSyscall(tid, 0)
			return
		}
	}
	const syscallStop = unix.SIGTRAP | 0x80 // PTRACE_O_TRACESYSGOOD
	signal := 0
	switch sig := status.StopSignal(); {
	case sig == syscallStop:
		if t.syscall(tid) {
			return // it is held
		}
	case sig == unix.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_EXEC:
		if !t.known[tid] {
			t.step(tid, "executed")
			delete(t.known, tid)
			delete(t.inside, tid)
			syscall.PtraceDetach(tid)
			return
		}
		clear(t.inside) // the other threads are gone
		if t.clock >= 0 {
			if err := hideClock(tid); err != nil {
				t.say("no clock: %v", err)
			}
		}
	case sig == unix.SIGTRAP:
		// Another event: nothing to be done.
	default:
		signal = int(sig)
	}
	syscall.PtraceSyscall(tid, signal)
}

// owner is the process that a thread belongs to.
func owner(tid int) int {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	for line := range strings.Lines(string(data)) {
		if number, ok := strings.CutPrefix(line, "Tgid:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(number))
			return n
		}
	}
	return 0
}

// info is struct ptrace_syscall_info, as far as it is of use.
type info struct {
	op     uint8
	number uint64
	args   [6]uint64
	result int64
}

func look(tid int) (i info, ok bool) {
	var raw [88]byte
	n, _, err := syscall.Syscall6(syscall.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO,
		uintptr(tid), unsafe.Sizeof(raw), uintptr(unsafe.Pointer(&raw)), 0, 0)
	if err != 0 || n < 24 {
		return i, false
	}
	at := func(offset int) uint64 { return *(*uint64)(unsafe.Pointer(&raw[offset])) }
	i.op = raw[0]
	switch i.op {
	case unix.PTRACE_SYSCALL_INFO_ENTRY:
		i.number = at(24)
		for k := range i.args {
			i.args[k] = at(32 + 8*k)
		}
	case unix.PTRACE_SYSCALL_INFO_EXIT:
		i.result = int64(at(24))
	}
	return i, true
}

// syscall is called when a thread begins or ends a call. It tells whether the
// thread is to stay where it is.
func (t *tracer) syscall(tid int) (held bool) {
	i, ok := look(tid)
	if !ok {
		return false
	}
	if i.op == unix.PTRACE_SYSCALL_INFO_EXIT {
		if w := t.inside[tid]; w != nil {
			delete(t.inside, tid)
			t.end(tid, w, i.result)
		}
		return false
	}
	if !t.known[tid] {
		if i.number == unix.SYS_EXECVE {
			return t.step(tid, "about to execute")
		}
		return false
	}
	if i.number == unix.SYS_CLOCK_GETTIME && i.args[0] == unix.CLOCK_REALTIME && t.clock >= 0 {
		t.inside[tid] = &within{call: call{name: "clock", args: i.args}}
		return false
	}
	c, ok := read(t.pid, tid, i.number, i.args)
	if ok {
		t.inside[tid] = t.begin(tid, c)
	}
	return false
}

// active tells whether there is to be meddling now.
func (t *tracer) active() bool { return t.armed.Load() && !t.lifted.Load() && !t.over }

// picked tells whether a call is one that counts.
func (t *tracer) picked(c call) bool {
	if !t.pick[c.name] && !(t.pick["create"] && c.creates()) {
		return false
	}
	if c.name == "kill" && int(int32(c.args[1])) == 0 {
		return false // a question
	}
	if len(t.under) == 0 || c.path == "" {
		return true
	}
	return slices.ContainsFunc(t.under, func(dir string) bool {
		return c.path == dir || strings.HasPrefix(c.path, dir+string(filepath.Separator))
	})
}

func (t *tracer) begin(tid int, c call) *within {
	w := &within{call: c, picked: t.picked(c)}
	if !w.picked || t.child || !t.active() {
		w.picked = false
		return w
	}
	if c.name == "wait4" {
		return w // what it reaps is known at its end
	}
	t.count++
	w.index = t.count
	if w.index == t.kill && !t.after {
		t.murder("before", c)
	}
	if t.fail != 0 && t.count >= t.from && t.count <= t.to && t.count%t.every == 0 {
		var regs syscall.PtraceRegs
		if syscall.PtraceGetRegs(tid, &regs) == nil {
			regs.Orig_rax = ^uint64(0) // no call at all
			w.failed = syscall.PtraceSetRegs(tid, &regs) == nil
		}
		if w.failed {
			if t.failed++; t.failed <= 20 {
				t.say("failed %s", c.words())
			}
		}
	}
	return w
}

func (t *tracer) end(tid int, w *within, result int64) {
	if w.name == "clock" && t.active() {
		t.setClock(tid, w.args[1])
	}
	if w.failed {
		var regs syscall.PtraceRegs
		if syscall.PtraceGetRegs(tid, &regs) == nil {
			regs.Rax = uint64(-int64(t.fail))
			syscall.PtraceSetRegs(tid, &regs)
		}
	}
	if !w.picked || !t.active() {
		return
	}
	if w.name == "wait4" {
		if result <= 0 {
			return
		}
		t.count++
		if t.count == t.kill {
			t.murder("after", w.call)
		}
		return
	}
	if w.index == t.kill && t.after {
		t.murder("after", w.call)
	}
}

// step is called with what a child does before it is a program of its own.
func (t *tracer) step(tid int, what string) (held bool) {
	if !t.child || !t.active() {
		return false
	}
	t.count++
	if t.count != t.kill {
		return false
	}
	t.murder("with a child", call{name: what})
	if t.hold && what == "about to execute" {
		t.holding[tid] = struct{}{}
		t.say("held %d", tid)
		return true
	}
	return false
}

func (t *tracer) murder(when string, c call) {
	t.say("killed %d %s %s", t.count, when, c.words())
	unix.Kill(t.pid, unix.SIGKILL)
}

// release lets the children go that were held.
func (t *tracer) release() {
	for tid := range t.holding {
		delete(t.holding, tid)
		syscall.PtraceSyscall(tid, 0)
	}
}
