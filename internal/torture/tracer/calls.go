//go:build linux && amd64

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shape says which arguments of a call name the file that it is about.
type shape uint8

const (
	nothing shape = iota // about no file
	byFd                 // fd
	byAt                 // dirfd, path
	byAt1                // -, dirfd, path
	byAt2                // -, -, dirfd, path: the new name of two
	byPath1              // -, path
)

// known is a system call that can be picked.
type known struct {
	name  string
	shape shape
}

var calls = map[uint64]known{
	unix.SYS_OPENAT:            {"openat", byAt},
	unix.SYS_MKDIRAT:           {"mkdirat", byAt},
	unix.SYS_UNLINKAT:          {"unlinkat", byAt},
	unix.SYS_RENAMEAT:          {"renameat", byAt2},
	unix.SYS_RENAMEAT2:         {"renameat", byAt2},
	unix.SYS_LINKAT:            {"linkat", byAt2},
	unix.SYS_SYMLINKAT:         {"symlinkat", byAt1},
	unix.SYS_FCHMODAT:          {"fchmodat", byAt},
	unix.SYS_FCHMOD:            {"fchmod", byFd},
	unix.SYS_FCHOWN:            {"fchown", byFd},
	unix.SYS_FLOCK:             {"flock", byFd},
	unix.SYS_FTRUNCATE:         {"ftruncate", byFd},
	unix.SYS_FSYNC:             {"fsync", byFd},
	unix.SYS_WRITE:             {"write", byFd},
	unix.SYS_PWRITE64:          {"write", byFd},
	unix.SYS_READ:              {"read", byFd},
	unix.SYS_FSTAT:             {"fstat", byFd},
	unix.SYS_NEWFSTATAT:        {"fstatat", byAt},
	unix.SYS_GETDENTS64:        {"getdents", byFd},
	unix.SYS_INOTIFY_ADD_WATCH: {"inotify_add_watch", byPath1},
	unix.SYS_INOTIFY_INIT1:     {"inotify_init", nothing},
	unix.SYS_PIPE2:             {"pipe", nothing},
	unix.SYS_PIDFD_OPEN:        {"pidfd_open", nothing},
	unix.SYS_PIDFD_SEND_SIGNAL: {"pidfd_send_signal", nothing},
	unix.SYS_KILL:              {"kill", nothing},
	unix.SYS_WAIT4:             {"wait4", nothing},
	unix.SYS_FORK:              {"fork", nothing},
	unix.SYS_VFORK:             {"fork", nothing},
	unix.SYS_CLONE:             {"fork", nothing},
	unix.SYS_CLONE3:            {"fork", nothing},
	unix.SYS_EXECVE:            {"execve", nothing},
}

// mutating are the calls after or before which the world differs. "create" is
// an openat that may make or change a file.
var mutating = []string{
	"create", "mkdirat", "unlinkat", "renameat", "linkat", "symlinkat", "fchmodat", "fchmod", "fchown",
	"flock", "ftruncate", "write", "fork", "kill", "pidfd_send_signal", "execve", "wait4",
}

// call is one system call that a thread is about to make, or has made.
type call struct {
	name string
	path string // of the file it is about, if it is about one
	args [6]uint64
}

// words describe the call in reports.
func (c call) words() string {
	if c.path == "" {
		return c.name
	}
	return c.name + " " + c.path
}

// read finds out what call it is; false: none that can be picked. fresh tells
// that a program is asked for by a process that has none of its own yet.
func read(tgid, tid int, number uint64, args [6]uint64) (call, bool) {
	k, ok := calls[number]
	if !ok {
		return call{}, false
	}
	c := call{name: k.name, args: args}
	switch k.shape {
	case byFd:
		c.path = descriptor(tgid, args[0])
	case byAt:
		c.path = at(tgid, args[0], args[1])
	case byAt1:
		c.path = at(tgid, args[1], args[2])
	case byAt2:
		c.path = at(tgid, args[2], args[3])
	case byPath1:
		c.path = text(tid, args[1])
	}
	switch number {
	case unix.SYS_CLONE:
		if args[0]&unix.CLONE_THREAD != 0 {
			return c, false
		}
	case unix.SYS_CLONE3:
		flags, ok := word(tid, args[0])
		if !ok || flags&unix.CLONE_THREAD != 0 {
			return c, false
		}
	}
	return c, true
}

// creates tells whether an openat may change anything.
func (c call) creates() bool {
	const changes = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC
	return c.name == "openat" && c.args[2]&changes != 0
}

func descriptor(tgid int, fd uint64) string {
	path, _ := os.Readlink("/proc/" + strconv.Itoa(tgid) + "/fd/" + strconv.Itoa(int(int32(fd))))
	return path
}

// at is the path that a dirfd and a name stand for.
func at(tgid int, dirfd, address uint64) string {
	name := text(tgid, address)
	if filepath.IsAbs(name) {
		return name
	}
	dir := ""
	if int32(dirfd) == unix.AT_FDCWD {
		dir, _ = os.Readlink("/proc/" + strconv.Itoa(tgid) + "/cwd")
	} else {
		dir = descriptor(tgid, dirfd)
	}
	return strings.TrimSuffix(dir+"/"+name, "/")
}

// memory reads from a process, perhaps less than was asked for.
func memory(pid int, address uint64, size int) []byte {
	buf := make([]byte, size)
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(size)
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: size}}, 0)
	if err != nil || n < 0 {
		return nil
	}
	return buf[:n]
}

func text(pid int, address uint64) string {
	// Not over the end of a page: the next may not be there.
	var out []byte
	for len(out) < unix.PathMax {
		size := 256 - int(address%256)
		part := memory(pid, address, size)
		if len(part) == 0 {
			break
		}
		if end := strings.IndexByte(string(part), 0); end >= 0 {
			return string(append(out, part[:end]...))
		}
		out = append(out, part...)
		address += uint64(len(part))
	}
	return string(out)
}

func word(pid int, address uint64) (uint64, bool) {
	b := memory(pid, address, 8)
	if len(b) < 8 {
		return 0, false
	}
	var w uint64
	for i := range 8 {
		w |= uint64(b[i]) << (8 * i)
	}
	return w, true
}
