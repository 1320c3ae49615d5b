// Package program tells whether a file can be run as a service, and if not,
// why. It looks; it does not run anything. The scanner asks it about entries
// of the service directory, the reaper for the reason behind an errno of
// execve(2), runsyssv about its argument.
package program

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

// head is how much of a script the kernel reads for its first line
// (BINPRM_BUF_SIZE in Linux).
const head = 256

// Check returns why the file at path cannot be run as a service, or nil. The
// error's text is made to stand behind the service's name.
func Check(path string) error { return make(Folders).Check(path) }

// Folders remembers what was seen of folders, for whoever checks many files one
// after another. It is thrown away after that.
type Folders map[string]folder

// folder is what was seen of one.
type folder struct {
	mode uint32
	err  error
}

// Check is the function Check.
func (f Folders) Check(path string) error {
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); err {
	case nil:
	case unix.ELOOP:
		return errors.New("its links lead in a circle")
	case unix.ENOENT:
		if target, linkErr := os.Readlink(path); linkErr == nil {
			return fmt.Errorf("link to %q, which does not exist", target)
		}
		return errors.New("no such file")
	default:
		return err
	}
	return f.CheckFile(path, &st)
}

// CheckFile is Check for whoever has just asked stat(2) about the path, and this
// is what it said.
func (f Folders) CheckFile(path string, st *unix.Stat_t) error {
	switch mode := uint32(st.Mode); {
	case mode&unix.S_IFMT == unix.S_IFDIR:
		return errors.New("a directory, not a file")
	case mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("not a regular file")
	case mode&0o111 == 0:
		return errors.New("not executable (chmod +x it)")
	}
	// faccessat(2) knows what mode bits do not: mounts with noexec.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("not executable: %w", err)
	}
	if os.Geteuid() == 0 {
		if uint32(st.Mode)&writable != 0 {
			return errors.New("writable by everyone (chmod o-w it)")
		}
		if err := f.trusted(path); err != nil {
			return err
		}
	}
	return content(path)
}

// reason strips the operation and the path from an error of package os: the
// service's name says it already.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// writable is the mode bit of what everybody may write to.
const writable = 0o002

// trusted refuses what any user of the machine could have put in the place of
// the file, or of one of the links that lead to it: root would run it.
func (f Folders) trusted(path string) error {
	for range maxLinks {
		// Not cleaned: what is behind a ".." is for the kernel to say.
		dir := path[:strings.LastIndexByte(path, '/')+1]
		if dir == "" {
			dir = "./"
		}
		seen, ok := f[dir]
		if !ok {
			var st unix.Stat_t
			seen.err = unix.Stat(dir, &st)
			seen.mode = uint32(st.Mode)
			f[dir] = seen
		}
		if seen.err != nil {
			return seen.err
		}
		if seen.mode&writable != 0 && seen.mode&unix.S_ISVTX == 0 {
			return fmt.Errorf("in a folder writable by everyone (chmod o-w %s)", filepath.Clean(dir))
		}
		var name [unix.PathMax]byte
		n, err := unix.Readlink(path, name[:])
		if err != nil {
			return nil // it is the file itself
		}
		target := string(name[:n])
		if !filepath.IsAbs(target) {
			target = dir + target
		}
		path = target
	}
	return nil
}

// maxLinks is how many links stat(2) follows (path_resolution(7)).
const maxLinks = 40

// content looks at the first bytes: an empty file, a script whose
// interpreter is not there, and what is neither script nor program.
func content(path string) error {
	first, err := read(path)
	if err != nil {
		// A program may be executable and not readable: then execve decides.
		return nil
	}
	if len(first) == 0 {
		return errors.New("an empty file")
	}
	if line, ok := bytes.CutPrefix(first, []byte("#!")); ok {
		return interpreter(line)
	}
	return nil
}

// Script tells whether a file that execve(2) answers with ENOEXEC is a script
// without #!, to be run by /bin/sh, rather than a program of another machine
// or garbage: its first line has no NUL byte, the test that shells use.
func Script(path string) bool {
	first, err := read(path)
	if err != nil || len(first) == 0 {
		return false
	}
	line, _, _ := bytes.Cut(first, []byte("\n"))
	return bytes.IndexByte(line, 0) < 0 && !bytes.HasPrefix(line, []byte("\x7fELF"))
}

func read(path string) ([]byte, error) {
	// O_NONBLOCK: the file may have become a FIFO since it was looked at.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, head)
	for {
		// What is shorter than that is read whole by one read(2).
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return buf[:max(n, 0)], err
		}
	}
}

// interpreter checks the program that the rest of a #! line names.
func interpreter(line []byte) error {
	line, _, _ = bytes.Cut(line, []byte("\n"))
	words := strings.TrimLeft(string(line), " \t")
	path, _, _ := strings.Cut(words, " ")
	path, _, _ = strings.Cut(path, "\t")
	if path == "" {
		return errors.New("#! without an interpreter")
	}
	hint := ""
	if strings.HasSuffix(path, "\r") {
		hint = " (the file has DOS line ends)"
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("interpreter %q: %w%s", path, reason(err), hint)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("interpreter %q: not an executable file", path)
	}
	return nil
}
