package reaper

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// away is what a child of the daemon before us has in place of a parent that
// waits for it: a handle that means this process and never another one.
type away struct {
	Adoption
	fd    int           // pidfd of the main process (pidfd_open(2)); -1 without
	known map[int]ticks // once it has ended: members of its group that are certain
}

// ticks is a start time as proc_pid_stat(5) has it: hundredths of a second
// since boot (USER_HZ, which is 100 on every machine that Go runs on).
type ticks int64

const tick = 10 * time.Millisecond

// BootTime is the time since boot, by the clock that start times of processes
// are told in (CLOCK_BOOTTIME, clock_gettime(2)).
func BootTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// at tells whether a start time lies between two moments.
func (t ticks) between(from, to time.Duration) bool {
	start := time.Duration(t) * tick
	return start+tick > from && start <= to
}

// errGone says that a process is not there, or is another one.
var errGone = errors.New("gone")

// isChild tells whether a main process is our own child, dead or alive.
func isChild(a Adoption) bool {
	s, err := readStat(strconv.Itoa(a.Group))
	return err == nil && s.parent == os.Getpid() && s.start.between(a.From, a.To)
}

// adopt takes over a process that is not our child. It reads the process
// table without mu; only we give out this adoption, so nothing races with it.
// It tells whether the main process lives.
func (r *Reaper) adopt(a Adoption, c child) (lives bool) {
	c.away = &away{Adoption: a, fd: -1}
	status := Unknown
	if a.Led {
		var err error
		if c.away.fd, status, err = openMain(a); err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.note(a.Group, c)
			r.watch(c)
			return true
		}
	}
	l := leftover{c, time.Now()}
	alone := c.away.empty(r.table(l.ended))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.part(l, status, alone)
	return false
}

// part is what becomes of an adopted process when its main process has ended.
// Called with mu held.
func (r *Reaper) part(l leftover, status syscall.WaitStatus, alone bool) {
	r.strike(l.away.Group)
	if !alone {
		r.draining[l.away.Group] = l
	} else {
		l.away.close()
	}
	if l.away.Led {
		l.exited <- Exit{Status: status, Alone: alone}
	} else if alone {
		l.exited <- Exit{Drained: true}
	}
}

// openMain opens a handle of a main process. errGone: it has ended, and the
// status is what its zombie tells. Any other outcome is a process that lives,
// as far as one can see, with or without a handle.
func openMain(a Adoption) (fd int, status syscall.WaitStatus, err error) {
	fd, err = unix.PidfdOpen(a.Group, unix.PIDFD_NONBLOCK)
	switch err {
	case nil:
	case unix.ESRCH, unix.EINVAL, unix.ENOENT: // the latter: it is a mere thread (ENOENT since Linux 6.15)
		return -1, Unknown, errGone
	default:
		fd = -1 // no descriptor left, or a kernel before 5.3: look now and then
	}
	s, err := readStat(strconv.Itoa(a.Group))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH),
		err == nil && !s.start.between(a.From, a.To):
		status, err = Unknown, errGone
	case err == nil && s.dead():
		status, err = s.exit, errGone
	default:
		// Between the two steps the number could have changed its owner
		// only if the first one has ended, which we are told of at once.
		return fd, 0, nil
	}
	if fd >= 0 {
		unix.Close(fd)
	}
	return -1, status, err
}

// close gives the handle back.
func (w *away) close() {
	if w != nil && w.fd >= 0 {
		unix.Close(w.fd)
		w.fd = -1
	}
}

// status is how a main process has ended, from its zombie or, once that has
// been reaped by its new parent, from its handle (PIDFD_GET_INFO of ioctl(2),
// Linux 6.15).
func (w *away) status() syscall.WaitStatus {
	if s, err := readStat(strconv.Itoa(w.Group)); err == nil && s.dead() && s.start.between(w.From, w.To) {
		return s.exit
	}
	if w.fd >= 0 {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(w.fd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
		if errno == 0 && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return syscall.WaitStatus(info.Exit_code)
		}
	}
	return Unknown
}

