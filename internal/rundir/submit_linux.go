package rundir

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// linkNew makes a file without a name (O_TMPFILE of open(2), Linux 3.11) and
// gives it its name when it is complete. It is false if it could not: the name
// is taken, or the file system has no such files, or there is no /proc.
func (f *Folder) linkNew(name string, data []byte) bool {
	fd, err := unix.Openat(f.fd, ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, public)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if f.umask.set(fd, public) != nil {
		return false
	}
	if n, err := unix.Write(fd, data); err != nil || n < len(data) {
		return false
	}
	return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), f.fd, name, unix.AT_SYMLINK_FOLLOW) == nil
}
