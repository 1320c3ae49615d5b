// Package rundir is the format of the run directory: the names of its files,
// how they are read and written, and the words in them. It exists once, for
// the daemon and the tools alike, so that what one writes the others read.
//
// It is not a place for decisions: what a state means is the business of the
// actor, what a request means is the business of control.
//
// Invariants: a file appears under its name complete or not at all; nothing
// is opened through a symbolic link, nothing blocks on a FIFO, and no more
// than MaxFile bytes are read; only names given by the caller are removed,
// never a tree.
package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The files of a service's folder, RUNDIR/<name>/. Pid is also the name of
// the daemon's own file in RUNDIR itself.
const (
	Pid         = "pid"          // the main process, while it runs
	Syspid      = "syspid"       // the process to signal to stop it
	Lock        = "lock"         // there while the service is held
	State       = "status"       // what the daemon knows, as key-value lines
	Control     = "control"      // a request, until the daemon takes it
	Taken       = ".control"     // a request the daemon has taken and is reading
	GuardFile   = ".guard"       // flock held by whoever starts the service
	Ready       = "ready"        // written by the service: it is ready
	StopSignal  = "stop-signal"  // written by the service: a signal's name
	StopTimeout = "stop-timeout" // written by the service: seconds, 0 = never KILL
	Waiting     = "waiting"      // written by sysmgr-depends: whom it waits for
	Needs       = "needs"        // written by sysmgr-depends: whom it waited for
)

// fresh begins the name of a file that is still being written.
const fresh = ".new."

// MaxFile is how many bytes of a file are read at most; a longer one is an
// error. The longest honest file is a status with a long cause.
const MaxFile = 16 << 10

// ErrIrregular says that there is something under the name, but no regular
// file of bounded size: a directory, a FIFO, a link, a gigabyte.
var ErrIrregular = errors.New("not a regular file of reasonable size")

// Dir is an open run directory. Everything in it is reached through its
// descriptor. Its methods may be called from any goroutine.
type Dir struct {
	file  *os.File
	path  string
	umask umask // what the program's umask does
	left  bool  // the lock of another daemon was there when ours was taken
}

// Create opens the run directory at path, making it and its parents first
// where they are missing. The daemon and runsyssv call it at their start. One
// that others could have tampered with is ErrUntrusted. Errors name the path.
func Create(path string) (*Dir, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	made := false
	switch err := os.Mkdir(path, 0o755); {
	case err == nil:
		made = true
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%s: %w: it is a symbolic link; name the directory itself", path, ErrUntrusted)
		}
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := &Dir{file: os.NewFile(uintptr(fd), path), path: path}
	err = d.trusted()
	if made && err == nil {
		// The umask took its part of the mode; state is for all to read. Not
		// by the path, where somebody may have put another directory.
		err = d.file.Chmod(0o755)
	}
	if err != nil {
		d.Close()
		if made {
			os.Remove(path)
		}
		return nil, err
	}
	return d, nil
}

// fd is the descriptor of the directory. Its number stays the same when the
// directory is renewed.
func (d *Dir) fd() int { return int(d.file.Fd()) }

// replaced tells whether the path leads to another directory than before, or to
// none.
func (d *Dir) replaced() (bool, error) {
	var now, before unix.Stat_t
	if err := unix.Fstat(d.fd(), &before); err != nil {
		return false, &fs.PathError{Op: "stat", Path: d.path, Err: err}
	}
	same := unix.Lstat(d.path, &now) == nil && now.Ino == before.Ino && now.Dev == before.Dev && before.Nlink > 0
	return !same, nil
}

// renew opens the directory anew, as Create does, if its path leads to another
// one than before. It tells whether that was so.
func (d *Dir) renew() (another bool, err error) {
	if another, err = d.replaced(); !another || err != nil {
		return false, err
	}
	next, err := Create(d.path)
	if err != nil {
		return true, err
	}
	defer next.Close()
	// In the place of the old one, which others are just using.
	if err := replaceDescriptor(next.fd(), d.fd()); err != nil {
		return true, &fs.PathError{Op: "dup", Path: d.path, Err: err}
	}
	return true, nil
}

// Open opens an existing run directory, as the tools do.
func Open(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{file: os.NewFile(uintptr(fd), path), path: path}, nil
}

// Path is the directory's path as it was given.
func (d *Dir) Path() string { return d.path }

// Close gives the descriptor back. No folder may be opened after it.
func (d *Dir) Close() error { return d.file.Close() }

