package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUntrusted is wrapped by the reason why a run directory cannot be used:
// somebody else could have put something there, or may yet.
var ErrUntrusted = errors.New("not safe as a run directory")

// others is what a directory's mode must not allow.
const others = 0o022

// trusted checks the open directory d, of this path, and what leads to it: it
// belongs to us and nobody else may write to it, and nobody may replace it or
// one of its parents.
func (d *Dir) trusted() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", d.path, ErrUntrusted, fmt.Sprintf(format, args...))
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: d.path, Err: err}
	}
	switch me := os.Geteuid(); {
	case int(st.Uid) != me:
		return refuse("it belongs to user %d, and sysmgr runs as user %d; remove it or choose another", st.Uid, me)
	case st.Mode&others != 0:
		return refuse("others may write to it (chmod go-w it)")
	}
	path, err := filepath.Abs(d.path)
	if err != nil {
		return err
	}
	// Every directory and every link that leads there.
	at, ahead := "/", append([]string{"."}, strings.Split(filepath.Dir(path), "/")...)
	for links := 0; len(ahead) > 0; {
		next := filepath.Join(at, ahead[0]) // there are no links in at
		ahead = ahead[1:]
		if err := unix.Lstat(next, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: next, Err: err}
		}
		safe := int(st.Uid) == os.Geteuid() || st.Uid == 0 || int(st.Uid) == nobody()
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := os.Readlink(next)
			switch links++; {
			case err != nil:
				return err
			case links > maxLinks:
				return &fs.PathError{Op: "follow", Path: next, Err: unix.ELOOP}
			case !safe:
				return refuse("the link %s on the way to it belongs to user %d, who may replace it", next, st.Uid)
			case filepath.IsAbs(target):
				at = "/"
			}
			ahead = append(strings.Split(target, "/"), ahead...)
			continue
		}
		if !safe {
			return refuse("its parent %s belongs to user %d, who may replace it", next, st.Uid)
		}
		if st.Mode&others != 0 && st.Mode&unix.S_ISVTX == 0 {
			return refuse("others may write to its parent %s (chmod go-w that)", next)
		}
		at = next
	}
	return nil
}

// maxLinks is how many links the kernel follows (path_resolution(7)).
const maxLinks = 40

// nobody is the user that owns what root of the machine owns, where that one
// is not mapped (user_namespaces(7)); -1 where everybody is.
func nobody() int {
	all, err := os.ReadFile("/proc/self/uid_map")
	if fields := bytes.Fields(all); err != nil || len(fields) == 3 && string(fields[2]) == "4294967295" {
		return -1
	}
	return 65534
}
