package rundir

import "golang.org/x/sys/unix"

// openBeneath opens a file in a folder of a directory in one step, without
// following a link in either (openat2(2), Linux 5.6). ok is false where the
// kernel does not have it or is told not to give it.
func openBeneath(dir int, path string) (fd int, err error, ok bool) {
	fd, err = unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	return fd, err, err != unix.ENOSYS && err != unix.EPERM && err != unix.EAGAIN
}
