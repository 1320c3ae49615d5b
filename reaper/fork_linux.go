//go:build amd64 || arm64

package reaper

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Here a child is made by clone3(2) with CLONE_VM and CLONE_VFORK: it has our
// memory, and the thread that makes it waits until it has executed or ended.
// What it has to do before that is a list of system calls, made ready by the
// parent and gone through in assembly: no Go runs in the child, so the runtime
// need not know of it, and takes the thread for one that is in a system call.
// Compared to syscall.ForkExec there is no pipe, no handler to be reset, no
// lock, and no processor that is kept: several are made at a time, and one that
// hangs in execve(2) costs a thread and nothing else.

// forksAtATime: two or three keep two processors busy, and one more is there
// when they wait for each other.
const forksAtATime = 4

// keepsProcessor says that a fork keeps its processor of the runtime until the
// child has executed, also if it hangs.
const keepsProcessor = false

// Enough is how many processors of the runtime a program needs that has a
// Reaper: one more than it can use at a time, because a goroutine that waits in
// the kernel, as the one that reaps, keeps its own for a while; and not as many
// as a large machine has, because each costs memory.
func Enough() int { return max(3, min(runtime.NumCPU(), forksAtATime)+1) }

// call is a system call of the child, and what it failed with.
type call struct{ number, a, b, c, d, errno uintptr }

// launch is everything that a child needs until it has executed.
type launch struct {
	plain      bool
	clone      cloneArgs
	none       sigset // the child's mask
	before     sigset // the thread's
	limit      unix.Rlimit
	path       *byte
	argv, envv []*byte
	calls      []call
}

// cloneArgs is struct clone_args of clone3(2), as it was at first.
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls uint64
}

// sigset is the kernel's sigset_t.
type sigset uint64

// execute is fork(2) and execve(2). With a pid and an error it is that of a
// child that could not execute, and has ended or is about to.
func (r *Reaper) execute(path string, argv []string, command Command) (pid int, err error) {
	l := &launch{plain: plain.Load()}
	if l.path, err = syscall.BytePtrFromString(path); err != nil {
		return 0, err
	}
	if l.argv, err = syscall.SlicePtrFromStrings(argv); err != nil {
		return 0, err
	}
	if l.envv, err = syscall.SlicePtrFromStrings(command.Env); err != nil {
		return 0, err
	}
	l.calls = make([]call, 0, 8)
	if l.plain {
		l.calls = make([]call, 0, 80)
		for sig := uintptr(1); sig <= 64; sig++ {
			if sig != uintptr(unix.SIGKILL) && sig != uintptr(unix.SIGSTOP) {
				l.add(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&defaultAction)), 0, unsafe.Sizeof(l.none))
			}
		}
	}
	l.add(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&l.none)), 0, unsafe.Sizeof(l.none))
	l.add(unix.SYS_SETSID, 0, 0, 0, 0)
	l.add(unix.SYS_DUP3, r.null.Fd(), 0, 0, 0)
	if command.Mute {
		l.add(unix.SYS_DUP3, r.null.Fd(), 1, 0, 0)
		l.add(unix.SYS_DUP3, r.null.Fd(), 2, 0, 0)
	}
	// After dup3(2), which obeys it.
	var raised bool
	if l.limit, raised = files().lowered(); raised {
		l.add(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&l.limit)), 0)
	}
	// It keeps its copies of all our descriptors until it has executed: should it
	// hang, our locks are what keeps the next daemon from starting it once more.
	l.add(unix.SYS_EXECVE, uintptr(unsafe.Pointer(l.path)), uintptr(unsafe.Pointer(&l.argv[0])), uintptr(unsafe.Pointer(&l.envv[0])), 0)
	if pid = l.run(); pid < 0 {
		errno := syscall.Errno(-pid)
		if !l.plain && (errno == unix.ENOSYS || errno == unix.EINVAL || errno == unix.EPERM) {
			plain.Store(true)
			return r.execute(path, argv, command)
		}
		return 0, errno
	}
	for _, c := range l.calls {
		if c.errno != 0 {
			return pid, syscall.Errno(c.errno)
		}
	}
	return pid, nil
}