// Names lists the folders of the run directory, in no order. Folders whose
// names cannot be services are left out.
func (d *Dir) Names() ([]string, error) {
	dir, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil && !Ignored(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Folder is the open folder of one service. It is opened for a handful of
// operations and closed again, because every descriptor that stays open makes
// each later fork dearer.
type Folder struct {
	fd     int
	path   string
	umask  *umask // of its Dir
	listed bool   // it has been read, and is read from its beginning the next time
	made   bool   // it was not there before, and has not been read yet
}

// Folder opens RUNDIR/<name>. A folder that is not there is fs.ErrNotExist.
func (d *Dir) Folder(name string) (*Folder, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return d.open(name)
}

func (d *Dir) open(name string) (*Folder, error) {
	path := filepath.Join(d.path, name)
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Folder{fd: fd, path: path, umask: &d.umask}, nil
}

// MakeFolder opens RUNDIR/<name>, making it with mode 0755 where it is
// missing. The mode of a folder that exists is left as it is: a script may
// have opened it to a group.
func (d *Dir) MakeFolder(name string) (*Folder, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return d.make(name, publicFolder)
}

func (d *Dir) make(name string, mode uint32) (*Folder, error) {
	for {
		// It is there already, as a rule.
		f, err := d.open(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		switch err := unix.Mkdirat(d.fd(), name, mode); err {
		case nil:
		case unix.EEXIST:
			continue
		default:
			return nil, &fs.PathError{Op: "mkdir", Path: filepath.Join(d.path, name), Err: err}
		}
		if f, err = d.open(name); err == nil {
			if err := d.umask.set(f.fd, mode); err != nil {
				f.Close()
				return nil, &fs.PathError{Op: "chmod", Path: f.path, Err: err}
			}
			f.made = true
		}
		return f, err
	}
}

// RemoveFolder removes RUNDIR/<name> if it is empty.
func (d *Dir) RemoveFolder(name string) error {
	err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
	if err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: filepath.Join(d.path, name), Err: err}
	}
	return nil
}

// Path is the folder's path, for messages and for watching.
func (f *Folder) Path() string { return f.path }

// Close gives the descriptor back.
func (f *Folder) Close() { unix.Close(f.fd) }

func (f *Folder) err(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: filepath.Join(f.path, name), Err: err}
}

// ours begins the names of the unfinished files of this process, and serial
// tells them apart.
var (
	ours   = fresh + strconv.Itoa(os.Getpid()) + "."
	serial atomic.Uint64
)

// write makes a complete file under a name of its own and returns that name.
func (f *Folder) write(name string, data []byte, mode uint32) (string, error) {
	tmp := ours + strconv.FormatUint(serial.Add(1), 10)
	fd, err := unix.Openat(f.fd, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return "", f.err("create", name, err)
	}
	err = f.umask.set(fd, mode)
	for len(data) > 0 && err == nil {
		var n int
		if n, err = unix.Write(fd, data); err == unix.EINTR {
			err = nil
			continue
		}
		data = data[max(n, 0):]
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err != nil {
		unix.Unlinkat(f.fd, tmp, 0)
		return "", f.err("write", name, err)
	}
	return tmp, nil
}

// umask is what the program's umask does to the modes of public files and of
// folders, as far as that is known.
type umask struct{ file, folder atomic.Int32 }

// What it does to a mode.
const (
	unknown = iota
	takesNothing
	takesSome
)

// The modes of what is for all to read.
const (
	public       = 0o644
	publicFolder = 0o755
)

// set gives what was just made with this mode the mode, of which the umask took
// its part: that must stay what the services are to inherit. A umask that takes
// nothing never will: then a system call is spared, and those who watch the
// folder an event.
func (u *umask) set(fd int, mode uint32) error {
	var does *atomic.Int32
	switch mode {
	case public:
		does = &u.file
	case publicFolder:
		does = &u.folder
	default:
		return unix.Fchmod(fd, mode)
	}
	switch does.Load() {
	case takesNothing:
		return nil
	case unknown:
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && uint32(st.Mode)&0o7777 == mode {
			does.Store(takesNothing)
			return nil
		}
		does.Store(takesSome)
	}
	return unix.Fchmod(fd, mode)
}

// Write puts data under name, replacing what was there in one step: a reader
// sees the old content or the new, never a part.
func (f *Folder) Write(name string, data []byte) error {
	tmp, err := f.write(name, data, public)
	if err != nil {
		return err
	}
	if err := unix.Renameat(f.fd, tmp, f.fd, name); err != nil {
		unix.Unlinkat(f.fd, tmp, 0)
		return f.err("rename", name, err)
	}
	return nil
}

// Replace is Write for what has to be true or not there at all: where the file
// system is full, the old content makes room for the new.
func (f *Folder) Replace(name string, data []byte) error {
	err := f.Write(name, data)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		f.Remove(name)
		err = f.Write(name, data)
	}
	return err
}

