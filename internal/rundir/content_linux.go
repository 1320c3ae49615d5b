package rundir

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Content lists the folder. A folder with more files than services have is not
// read to its end, and one that was just made not at all.
func (f *Folder) Content() (c Content) {
	if f.made {
		f.made = false
		return 0
	}
	// On the stack, and those of many actors grow at the same time: a quarter
	// of this would do for what a service has.
	var buf [1024]byte
	if f.listed {
		unix.Seek(f.fd, 0, unix.SEEK_SET)
	}
	f.listed = true
	for range 5 {
		n, err := unix.Getdents(f.fd, buf[:])
		if err != nil {
			return Everything
		}
		if n == 0 {
			return c
		}
		// getdents64(2): number, offset, length of the entry, type, name.
		for entries := buf[:n]; len(entries) > 19; {
			size := int(binary.NativeEndian.Uint16(entries[16:]))
			if size < 19 || size > len(entries) {
				return Everything
			}
			name := entries[19:size]
			if end := bytes.IndexByte(name, 0); end >= 0 {
				name = name[:end]
			}
			if s := string(name); s != "." && s != ".." {
				c = c.with(name)
			}
			entries = entries[size:]
		}
	}
	return Everything
}

// renameNew renames a file unless the new name is taken (RENAME_NOREPLACE of
// renameat2(2), Linux 3.15). ok is false where that cannot be had.
func renameNew(dir int, from, to string) (err error, ok bool) {
	err = unix.Renameat2(dir, from, dir, to, unix.RENAME_NOREPLACE)
	return err, err != unix.ENOSYS && err != unix.EINVAL && err != unix.EPERM
}
