package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// mask leaves out IN_MODIFY: a file counts when its writer is done with it.
const mask = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM |
	unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF |
	unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// muted is what is heard of a directory that is mute: that it is renamed, and as
// always (IN_IGNORED) that it is removed.
const muted = unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

type system struct {
	// fd is the inotify descriptor, or -1. It is not in the runtime's poller,
	// where each event would wake a thread: a daemon that starts a thousand
	// services makes ten thousand that are of no interest.
	fd     int
	nudge  int          // an eventfd(2): the watcher is closed, or has mounts
	mounts atomic.Int32 // mountinfo, once a way is laid; before that, -1

	// table guards what follows: Add, Remove and Lay against the reader.
	table   sync.Mutex
	watches watches
	way     map[int32]struct{}
	bare    map[string]struct{} // keys for which no watch could be had

	polling bool // a watch could not be had, so the clock rings too
}

func (w *Watcher) start(interested func(string, Change) Mark) error {
	w.sys.fd = -1
	w.sys.mounts.Store(-1)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &fs.PathError{Op: "inotify_init1", Path: "inotify", Err: err}
	}
	nudge, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return &fs.PathError{Op: "eventfd", Path: "inotify", Err: err}
	}
	w.sys.fd, w.sys.nudge = fd, nudge
	w.sys.bare = make(map[string]struct{})
	w.wait.Go(func() { w.read(interested) })
	return nil
}

// Add watches the directory at path under key; a watch that key had is
// replaced. A link is not followed; to follow one, let path end in "/.". A
// directory that is not there is fs.ErrNotExist. When the kernel has no more
// watches (ENOSPC of inotify_add_watch(2)), the watcher falls back to the
// clock for good and the error wraps ErrPolling. The caller reads the
// directory after Add, not before.
//
// It tells whether this is another directory than the one that key had, which
// a stat(2) does not always: file systems give the number of a directory that
// was removed to the next one. So whoever watches a path adds it again at
// each look, which costs next to nothing. Where it polls it never tells; nor of
// a directory for which a watch can be had that could not before.
func (w *Watcher) Add(path, key string) (another bool, err error) {
	s := &w.sys
	if s.fd < 0 {
		return false, nil
	}
	s.table.Lock()
	defer s.table.Unlock()
	wd, err := unix.InotifyAddWatch(s.fd, path, mask)
	if err != nil {
		err = &fs.PathError{Op: "watch", Path: path, Err: err}
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
			if !s.polling {
				s.polling = true
				w.wait.Go(w.poll)
			}
			if _, ok := s.watches.wd(key); !ok {
				s.bare[key] = struct{}{}
			}
			return false, errors.Join(ErrPolling, err)
		}
		return false, err
	}
	old, ok := s.watches.wd(key)
	if ok && old == int32(wd) {
		return false, nil
	}
	if ok {
		s.drop(old)
	}
	s.watches.set(int32(wd), key)
	_, bare := s.bare[key]
	delete(s.bare, key)
	return !bare, nil
}

func (s *system) drop(wd int32) {
	// EINVAL: the directory is gone and took its watch along. If it is on a
	// way, that rings, because of IN_IGNORED, and is laid anew.
	unix.InotifyRmWatch(s.fd, uint32(wd))
	s.watches.drop(wd)
}

// Remove ends the watch of key.
func (w *Watcher) Remove(key string) {
	s := &w.sys
	if s.fd < 0 {
		return
	}
	s.table.Lock()
	defer s.table.Unlock()
	if wd, ok := s.watches.wd(key); ok {
		s.drop(wd)
	}
	delete(s.bare, key)
}

// Mute has the kernel tell nothing of what happens in the directory of key, at
// path, but its own end, until Heed: for whoever is about to change files there
// that are of no interest. Each change would wake the reader, on a processor
// that has something better to do. Add ends it too.
func (w *Watcher) Mute(path, key string) { w.listen(path, key, muted) }

// Heed ends a Mute. What happened between the two is not told of: whoever calls
// looks for himself, after this and not before. If the path leads to another
// directory by now, or to none, it rings.
func (w *Watcher) Heed(path, key string) {
	if !w.listen(path, key, mask) {
		w.ring(key, Itself)
	}
}

// listen changes what is heard of the directory of key. It is false if that is
// not at path any more; for a key that is not watched there is nothing to change.
func (w *Watcher) listen(path, key string, mask uint32) (same bool) {
	s := &w.sys
	s.table.Lock()
	defer s.table.Unlock()
	old, ok := s.watches.wd(key)
	if !ok {
		return true
	}
	wd, err := unix.InotifyAddWatch(s.fd, path, mask)
	if err != nil {
		return false
	}
	if _, known := s.watches.key(int32(wd)); !known {
		unix.InotifyRmWatch(s.fd, uint32(wd)) // another directory, for which there was none
	}
	return int32(wd) == old
}

