package watch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What is heard of each directory on a way, and of each link or file. There is
// nothing of entries in it: a way through a busy /tmp costs nothing. What is not
// a directory may be removed while somebody has it open, or be one of many hard
// links: then all that is told of is its link count.
const (
	wayMask  = unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_DONT_FOLLOW | unix.IN_MASK_ADD
	leafMask = wayMask | unix.IN_ATTRIB
)

// maxLinks is how many links the kernel follows (path_resolution(7)).
const maxLinks = 40

// local is the file systems of which nobody can change anything without our
// kernel (statfs(2)). Of all others, as NFS, FUSE or 9p, nothing is known.
var local = []uint32{
	unix.BCACHEFS_SUPER_MAGIC,
	unix.BTRFS_SUPER_MAGIC,
	unix.EROFS_SUPER_MAGIC_V1,
	unix.EXT4_SUPER_MAGIC, // and ext2, ext3
	unix.F2FS_SUPER_MAGIC,
	unix.ISOFS_SUPER_MAGIC,
	unix.OVERLAYFS_SUPER_MAGIC,
	unix.RAMFS_MAGIC,
	unix.SQUASHFS_MAGIC,
	unix.TMPFS_MAGIC,
	unix.XFS_SUPER_MAGIC,
	0x2fc12fc1, // zfs
}

// Lay watches the ways to paths, which are absolute, in place of those that it
// watched before: each component from the root on, and each link and what it
// leads through. When one is renamed, removed or replaced, or anything is mounted
// or unmounted, it rings, and News has Way; whoever hears that lays them anew,
// because they may lead elsewhere, and then looks at what is there.
//
// It tells whether all is covered: that from now on no path can lead elsewhere
// without a ring, and that nobody else's kernel has a hand in where it leads to.
// Two things the kernel does not tell of: that an empty directory is removed
// that somebody has open, but one that has something in it is emptied first; and
// that a mount point is renamed in another mount namespace.
func (w *Watcher) Lay(paths ...string) (covered bool) {
	s := &w.sys
	if s.fd < 0 {
		return false
	}
	// The reader waits: an event of a watch that is not in the table yet would
	// be lost.
	s.table.Lock()
	defer s.table.Unlock()
	before := s.way
	s.way = make(map[int32]struct{})
	covered = s.openMounts() && trusted("/")
	for _, path := range paths {
		covered = s.lay(path) && covered
	}
	for wd := range before {
		_, still := s.way[wd]
		if _, key := s.watches.key(wd); !still && !key {
			unix.InotifyRmWatch(s.fd, uint32(wd)) // EINVAL: it is gone
		}
	}
	return covered
}

// openMounts lets the reader wait for mounts too.
func (s *system) openMounts() bool {
	if s.mounts.Load() >= 0 {
		return true
	}
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	s.mounts.Store(int32(fd))
	s.wake()
	return true
}

// lay watches one way, as far as it goes, and tells whether that is to its end.
func (s *system) lay(path string) bool {
	at, ahead := "/", strings.Split(path, "/")
	for links := 0; len(ahead) > 0; {
		name := ahead[0]
		ahead = ahead[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at) // there are no links in it
			continue
		}
		next := filepath.Join(at, name)
		err := s.step(next, wayMask|unix.IN_ONLYDIR)
		if err == nil {
			if !trusted(next) {
				return false
			}
			at = next
			continue
		}
		if err != unix.ENOTDIR || s.step(next, leafMask) != nil {
			return false
		}
		target, err := os.Readlink(next) // only now: the link itself is watched
		if err != nil {
			return len(ahead) == 0 // a file
		}
		if links++; links > maxLinks {
			return false
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		ahead = append(strings.Split(target, "/"), ahead...)
	}
	return true
}

func (s *system) step(path string, mask uint32) error {
	wd, err := unix.InotifyAddWatch(s.fd, path, mask)
	if err == nil {
		s.way[int32(wd)] = struct{}{}
	}
	return err
}

// trusted tells whether a directory is on a file system that is all ours.
func trusted(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && slices.Contains(local, uint32(st.Type))
}