// WriteNew is Write for a name that is still free. If it is taken, nothing
// changes and the error is fs.ErrExist. Whoever watches the folder hears of the
// file when it is there and not before, where the platform can do that: the
// daemon, which does not hurry for files that are none of its business, would
// first hear of a request that is being written.
func (f *Folder) WriteNew(name string, data []byte) error {
	if err, ok := f.linkNew(name, data); ok {
		if err != nil {
			return f.err("link", name, err)
		}
		return nil
	}
	return f.moveNew(name, data)
}

// moveNew is WriteNew where linkNew cannot be had.
func (f *Folder) moveNew(name string, data []byte) error {
	tmp, err := f.write(name, data, public)
	if err != nil {
		return err
	}
	if err, ok := renameNew(f.fd, tmp, name); ok {
		if err == nil {
			return nil
		}
		unix.Unlinkat(f.fd, tmp, 0)
		return f.err("rename", name, err)
	}
	// link(2) fails on an existing name too, where rename(2) would replace it.
	err = unix.Linkat(f.fd, tmp, f.fd, name, 0)
	unix.Unlinkat(f.fd, tmp, 0)
	if err != nil {
		return f.err("link", name, err)
	}
	return nil
}

// Read returns the content of a regular file, ErrIrregular for anything else
// and fs.ErrNotExist where there is nothing.
func (f *Folder) Read(name string) ([]byte, error) {
	data, _, err := f.read(name)
	return data, err
}

// read is Read, and the stamp of what was read.
func (f *Folder) read(name string) ([]byte, Stamp, error) {
	var stamp Stamp
	fd, st, err := f.openFile(name)
	switch err {
	case nil:
	case unix.ELOOP, unix.ENXIO, unix.EMLINK, unix.EFTYPE:
		// A link (EMLINK and EFTYPE are what the BSDs say), a socket.
		return nil, stamp, f.err("read", name, ErrIrregular)
	default:
		return nil, stamp, f.err("read", name, err)
	}
	defer unix.Close(fd)
	stamp = StampOf(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > MaxFile {
		return nil, stamp, f.err("read", name, ErrIrregular)
	}
	buf := make([]byte, 0, 512)
	for len(buf) <= MaxFile {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, len(buf))...)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, stamp, f.err("read", name, err)
		}
		if n == 0 {
			return buf, stamp, nil
		}
		buf = buf[:len(buf)+n]
	}
	return nil, stamp, f.err("read", name, ErrIrregular)
}

// openFile opens what has this name. A file that lost it after it was opened
// was replaced or removed, which has changed its stamp: so it looks again, but
// not for ever.
func (f *Folder) openFile(name string) (fd int, st unix.Stat_t, err error) {
	for try := 0; ; try++ {
		fd, err = unix.Openat(f.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, st, err
		}
		if err = unix.Fstat(fd, &st); err == nil && (st.Nlink > 0 || try == 9) {
			return fd, st, nil
		}
		unix.Close(fd)
		if err != nil {
			return -1, st, err
		}
	}
}

// Has tells whether there is anything under name.
func (f *Folder) Has(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// Remove removes the files of these names, or empty directories in their
// place; one that is not there is no error. The first error is returned after
// all were tried.
func (f *Folder) Remove(names ...string) error {
	var first error
	for _, name := range names {
		err := unix.Unlinkat(f.fd, name, 0)
		if err == unix.EISDIR || err == unix.EPERM { // unlink(2) of Linux, of POSIX
			err = unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR)
		}
		if err != nil && err != unix.ENOENT && first == nil {
			first = f.err("remove", name, err)
		}
	}
	return first
}

// Rename gives a file another name, replacing what had it.
func (f *Folder) Rename(from, to string) error {
	if err := unix.Renameat(f.fd, from, f.fd, to); err != nil {
		return f.err("rename", from, err)
	}
	return nil
}

// Stamp tells one version of a file from another: whoever rewrites the file
// changes it. The zero Stamp stands for no file.
type Stamp struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds
	Mode         uint32
}

// Version is Stamp in eight bytes, for whoever remembers many and only asks
// whether two are the same: two stamps have the same one in one of 2^64 cases.
// Zero stands for no file here too.
type Version uint64

// Version makes the version.
func (s Stamp) Version() Version {
	if s == (Stamp{}) {
		return 0
	}
	return Version(max(1, maphash.Comparable(seed, s)))
}