// add adds a call. What its arguments point to has to be kept: see run.
func (l *launch) add(number, a, b, c, d uintptr) {
	l.calls = append(l.calls, call{number: number, a: a, b: b, c: c, d: d})
}

// plain says that clone3(2) is not to be had: before Linux 5.5, or where a
// filter of system calls forbids it.
var plain atomic.Bool

// defaultAction is a struct sigaction of the kernel's that stands for SIG_DFL.
var defaultAction [4]uint64

// run makes the child and returns its number, or a negative errno.
func (l *launch) run() (pid int) {
	// Everything that the calls point to is in it, and on the heap, as all that
	// is passed to assembly: a stack may move while the calls are made ready.
	defer runtime.KeepAlive(l)
	const flags = unix.CLONE_VM | unix.CLONE_VFORK
	if l.plain {
		return vforkAway(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, l)
	}
	l.clone.flags, l.clone.exitSignal = flags|unix.CLONE_CLEAR_SIGHAND, uint64(unix.SIGCHLD)
	return vforkAway(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&l.clone)), unsafe.Sizeof(l.clone), l)
}

// vforkAway is vfork in what the runtime takes for a system call, with all
// signals blocked. The kernel gives a signal for the process to any thread that
// does not block it, the first one before others, and this one could not take it
// before the child has executed: if that hung, nobody would hear of the signal.
// Nor must the child be sent to a handler of ours while it has them.
//
//go:nosplit
//go:norace
func vforkAway(number, a, b uintptr, l *launch) (pid int) {
	entersyscall()
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&every)), uintptr(unsafe.Pointer(&l.before)), unsafe.Sizeof(every), 0, 0)
	pid = vfork(number, a, b, l)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&l.before)), 0, unsafe.Sizeof(every), 0, 0)
	exitsyscall()
	return pid
}

// every is all signals.
var every = ^sigset(0)

// vfork makes a child by the system call of this number, clone(2) or clone3(2),
// with these arguments, and lets it make its calls until one fails. It returns
// when the child has executed or ended: its number, or a negative errno.
func vfork(number, a, b uintptr, l *launch) (pid int)

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// openFiles is the limit of open files: what we were given, and what the Go
// runtime has made of it for us.
type openFiles struct{ given, ours unix.Rlimit }

// files finds out. The runtime does not say what it was; but before it executes
// another program it sets the limit back, and leaves it there if that fails. It
// is found out by New: later somebody may have set another (prlimit(1)), and there
// may be more descriptors in use than that.
var files = sync.OnceValue(func() (f openFiles) {
	unix.Getrlimit(unix.RLIMIT_NOFILE, &f.ours)
	syscall.Exec("", nil, nil)
	unix.Getrlimit(unix.RLIMIT_NOFILE, &f.given)
	f.raise()
	return f
})

// raise makes our limit again what the runtime had made it.
func (f openFiles) raise() { unix.Setrlimit(unix.RLIMIT_NOFILE, &f.ours) }

// lowered is the limit that a service is to have, if it is not ours: that which
// we were given, unless somebody has set ours meanwhile (prlimit(1)).
func (f openFiles) lowered() (limit unix.Rlimit, ok bool) {
	var now unix.Rlimit
	if f.given == f.ours || unix.Getrlimit(unix.RLIMIT_NOFILE, &now) != nil || now != f.ours {
		return limit, false
	}
	return f.given, true
}

// replace is execve(2) with the limit of open files that we were given.
func replace(path string, argv, env []string) error {
	if limit, raised := files().lowered(); raised {
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		defer files().raise()
	}
	return syscall.Exec(path, argv, env)
}

// learnLimits is called by New, before anything else is under way.
func learnLimits() { files() }