// signal sends to the main process.
func (w *away) signal(sig unix.Signal) error {
	if w.fd >= 0 {
		return unix.PidfdSendSignal(w.fd, sig, nil, 0)
	}
	fd, _, err := openMain(w.Adoption)
	if err != nil || fd < 0 {
		return unix.ESRCH
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// signalGroup sends to everything in the group. With a handle the kernel does
// it (Linux 6.9); without, each member gets it for itself, and again as long
// as there are new ones: they may be forking.
func (w *away) signalGroup(sig unix.Signal) error {
	if w.fd >= 0 {
		err := unix.PidfdSendSignal(w.fd, sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
		if err != unix.EINVAL && err != unix.EOPNOTSUPP {
			return err
		}
	}
	told := make(map[int]ticks)
	for range 10 {
		more := false
		for pid, start := range w.members(readTable()) {
			if told[pid] != start {
				told[pid], more = start, true
				w.signalMember(pid, start, sig)
			}
		}
		if !more {
			break
		}
	}
	if len(told) == 0 {
		return unix.ESRCH
	}
	return nil
}

// signalMember sends to one member of the group, if it is still that.
func (w *away) signalMember(pid int, start ticks, sig unix.Signal) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if s, err := readStat(strconv.Itoa(pid)); err == nil && s.start == start && s.group == w.Group && s.session == w.Group {
		unix.PidfdSendSignal(fd, sig, nil, 0)
	}
}

// members lists who lives of the group, with their start times. As long as the
// main process has not ended, or as long as somebody is left of those who were
// there before, the number is the group's. Else one member has to bear its
// mark: the number may have been given to somebody else meanwhile, and then so
// has that of the session, which is the same.
func (w *away) members(t *table) map[int]ticks {
	live := make(map[int]ticks)
	ours := false
	for _, s := range t.groups[w.Group] {
		if s.session != w.Group || s.dead() {
			continue
		}
		live[s.pid] = s.start
		ours = ours || w.known[s.pid] == s.start || s.pid == w.Group && s.start.between(w.From, w.To)
	}
	if !ours {
		for pid := range live {
			if ours = hasMark(pid, w.Mark); ours {
				break
			}
		}
	}
	if !ours {
		return nil
	}
	w.known = live
	return live
}

// empty tells whether nobody lives of the group; zombies do not count, since
// who should reap them may never do it.
func (w *away) empty(t *table) bool {
	if !t.whole {
		return false
	}
	if w.fd >= 0 {
		switch err := unix.PidfdSendSignal(w.fd, 0, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP); err {
		case unix.ESRCH:
			return true
		case nil, unix.EPERM:
			// The number is still that of this group.
			return !t.alive(w.Group)
		}
	}
	return len(w.members(t)) == 0
}

// hasMark tells whether a process was started with this entry in its
// environment.
func hasMark(pid int, mark string) bool {
	env, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	return slices.ContainsFunc(bytes.Split(env, []byte{0}), func(entry []byte) bool { return string(entry) == mark })
}

// Find looks for a main process that was started from a moment on by a daemon
// that did not live to write its number down: the leader of a session with
// this mark. If there are several, as when the main process has made another
// leader, it is the oldest. If there is none, but somebody with the mark, it is
// the group of that one, whose main process has ended. Nobody may be starting
// this service meanwhile.
func (r *Reaper) Find(mark string, from time.Duration) (a Adoption, found bool) {
	const patience = 200 // times 5 ms: who is in the middle of execve(2) has no environment
	for range patience {
		unsure := false
		var main, left stat
		older := func(a, b stat) bool {
			return b.pid == 0 || a.start < b.start || a.start == b.start && a.pid < b.pid
		}
		for _, group := range readTable().groups {
			for _, s := range group {
				if s.session != s.group || s.dead() || !s.start.between(from, BootTime()) {
					continue
				}
				env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.pid), "environ"))
				leads := s.pid == s.group
				switch {
				case err == nil && len(env) == 0:
					unsure = unsure || leads
				case !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+mark+"\x00")):
				case leads && older(s, main):
					main = s
				case !leads && older(s, left):
					left = s
				}
			}
		}
		if main.pid == 0 && !unsure {
			main = left // its main process has ended already
		}
		if main.pid != 0 {
			a := Adoption{Group: main.group, Led: true, From: from, To: BootTime(), Mark: mark}
			if main.pid == main.group {
				a.From = time.Duration(main.start) * tick
				a.To = a.From + tick
			}
			return a, true
		}
		if !unsure {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return Adoption{}, false
}

// adopted watches over the main processes that are not our children: a handle
// is readable when its process has ended (pidfd_open(2)). All handles are in
// one epoll(7), and that in the runtime's poller, so that thousands of them
// cost one goroutine.
type adopted struct {
	poll *os.File
	fd   int
	wait sync.WaitGroup
	by   map[int32]child // by handle
	bare map[int]child   // those without one, by number; they are looked at each second
	done chan struct{}
}

