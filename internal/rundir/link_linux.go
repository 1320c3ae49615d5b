package rundir

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// linkNew makes a file without a name (O_TMPFILE of open(2), Linux 3.11) and
// gives it its name when it is complete. ok is false where that cannot be done:
// the file system has no such files, or no room, or there is no /proc.
func (f *Folder) linkNew(name string, data []byte) (err error, ok bool) {
	fd, err := unix.Openat(f.fd, ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, public)
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd)
	if f.umask.set(fd, public) != nil {
		return nil, false
	}
	if n, err := unix.Write(fd, data); err != nil || n < len(data) {
		return nil, false
	}
	err = unix.Linkat(fd, "", f.fd, name, unix.AT_EMPTY_PATH)
	if err == unix.ENOENT { // it takes a privilege, before Linux 6.10
		err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), f.fd, name, unix.AT_SYMLINK_FOLLOW)
	}
	return err, err == nil || err == unix.EEXIST
}