// seed makes versions.
var seed = maphash.MakeSeed()

// StampOf makes the stamp of a stat result.
func StampOf(st *unix.Stat_t) Stamp {
	return Stamp{
		Dev: uint64(st.Dev), Ino: uint64(st.Ino), Size: st.Size, Mode: uint32(st.Mode),
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}
}

// Stamp returns the stamp of the file under name, zero if there is none or
// nobody can tell.
func (f *Folder) Stamp(name string) Stamp {
	stamp, _ := f.Stat(name)
	return stamp
}

// Stat is Stamp for whoever has to know which of the two: that there is no
// file is no error.
func (f *Folder) Stat(name string) (Stamp, error) {
	var st unix.Stat_t
	switch err := unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case nil:
		return StampOf(&st), nil
	case unix.ENOENT:
		return Stamp{}, nil
	default:
		return Stamp{}, f.err("stat", name, err)
	}
}

// Grab takes the guard of the folder: an exclusive flock(2) held by whoever
// starts this service, from before the fork until its state is published
// (the daemon) or for as long as it runs (runsyssv), so that the two never
// start the same service at once. ErrGrabbed says that somebody has it.
//
// A child between fork and execve(2) holds it too, with the descriptors that
// it has from us. So a daemon that was killed in the middle of a start leaves
// a guard that is held until the start is over; and a Release takes the lock
// from everybody.
func (f *Folder) Grab() (Guard, error) {
	fd, err := f.seize(GuardFile, ErrGrabbed)
	if err != nil {
		return Guard{}, err
	}
	return Guard{int32(fd) + 1}, nil
}

// Guard is the hold of a Grab. The zero Guard holds nothing.
type Guard struct {
	after int32 // the descriptor, and one more
}

// Release gives the guard back, if there is one; after that it is the zero Guard.
func (g *Guard) Release() {
	if *g == (Guard{}) {
		return
	}
	fd := int(g.after) - 1
	unix.Flock(fd, unix.LOCK_UN)
	unix.Close(fd)
	*g = Guard{}
}

// seize makes a file, if it is missing, and locks it, or returns taken if
// somebody else has. It does not wait. Whoever ends removes the file while he
// holds the lock; so a lock counts only on a file that still has a name.
func (f *Folder) seize(name string, taken error) (fd int, err error) {
	for {
		fd, err := unix.Openat(f.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return -1, f.err("open", name, err)
		}
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			unix.Close(fd)
			if err == unix.EWOULDBLOCK {
				return -1, taken
			}
			return -1, f.err("lock", name, err)
		}
		var held unix.Stat_t
		err = unix.Fstat(fd, &held)
		if err == nil && held.Nlink > 0 {
			return fd, nil
		}
		unix.Close(fd)
		if err != nil {
			return -1, f.err("stat", name, err)
		}
	}
}

// ErrGrabbed says that another program is starting or running the service.
var ErrGrabbed = errors.New("already running under runsyssv")

// daemonFiles are the files that the daemon or its clients make in a folder,
// but for its guard.
var daemonFiles = []string{Pid, Syspid, State, Control, Taken, Ready, StopSignal, StopTimeout, Waiting, Needs, Waited, Circle}

