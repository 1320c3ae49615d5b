package reaper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes us the parent of every orphan among our descendants
// (PR_SET_CHILD_SUBREAPER, prctl(2)).
func adoptOrphans() bool {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil
}

// closeOnExec keeps descriptors that we were started with from our services.
func closeOnExec() {
	// ENOSYS before Linux 5.9 and EINVAL before 5.11; then go through the table,
	// as elsewhere.
	if unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) != nil {
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
				unix.CloseOnExec(fd)
			}
		}
	}
}

// resetIgnored sets every signal that is still ignored to its default, by
// rt_sigaction(2), whose structure begins with the handler. Those that the Go
// runtime handles are not ignored any more; but it takes no notice of CONT and
// of those that a C library keeps for itself (SIGCANCEL, SIGSETXID: nptl(7)),
// which posix_spawn(3) of glibc leaves ignored in what it starts, as make is.
func resetIgnored() {
	const ignored = 1
	size := uintptr(8) // of the kernel's signal set
	for sig := uintptr(1); sig <= 64; sig++ {
		var now, none [8]uintptr
		_, _, err := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)), size, 0, 0)
		if err == 0 && now[0] == ignored {
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&none)), 0, size, 0, 0)
		}
	}
}

// awaitEnd blocks until a child has ended, and leaves it to be reaped (WNOWAIT
// of waitid(2)): a child must not be reaped but under mu. It is false if there
// is no child to wait for.
func awaitEnd() (pid int, ok bool) {
	// siginfo_t, as far as it is of interest (sigaction(2)): the number of the
	// child is the first member of the union, which begins at a whole word.
	const word = unsafe.Sizeof(uintptr(0))
	const number = (12 + word - 1) / word * word
	var info unix.Siginfo
	for {
		switch err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil); err {
		case nil:
			return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), number))), true
		case unix.EINTR:
		default:
			return 0, false
		}
	}
}

// deafen keeps the ends of children from being told by SIGCHLD too, until hear
// is called: a signal that has a handler wakes a thread to run it, and the
// runtime's are there for good. One whose default is to be ignored does not.
func deafen() (hear func()) {
	const size = 8 // bytes of the kernel's signal set
	set := func(new, old *[8]uintptr) {
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(new)), uintptr(unsafe.Pointer(old)), size, 0, 0)
	}
	handler.Lock()
	defer handler.Unlock()
	var none, before [8]uintptr
	set(&none, &before)
	if before != none { // or it is deaf already, for a reaper that has not quite ended
		handler.runtimes = before
	}
	return func() {
		handler.Lock()
		defer handler.Unlock()
		set(&handler.runtimes, nil)
	}
}

// handler is what the runtime has set for SIGCHLD.
var handler struct {
	sync.Mutex
	runtimes [8]uintptr
}

// stat is what /proc/<pid>/stat says of a process, as far as it is of use.
type stat struct {
	pid     int
	state   byte // Z is a zombie, if there are no other threads
	parent  int
	group   int
	session int
	threads int
	start   ticks
	exit    syscall.WaitStatus // of a zombie
}

// dead tells whether a process has ended and is merely not reaped. One whose
// first thread has ended says Z too, and runs on in the others, with all its
// files.
func (s stat) dead() bool { return (s.state == 'Z' || s.state == 'X') && s.threads <= 1 }

// readStat reads /proc/<pid>/stat (proc_pid_stat(5)). The name of the program
// may hold anything, so the fields are counted from the last parenthesis. A
// process that is not there is fs.ErrNotExist, or ESRCH if it just went.
func readStat(pid string) (stat, error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return stat{}, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	// The numbers of the manual page; the state is 3.
	number := func(field int) int64 {
		if field-3 >= len(fields) {
			err = fmt.Errorf("/proc/%s/stat: %w", pid, unix.EBADMSG)
			return 0
		}
		n, bad := strconv.ParseInt(string(fields[field-3]), 10, 64)
		if bad != nil {
			err = bad
		}
		return n
	}
	s := stat{
		parent:  int(number(4)),
		group:   int(number(5)),
		session: int(number(6)),
		threads: int(number(20)),
		start:   ticks(number(22)),
	}
	if err != nil {
		return stat{}, err
	}
	s.state = fields[0][0]
	s.pid, _ = strconv.Atoi(pid)
	s.exit = syscall.WaitStatus(number(52)) // Linux 3.5; 0 for whom it is none of his business
	return s, nil
}

// onlyZombies tells whether every member of a group, whose main process had
// ended at a moment, is dead and merely not reaped. It reads the whole process
// table: only for what KILL did not end.
func (r *Reaper) onlyZombies(group int, since time.Time) bool {
	return !r.table(since).alive(group)
}

// orphanDelay is how long after the end of a main process the reaper looks
// for what left its group: once for all that end together.
const orphanDelay = time.Second

// orphans remembers which escaped processes have been told of.
type orphans map[int]struct{}

// findEscaped reports children that are in no service's group: processes that
// left theirs and came to us when it ended. Kernels without
// CONFIG_PROC_CHILDREN do not tell who they are: then nothing is reported. It
// tells whether it could look: not while a child is being started, which looks
// like a stranger.
func (r *Reaper) findEscaped() bool {
	if !r.sub {
		return true
	}
	pids := ownChildren() // without mu: with very many that takes its time
	r.mu.Lock()
	if r.forking > 0 {
		r.mu.Unlock()
		return false
	}
	strangers := slices.DeleteFunc(pids, func(pid int) bool { _, ours := r.main[int32(pid)]; return ours })
	var groups map[int]bool
	if len(strangers) > 0 {
		groups = make(map[int]bool, len(r.main)+len(r.draining))
		for group := range r.main {
			groups[int(group)] = true
		}
		for group := range r.draining {
			groups[group] = true
		}
	}
	r.mu.Unlock()

	seen := make(orphans, len(strangers))
	self := os.Getpid()
	for _, pid := range strangers {
		s, err := readStat(strconv.Itoa(pid))
		if err != nil || s.dead() || s.parent != self || groups[s.group] {
			continue // one that has been reaped since, and another has its number, is no child of ours
		}
		seen[pid] = struct{}{}
		if _, told := r.orphans[pid]; !told {
			r.report(Escaped{Pid: pid, Service: serviceOf(pid)})
		}
	}
	r.orphans = seen
	return true
}

// ownChildren lists our children (proc_tid_children(5)). One that is just being
// reaped, or begun, may be among them or not.
func ownChildren() (pids []int) {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for field := range bytes.FieldsSeq(data) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// serviceOf is the name of the service that a process came from, as its
// environment tells, or empty.
func serviceOf(pid int) string {
	env, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if name, ok := bytes.CutPrefix(entry, []byte("SYSMGR_NAME=")); ok {
			return string(name)
		}
	}
	return ""
}