// watch begins to wait for the end of an adopted main process. Called with mu
// held.
func (r *Reaper) watch(c child) {
	w := &r.adopted
	if w.done == nil {
		w.by, w.bare, w.done = make(map[int32]child), make(map[int]child), make(chan struct{})
		if fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
			unix.SetNonblock(fd, true) // which os.NewFile asks for
			w.fd, w.poll = fd, os.NewFile(uintptr(fd), "epoll")
			w.wait.Go(r.hear)
		}
	}
	fd := int32(c.away.fd)
	if fd >= 0 && w.poll != nil {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: fd}
		if unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(fd), &event) == nil {
			w.by[fd] = c
			return
		}
	}
	if len(w.bare) == 0 {
		w.wait.Go(r.look)
	}
	w.bare[c.away.Group] = c
}

// hear takes the ends of adopted processes from the kernel.
func (r *Reaper) hear() {
	raw, err := r.adopted.poll.SyscallConn()
	if err != nil {
		return
	}
	var events [some]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0)
			return n > 0
		})
		if err != nil {
			return // closed
		}
		var ended []child
		r.mu.Lock()
		for _, event := range events[:n] {
			if c, ok := r.adopted.by[event.Fd]; ok {
				unix.EpollCtl(r.adopted.fd, unix.EPOLL_CTL_DEL, int(event.Fd), nil)
				delete(r.adopted.by, event.Fd)
				ended = append(ended, c)
			}
		}
		r.mu.Unlock()
		r.depart(ended)
	}
}

// look goes through those without a handle each second, until there are none.
func (r *Reaper) look() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-r.adopted.done:
			return
		}
		var ended []child
		r.mu.Lock()
		for pid, c := range r.adopted.bare {
			fd, _, err := openMain(c.away.Adoption)
			if fd >= 0 {
				unix.Close(fd)
			}
			if err != nil {
				delete(r.adopted.bare, pid)
				ended = append(ended, c)
			}
		}
		last := len(r.adopted.bare) == 0
		r.mu.Unlock()
		r.depart(ended)
		if last {
			return
		}
	}
}

// depart tells of main processes that have ended. The process table is read
// once for all of them, and without mu.
func (r *Reaper) depart(ended []child) {
	if len(ended) == 0 {
		return
	}
	r.still.RLock()
	defer r.still.RUnlock()
	now := time.Now()
	t := r.table(now)
	for _, c := range ended {
		status, alone := c.away.status(), c.away.empty(t)
		r.mu.Lock()
		r.part(leftover{c, now}, status, alone)
		r.mu.Unlock()
	}
}

// dismiss ends the watching. Called when Run ends.
func (r *Reaper) dismiss() {
	r.mu.Lock()
	w := &r.adopted
	if w.done != nil {
		close(w.done)
		if w.poll != nil {
			w.poll.Close()
		}
	}
	r.mu.Unlock()
	w.wait.Wait()
}

// table is what the process table held at a moment, by process group.
type table struct {
	began  time.Time
	groups map[int][]stat
	whole  bool // it could be read
}

// alive tells whether a group has a member that is not dead.
func (t *table) alive(group int) bool {
	return !t.whole || slices.ContainsFunc(t.groups[group], func(s stat) bool { return !s.dead() })
}

// table returns a process table that was read after since. One that was read
// for another service a moment ago will do: who is dead does not come to life,
// and nobody joins a group from outside its session (setpgid(2)).
func (r *Reaper) table(since time.Time) *table {
	r.reading.Lock()
	defer r.reading.Unlock()
	if r.last == nil || r.last.began.Before(since) || time.Since(r.last.began) > probeTogether {
		r.last = readTable()
	}
	return r.last
}

// probeTogether is for how long a process table is good enough for others.
const probeTogether = 200 * time.Millisecond

func readTable() *table {
	t := &table{began: time.Now(), groups: make(map[int][]stat)}
	dir, err := os.Open("/proc")
	if err != nil {
		return t
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if _, self := readStat("self"); err != nil || self != nil {
		return t
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		if s, err := readStat(name); err == nil {
			t.groups[s.group] = append(t.groups[s.group], s)
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return t // it may be one of those that are asked for
		}
	}
	t.whole = true
	return t
}