// Close ends the watcher and waits for its goroutines.
func (w *Watcher) Close() {
	close(w.done)
	if w.sys.fd < 0 {
		w.wait.Wait()
		return
	}
	w.sys.wake()
	w.wait.Wait()
	unix.Close(w.sys.fd)
	unix.Close(w.sys.nudge)
	if mounts := w.sys.mounts.Load(); mounts >= 0 {
		unix.Close(int(mounts))
	}
}

// wake makes the reader look around.
func (s *system) wake() { unix.Write(s.nudge, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// read blocks in the kernel until there are events or the watcher is closed.
func (w *Watcher) read(interested func(string, Change) Mark) {
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for w.open(true, forEver) {
		// Begin a new time slice: the runtime counts this one from before
		// the wait, and would end it when it has hardly begun.
		runtime.Gosched()
		n, err := unix.Read(w.sys.fd, buf)
		switch {
		case err == unix.EAGAIN, err == unix.EINTR:
		case err != nil:
			w.ringAll(true)
			return
		case w.decode(buf[:n], interested):
			// First those who heard it, on this processor, and whoever they
			// tell: a thread that blocks in the kernel keeps its processor
			// for a while, with all that waits for it.
			for range hops {
				runtime.Gosched()
			}
		default:
			// It was noise, as of the daemon's own files, and more of it is
			// on its way: to read each event by itself would cost more than
			// what they tell of.
			w.open(false, quiet)
		}
	}
}

// open waits until there are events, if those are wanted, or the watcher is
// closed, or so many milliseconds are over (poll(2)). It tells whether it is still
// open, if events are wanted.
func (w *Watcher) open(events bool, within int) bool {
	s := &w.sys
	fds := []unix.PollFd{
		{Fd: int32(s.nudge), Events: unix.POLLIN},
		{Fd: int32(s.fd), Events: unix.POLLIN},
		{Fd: s.mounts.Load(), Events: unix.POLLPRI}, // a negative one is passed over
	}
	if !events {
		fds = fds[:1]
	}
	unix.Poll(fds, within) // EINTR: as if there were events
	if events && fds[2].Revents&unix.POLLPRI != 0 {
		w.ringWay() // to have asked is to have read (proc_pid_mountinfo(5))
	}
	if !events || fds[0].Revents == 0 {
		return true // if it is closed, the next call will tell
	}
	var count [8]byte
	unix.Read(s.nudge, count[:])
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}

// hops is how often others go first: the scanner, the one who looks for it, the
// scanner again, and the supervisor.
const hops = 4

// For how many milliseconds nobody listens when there is nothing but noise.
const (
	quiet   = 2
	forEver = -1
)

// decode goes through the events of one read, laid out as inotify(7) says:
// wd, mask, cookie, len, then len bytes of name padded with NUL. It tells whether
// that made it ring.
func (w *Watcher) decode(buf []byte, interested func(string, Change) Mark) (rang bool) {
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf))
		what := binary.NativeEndian.Uint32(buf[4:])
		size := int(binary.NativeEndian.Uint32(buf[12:]))
		if size < 0 || size > len(buf)-unix.SizeofInotifyEvent {
			w.ringAll(true)
			return true
		}
		name := buf[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size]
		buf = buf[unix.SizeofInotifyEvent+size:]
		if what&unix.IN_Q_OVERFLOW != 0 {
			w.ringAll(true)
			rang = true
			continue
		}
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		w.sys.table.Lock()
		key, known := w.sys.watches.key(wd)
		_, way := w.sys.way[wd]
		if what&unix.IN_IGNORED != 0 {
			delete(w.sys.way, wd)
			w.sys.watches.drop(wd)
		}
		w.sys.table.Unlock()
		if way && len(name) == 0 {
			w.ringWay()
			rang = true
		}
		if !known {
			continue
		}
		mark := Rings
		switch {
		case len(name) == 0:
			mark = Itself
		case interested != nil:
			mark = interested(string(name), change(what))
		}
		if mark != 0 {
			w.ring(key, mark)
			rang = true
		}
	}
	return rang
}

// change is an event's mask as far as anybody wants to know it.
func change(mask uint32) (c Change) {
	if mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
		c |= Came
	}
	if mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0 {
		c |= Gone
	}
	if mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO) != 0 {
		c |= Written
	}
	return c
}
