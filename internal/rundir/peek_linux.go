package rundir

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// peek reads the beginning of a file in a folder of a directory, without following
// a link in either (openat2(2), Linux 5.6). A regular file that is shorter than
// buf is read whole by one read(2). ok is false where the kernel does not have
// the call or is told not to give it.
//
// The runtime does not know that these calls are any. It would take the processor
// from one that lasts for 20 µs and give it back afterwards, each time with a
// futex(2) and a nanosleep(2) of its own. What they cost others as long as they
// last, that share the processor or want to collect garbage, is nothing to a tool
// that does nothing else; and one that meets a dead file system would hang anyway.
func peek(dir int, name, file string, buf []byte) (n int, err error, ok bool) {
	var path [unix.NAME_MAX + 64]byte // ends in NUL: a name is no longer than NAME_MAX
	if copy(path[copy(path[:], name):], "/"+file) != len(file)+1 || len(name)+1+len(file) >= len(path) {
		return 0, unix.ENAMETOOLONG, true
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	}
	fd, errno := again(func() (uintptr, unix.Errno) {
		fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT2, uintptr(dir), uintptr(unsafe.Pointer(&path)),
			uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		return fd, errno
	})
	switch errno {
	case 0:
	case unix.ENOSYS, unix.EPERM, unix.EAGAIN:
		return 0, errno, false
	default:
		return 0, errno, true
	}
	size, errno := again(func() (uintptr, unix.Errno) {
		size, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		return size, errno
	})
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	if errno != 0 {
		return 0, errno, true
	}
	return int(size), nil, true
}

// again makes a system call until no signal interrupts it.
func again(call func() (uintptr, unix.Errno)) (value uintptr, errno unix.Errno) {
	for {
		if value, errno = call(); errno != unix.EINTR {
			return value, errno
		}
	}
}