// Sweep empties the folder of everything that sysmgr and its tools make and
// removes it if nothing else is in it. With keepLock set a lock stays, and the
// folder with it. What somebody else put there stays too. So does all of a
// folder whose guard is held: runsyssv runs the service there.
func (d *Dir) Sweep(name string, keepLock bool) error {
	f, err := d.Folder(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	guard, err := f.Grab()
	if errors.Is(err, ErrGrabbed) {
		return nil
	}
	if err != nil {
		return err
	}
	defer guard.Release()
	return d.clear(name, f, keepLock)
}

// Ours tells whether a folder of RUNDIR is a service's: one was started there once,
// and left its guard, or has a status. In RUNDIR, which may be /run by mistake,
// others may have folders too, with a pid file in them.
func (d *Dir) Ours(name string) bool {
	f, err := d.Folder(name)
	if err != nil {
		return false
	}
	defer f.Close()
	if f.Has(GuardFile) {
		return true
	}
	_, err = f.ReadStatus()
	return err == nil
}

// Clear is Sweep for whoever holds the guard, and holds nothing after it.
func (d *Dir) Clear(name string, keepLock bool) error {
	f, err := d.Folder(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return d.clear(name, f, keepLock)
}

// clear empties a folder whose guard the caller holds. A run leaves four files
// as a rule: when the folder can be removed without them there is nothing to
// look for.
func (d *Dir) clear(name string, f *Folder, keepLock bool) error {
	first := f.Remove(Pid, Syspid, State, GuardFile)
	err := d.RemoveFolder(name)
	if !occupied(err) {
		return errors.Join(first, err)
	}
	// There is more, and without its name the guard keeps nobody out.
	guard, err := f.Grab()
	switch {
	case errors.Is(err, ErrGrabbed), errors.Is(err, fs.ErrNotExist):
		return first // it is another's now, or another folder
	case err != nil:
		return errors.Join(first, err)
	}
	defer guard.Release()
	return errors.Join(first, d.clearAll(name, f, keepLock))
}

// clearAll is clear for a folder in which there is something unusual. The guard
// goes last; with a lock that stays, it stays too, and says whose folder this is.
func (d *Dir) clearAll(name string, f *Folder, keepLock bool) error {
	there := f.Content()
	var first error
	for _, file := range daemonFiles {
		if there.Has(file) {
			first = errors.Join(first, f.Remove(file))
		}
	}
	if !keepLock && there.Has(Lock) {
		first = errors.Join(first, f.Remove(Lock))
	}
	if there.others() {
		for _, left := range f.unfinished() {
			first = errors.Join(first, f.Remove(left))
		}
	}
	if keepLock && there.Has(Lock) {
		return first
	}
	first = errors.Join(first, f.Remove(GuardFile))
	if err := d.RemoveFolder(name); !occupied(err) {
		first = errors.Join(first, err)
	}
	return first
}

// occupied tells whether a folder was not removed because there is something
// in it.
func occupied(err error) bool { return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) }

// unfinished lists the files that somebody began and did not live to finish.
func (f *Folder) unfinished() []string {
	entries, _ := os.ReadDir(f.path)
	var names []string
	for _, e := range entries {
		if len(e.Name()) > len(fresh) && e.Name()[:len(fresh)] == fresh {
			names = append(names, e.Name())
		}
	}
	return names
}

// PidLine is the content of a pid file: the number in decimal and a newline.
func PidLine(pid int) []byte {
	return fmt.Appendf(nil, "%d\n", pid)
}

// ParsePid reads a pid file's content. Anything but one decimal number above
// 1 is an error: 0, 1 and negative numbers mean something else to kill(2).
func ParsePid(data []byte) (int, error) {
	n := len(data)
	for n > 0 && (data[n-1] == '\n' || data[n-1] == ' ') {
		n--
	}
	if n == 0 || n > 10 {
		return 0, fmt.Errorf("no process number: %.20q", data)
	}
	pid := 0
	for _, c := range data[:n] {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("no process number: %.20q", data)
		}
		pid = pid*10 + int(c-'0')
	}
	if pid <= 1 || pid > 1<<31-1 {
		return 0, fmt.Errorf("no process number: %d", pid)
	}
	return pid, nil
}

// Leads tells whether a process is there, is no zombie and leads a session, as
// the main process of a service does: most strangers that got its number do
// not. It is for showing, and for refusing; never for signalling.
func Leads(pid int) bool {
	// proc_pid_stat(5), where there is one: the state follows the name.
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if end := bytes.LastIndexByte(stat, ')'); end >= 0 && bytes.HasPrefix(stat[end:], []byte(") Z")) {
		return false
	}
	sid, err := unix.Getsid(pid)
	return err == nil && sid == pid || err == unix.EPERM
}

// Peek reads a file of a service's folder, as Folder and Read do, with as few
// system calls as there can be: for tools that read those of thousands, not for
// the daemon; see peek. The content is in buf, which has to be longer than MaxFile.
func (d *Dir) Peek(name, file string, buf []byte) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	n, err, ok := peek(d.fd(), name, file, buf)
	if !ok {
		f, err := d.Folder(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return f.Read(file)
	}
	if err == nil && n > MaxFile {
		err = ErrIrregular
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: d.path + "/" + name + "/" + file, Err: err}
	}
	return buf[:n], nil
}

// Holds tells whether there is anything under the name of a file in a
// service's folder.
func (d *Dir) Holds(name, file string) bool {
	var st unix.Stat_t
	return CheckName(name) == nil && unix.Fstatat(d.fd(), name+"/"+file, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// Lacks tells whether there is nothing under the name of a file in a service's
// folder. If nobody can tell, there may be.
func (d *Dir) Lacks(name, file string) bool {
	var st unix.Stat_t
	return CheckName(name) == nil && unix.Fstatat(d.fd(), name+"/"+file, &st, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT
}
