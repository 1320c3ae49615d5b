package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Private is the daemon's own folder in RUNDIR, mode 0700.
const Private = ".sysmgr"

// ErrRunning says that a daemon already serves this run directory.
var ErrRunning = errors.New("already running")

// ErrNotRunning says that no daemon serves this run directory.
var ErrNotRunning = errors.New("sysmgr is not running")

// Claim is a daemon's hold on its run directory: two locks taken with
// flock(2), which the kernel gives back when the daemon ends, however it
// ends. The one in .sysmgr decides which daemon it is; only the owner can
// open it, so no other user can be in the way. The one on RUNDIR/pid lets
// everybody see that the daemon lives: the file is new for each daemon and
// locked before it gets its name, so a client that probes it never delays
// the next daemon.
type Claim struct {
	dir     *Dir
	records *Records

	mu     sync.Mutex // guards the files: Keep replaces them
	lock   *os.File
	pid    *os.File // nil if it could not be made
	old    bool     // pid is that of the daemon before us: ours could not be made
	former *os.File // pid before Keep replaced it, locked for those who watch us by it
}

// Claim makes the caller the daemon of this run directory and writes
// RUNDIR/pid. It returns ErrRunning if there is one already. It does not
// wait.
func (d *Dir) Claim() (*Claim, error) {
	lock, err := d.lock()
	if err != nil {
		return nil, err
	}
	c := &Claim{dir: d, lock: lock}
	if c.pid, err = d.lockedPid(); unwritable(err) {
		// The services of the daemon before us cannot wait for room.
		c.pid, c.old, err = d.makeshiftPid()
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return c, nil
}

// unwritable tells whether a file could not be made because the file system is
// full or read-only.
func unwritable(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS)
}

// makeshiftPid is what can be had in place of lockedPid where nothing can be
// written: our file in the room that the old one had, or the old one, locked:
// whoever asks whether there is a daemon looks at the lock, not at the number.
// Or nothing: Keep goes on trying.
func (d *Dir) makeshiftPid() (pid *os.File, old bool, err error) {
	top := d.top()
	if top.Remove(Pid) == nil {
		if pid, err = d.lockedPid(); unwritable(err) {
			return nil, false, nil
		}
		return pid, false, err
	}
	pid, _ = top.lockOld(Pid)
	return pid, pid != nil, nil
}

// lockOld locks a file that is there, and that cannot be opened for writing.
func (f *Folder) lockOld(name string) (*os.File, error) {
	fd, err := unix.Openat(f.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, f.err("open", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK || err == nil && !f.has(name, file) {
		err = ErrRunning
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// lockedPid writes RUNDIR/pid anew and locks it, before it gets its name.
func (d *Dir) lockedPid() (*os.File, error) {
	top := d.top()
	tmp, err := top.write(Pid, PidLine(os.Getpid()), 0o644)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(top.fd, tmp, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = unix.Renameat(top.fd, tmp, top.fd, Pid)
		}
	}
	if err != nil {
		unix.Unlinkat(top.fd, tmp, 0)
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, top.err("lock", Pid, err)
	}
	return os.NewFile(uintptr(fd), Pid), nil
}

// top is the run directory itself as a folder.
func (d *Dir) top() *Folder { return &Folder{fd: d.fd(), path: d.path, umask: &d.umask} }

// Keep looks whether the run directory and the daemon's own files in it are
// still there, and makes them anew if somebody has taken them away. It tells
// whether anything was missing: then what is published of services may be too.
// ErrRunning: in the place of the directory there is another, and another
// daemon serves it.
func (c *Claim) Keep() (lost bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	another, err := c.dir.renew()
	if err != nil {
		return another, err
	}
	lost = another
	own, err := c.dir.open(Private)
	if err != nil || !own.has("lock", c.lock) {
		lost = true
		lock, err := c.dir.lock()
		if err != nil {
			return lost, err
		}
		c.lock.Close()
		c.lock = lock
	}
	if err == nil {
		own.Close()
	}
	if own, err = c.dir.open(Private); err != nil {
		return lost, err
	}
	defer own.Close()
	if c.records != nil && (c.records.frozen || !own.has(recordsFile, c.records.current())) {
		lost = true
		err = c.records.renew(own)
	}
	// In any case: clients can find us then.
	gone, noPid := c.keepPid()
	if err == nil {
		err = noPid
	}
	if another {
		// Whoever watches us in a directory that is not ours any more waits in
		// vain there; and it may be about to be unmounted.
		c.former.Close()
		c.former = nil
	}
	return lost || gone, err
}

// keepPid is Keep for RUNDIR/pid. The lock on the one before is held on to: to
// a client that waits it is our life. One is enough, clients wait a minute.
func (c *Claim) keepPid() (lost bool, err error) {
	if !c.old && c.dir.top().has(Pid, c.pid) {
		return false, nil
	}
	pid, err := c.dir.lockedPid()
	old := false
	if unwritable(err) && !c.old {
		// A client that looked for the daemon before us kept makeshiftPid from
		// the old one, if only for a moment.
		if again, _ := c.dir.top().lockOld(Pid); again != nil {
			pid, old = again, true
		}
	}
	if pid != nil {
		c.former.Close() // which may be none
		c.former, c.pid, c.old = c.pid, pid, old
	}
	return true, err
}

// Own lists the paths of the daemon's own files, at which Keep looks.
func (d *Dir) Own() []string {
	private := filepath.Join(d.path, Private)
	return []string{filepath.Join(d.path, Pid), filepath.Join(private, "lock"), filepath.Join(private, recordsFile)}
}

// Intact tells whether the next program would find here what it has to know:
// the run directory is the one that it was, with the locks and the records.
func (c *Claim) Intact() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if another, err := c.dir.replaced(); err != nil || another {
		return false
	}
	own, err := c.dir.open(Private)
	if err != nil {
		return false
	}
	defer own.Close()
	return own.has("lock", c.lock) && (era() == "" || c.records != nil && own.has(recordsFile, c.records.current()))
}

// has tells whether an open file is the one of this name.
func (f *Folder) has(name string, file *os.File) bool {
	var held, named unix.Stat_t
	return unix.Fstat(int(file.Fd()), &held) == nil && unix.Fstatat(f.fd, name, &named, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		held.Ino == named.Ino && held.Dev == named.Dev && held.Nlink > 0
}

// lock takes the lock that decides. A daemon that ends removes its folder, and
// RUNDIR if it can: who meets it on its way out comes once more, or, without a
// RUNDIR to come to, finds it still running.
func (d *Dir) lock() (*os.File, error) {
	for {
		own, err := d.make(Private, 0o700)
		if err == nil {
			var lock *os.File
			lock, err = d.lockIn(own)
			own.Close()
			if err == nil {
				return lock, nil
			}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(d.fd(), &st); err != nil || st.Nlink == 0 {
			return nil, ErrRunning
		}
	}
}

// lockIn takes the lock in the daemon's folder. If there was none, although
// RUNDIR/pid is locked by a process of ours, somebody has removed the folder of
// a daemon that lives.
func (d *Dir) lockIn(own *Folder) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(own.fd, &st); err != nil {
		return nil, own.err("stat", "", err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("%s: %w: it has to be ours alone (user %d, mode 0700); remove it", own.path, ErrUntrusted, os.Geteuid())
	}
	d.left = own.Has("lock")
	if !d.left && d.lives() {
		return nil, ErrRunning
	}
	fd, err := own.seize("lock", ErrRunning)
	if errors.Is(err, unix.EROFS) {
		return own.lockOld("lock")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "lock"), nil
}

// lives tells whether RUNDIR/pid is locked and names a process, another one
// than us, of our own user. Anybody could have locked it; so this is asked only
// where something is odd already.
func (d *Dir) lives() bool {
	witness, err := d.Daemon()
	if err != nil {
		return false
	}
	witness.Close()
	data, err := d.top().Read(Pid)
	if err != nil {
		return false
	}
	pid, err := ParsePid(data)
	return err == nil && pid != os.Getpid() && unix.Kill(pid, 0) == nil
}

// PassOn prepares the claim for a program that is about to be executed in our
// place (execve(2)): its locks stay locked. word is for that one's Inherit. undo
// is for when nothing came of it; until then nothing else is done to the claim.
func (c *Claim) PassOn() (word string, undo func()) {
	c.mu.Lock()
	files := []*os.File{c.lock, c.pid, c.former}
	for _, file := range files {
		unix.FcntlInt(file.Fd(), unix.F_SETFD, 0) // EBADF: there is none
	}
	word = fmt.Sprintf("%d,%d", int(c.lock.Fd()), int(c.pid.Fd()))
	if c.former != nil {
		word += fmt.Sprintf(",%s%d", formerly, c.former.Fd())
	}
	return word, func() {
		for _, file := range files {
			unix.CloseOnExec(int(file.Fd()))
		}
		c.mu.Unlock()
	}
}

// formerly begins the part of a word that tells of the former pid file.
const formerly = "former="

// Orphaned tells whether the process that RUNDIR/pid names is gone although the
// run directory is locked: then a child that it was just starting has the lock.
func (d *Dir) Orphaned() bool {
	data, err := d.top().Read(Pid)
	if err != nil {
		return false
	}
	pid, err := ParsePid(data)
	return err == nil && unix.Kill(pid, 0) == unix.ESRCH
}

// Inherit is the other end of PassOn. ErrNotRunning: there is nothing to
// inherit; whoever gets that takes a Claim of his own.
func (d *Dir) Inherit(word string) (*Claim, error) {
	var lock, pid int
	if n, _ := fmt.Sscanf(word, "%d,%d", &lock, &pid); n != 2 || lock < 3 {
		return nil, ErrNotRunning
	}
	own, err := d.open(Private)
	if err != nil {
		return nil, ErrNotRunning
	}
	defer own.Close()
	top := d.top()
	if !own.locked("lock", lock) || pid > 2 && !top.locked(Pid, pid) {
		return nil, ErrNotRunning
	}
	d.left = true
	c := &Claim{dir: d, lock: os.NewFile(uintptr(lock), "lock")}
	if pid > 2 { // else there is none: it could not be made
		c.pid = os.NewFile(uintptr(pid), Pid)
		line, err := top.Read(Pid)
		c.old = err == nil && !bytes.Equal(line, PidLine(os.Getpid()))
	}
	for part := range strings.SplitSeq(word, ",") {
		number, ok := strings.CutPrefix(part, formerly)
		if fd, err := strconv.Atoi(number); ok && err == nil && fd > 2 && unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
			unix.CloseOnExec(fd)
			c.former = os.NewFile(uintptr(fd), Pid)
		}
	}
	return c, nil
}

// locked tells whether a descriptor is this file's and has it locked.
func (f *Folder) locked(name string, fd int) bool {
	var held, named unix.Stat_t
	if unix.Fstat(fd, &held) != nil || unix.Fstatat(f.fd, name, &named, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	if held.Ino != named.Ino || held.Dev != named.Dev || unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	unix.CloseOnExec(fd)
	return true
}

// Release ends the claim in good order: every folder that is a service's is swept,
// the daemon's own files go, and RUNDIR itself if nothing else is left in it.
func (c *Claim) Release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first error
	names, err := c.dir.Names()
	first = errors.Join(first, err)
	for _, name := range names {
		if c.dir.Ours(name) {
			first = errors.Join(first, c.dir.Sweep(name, false))
		}
	}
	top := c.dir.top()
	first = errors.Join(first, top.Remove(Pid), top.Remove(top.unfinished()...))
	if own, err := c.dir.open(Private); err == nil {
		first = errors.Join(first, own.Remove(own.unfinished()...), own.Remove(recordsFile, "lock"))
		own.Close()
		// Without its lock it may be the next daemon's already.
		if err := c.dir.RemoveFolder(Private); !occupied(err) {
			first = errors.Join(first, err)
		}
	}
	// RUNDIR may be a mount point or hold files of others: then it stays. So
	// does another one that somebody has put there.
	if another, err := c.dir.replaced(); err == nil && !another {
		os.Remove(c.dir.path)
	}
	// Unlocked, and not only closed: a child that hangs in execve(2) has them
	// too.
	for _, file := range []*os.File{c.former, c.pid, c.lock} {
		unix.Flock(int(file.Fd()), unix.LOCK_UN)
		file.Close()
	}
	return first
}

// Witness watches over the life of the daemon from another process.
type Witness struct{ pid *os.File }

// Daemon returns a witness of the daemon that serves this run directory, or
// ErrNotRunning. It is decided by the lock, never by the number in the file.
func (d *Dir) Daemon() (*Witness, error) {
	fd, err := unix.Openat(d.fd(), Pid, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(d.path, Pid), Err: err}
	}
	switch err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err {
	case unix.EWOULDBLOCK:
		return &Witness{os.NewFile(uintptr(fd), Pid)}, nil
	case nil:
		unix.Close(fd)
		return nil, ErrNotRunning
	default:
		unix.Close(fd)
		return nil, fmt.Errorf("lock %s: %w", filepath.Join(d.path, Pid), err)
	}
}

// Gone returns a channel that is closed when the daemon ends, the moment the
// kernel gives its lock back. It occupies a thread until then.
func (w *Witness) Gone() <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for unix.Flock(int(w.pid.Fd()), unix.LOCK_SH) == unix.EINTR {
		}
		w.pid.Close()
	}()
	return gone
}

// Close gives up a witness whose Gone was not asked for.
func (w *Witness) Close() { w.pid.Close() }
