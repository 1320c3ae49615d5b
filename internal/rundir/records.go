package rundir

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Record is what a daemon writes down about a service for the daemon after it,
// in case it is killed: all that the next one needs to go on in its place.
// Moments are by Clock, zero for never.
type Record struct {
	Name   string
	Phase  string
	Wanted string // up, down, once, or gone: it was to end with the daemon
	Pid    int    // the main process, 0 without one
	Group  int    // its process group, which may outlive it; 0 without one

	// The main process was made between these two moments by BootClock (its
	// start time in proc_pid_stat(5)). Without a To, a start was under way
	// and nobody knows what came of it.
	From, To time.Duration

	Since     time.Duration
	Due       time.Duration
	KillAt    time.Duration
	Killed    time.Duration
	NotBefore time.Duration
	Ended     time.Duration
	Retry     time.Duration // a span, not a moment
	Failures  int
	Starts    int
	Restarts  int
	LastExit  string
	Cause     string
	Asked     string // the request that was taken last, if no status repeats it yet

	// The lock file that was last acted upon: its number and its change time.
	HoldIno   uint64
	HoldCtime int64

	slot  int
	doubt bool
}

// Slot is where in the records this one is, for Records.Write.
func (r Record) Slot() int { return r.slot }

// Doubtful tells whether this one may be old: the daemon that wrote it could not
// write everything.
func (r Record) Doubtful() bool { return r.doubt }

// recordSize is the length of a record's line: a name of MaxName bytes and
// every number fit, and a page of the file holds a whole number of them, so
// that the kernel writes each in one piece.
const recordSize = 1024

// recordsFile is in the daemon's private folder. It is a line of its own
// length, 1024 bytes, for each service, and one before them that says on which
// boot and in which PID namespace the process numbers mean something.
const recordsFile = "records"

const recordsTitle = "sysmgr-records/1 "

// gaps is behind the title as long as a record is missing: there was no room
// for it. The title itself has its room, so that this much can be said always.
const gaps = " incomplete"

// Records is the open file of records. A write is one pwrite(2) of one line
// and survives the end of the process that made it, however it ends. Its
// methods may be called from any goroutine.
type Records struct {
	title  string
	frozen bool // the file could only be read, or not be made; Keep tries again
	doubt  bool // those that were left may not be all

	mu      sync.Mutex // guards what follows: many actors write
	file    *os.File
	free    []int
	end     int             // the first slot that was never used
	missing map[string]bool // services whose record could not be written

	line [recordSize]byte // what is written; on a stack it would make that of each actor grow
}

// Records opens the records and returns those that an earlier daemon left, if
// they are of this boot. They are kept as long as nobody overwrites or drops
// them: this daemon may be killed too. With an error that says that there is no
// room for them, they are kept as soon as there is: see Keep. Where the platform cannot tell one
// process from the next with its number there are none, and none are kept: the
// Records is nil, which does nothing.
func (c *Claim) Records() (*Records, []Record, error) {
	era := era()
	if era == "" {
		return nil, nil, nil
	}
	own, err := c.dir.open(Private)
	if err != nil {
		return nil, nil, err
	}
	defer own.Close()
	title := recordsTitle + era
	r := &Records{title: title, end: 1, missing: make(map[string]bool)}
	c.records = r
	file, err := own.openRecords(unix.O_RDWR)
	if errors.Is(err, unix.EROFS) {
		// Those of the daemon before us are there to be read all the same.
		r.frozen = true
		file, err = own.openRecords(unix.O_RDONLY)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrIrregular), errors.Is(err, unix.ELOOP):
		// None, or something in its place that no daemon has put there. If
		// there was a daemon, it could not make them, or somebody has removed
		// them: its services may run all the same.
		r.doubt = c.dir.left
	case err != nil:
		c.records = nil
		return nil, nil, err
	default:
		past, ours, err := r.read(file)
		if err == nil && ours {
			r.file = file
			return r, past, nil
		}
		file.Close()
		if err != nil {
			c.records = nil
			return nil, nil, err
		}
	}
	if r.file, err = own.newRecords(title); unwritable(err) {
		r.frozen = true
		return r, nil, err
	}
	if err != nil {
		c.records = nil
		return nil, nil, err
	}
	return r, nil, nil
}

// Incomplete tells whether the records that were left may lack some: a service
// that has none may run all the same.
func (r *Records) Incomplete() bool { return r != nil && r.doubt }

// entitle writes the title again. It is not known to be missing what it says
// there that it is; that costs the next daemon some time, and no more.
func (r *Records) entitle(words string) { r.file.WriteAt(titleLine(r.title+words), 0) }

func titleLine(title string) []byte { return pad([]byte(title)) }

// current is the open file.
func (r *Records) current() *os.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file
}

// renew begins a new file, when the old one is gone. Every service has to
// write its record again; each keeps its slot. One that could only be read is
// opened again instead.
func (r *Records) renew(own *Folder) error {
	// Some may take long until they write, as who looks for a process that the
	// last daemon has left: until they have there are gaps, and it is not worth
	// the trouble to know when there are none.
	again, doubt := own.newRecords, true
	if r.frozen && r.current() != nil && own.has(recordsFile, r.current()) {
		again, doubt = func(string) (*os.File, error) { return own.openRecords(unix.O_RDWR) }, false
	}
	file, err := again(r.title + gaps)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.file.Close() // which may be none
	r.file, r.frozen, r.doubt = file, false, r.doubt || doubt
	clear(r.missing)
	return nil
}

// newRecords puts an empty file of records in the place of what is there.
func (f *Folder) newRecords(title string) (*os.File, error) {
	tmp, err := f.write(recordsFile, titleLine(title), 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Rename(tmp, recordsFile); err != nil {
		f.Remove(tmp)
		return nil, err
	}
	return f.openRecords(unix.O_RDWR)
}

func (f *Folder) openRecords(how int) (*os.File, error) {
	fd, err := unix.Openat(f.fd, recordsFile, how|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENXIO { // a socket
		err = ErrIrregular
	}
	if err != nil {
		return nil, f.err("open", recordsFile, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, f.err("open", recordsFile, errors.Join(err, ErrIrregular))
	}
	return os.NewFile(uintptr(fd), recordsFile), nil
}

// read reads the records, line by line, and finds the free ones. They are not
// ours if they are of another boot. A line that makes no sense is free: of a
// name only the first line counts.
func (r *Records) read(file *os.File) (past []Record, ours bool, err error) {
	lines := bufio.NewReaderSize(file, 64*recordSize)
	var line [recordSize]byte
	seen := make(map[string]bool)
	for n := 0; ; n++ {
		switch _, err := io.ReadFull(lines, line[:]); {
		case err == io.EOF, err == io.ErrUnexpectedEOF:
			r.end = max(n, 1)
			return past, ours, nil
		case err != nil:
			return nil, false, err
		case n == 0:
			found := strings.TrimRight(string(line[:]), " \n")
			if ours = found == r.title || found == r.title+gaps; !ours {
				return nil, false, nil
			}
			// Where nothing can be written, nobody could have said it.
			r.doubt = found != r.title || r.frozen
			continue
		}
		record, ok := ParseRecord(line[:])
		if !ok || seen[record.Name] {
			r.free = append(r.free, n)
			continue
		}
		record.slot, record.doubt = n, r.doubt
		seen[record.Name] = true
		past = append(past, record)
	}
}

// Write writes a record into a slot, 0 for a free one, and returns the slot.
// A slot belongs to one service, whose actor alone writes there.
func (r *Records) Write(slot int, record Record) (int, error) {
	if r == nil {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	line := record.encode(r.line[:0])
	used := slot
	switch {
	case slot != 0:
	case len(r.free) > 0:
		used = r.free[len(r.free)-1]
	default:
		used = r.end
	}
	if _, err := r.file.WriteAt(line, int64(used)*recordSize); err != nil {
		if len(r.missing) == 0 {
			r.entitle(gaps)
		}
		r.missing[record.Name] = true
		return slot, err
	}
	if r.missing[record.Name] {
		delete(r.missing, record.Name)
		if len(r.missing) == 0 && !r.doubt {
			r.entitle("")
		}
	}
	switch {
	case slot != 0:
	case used == r.end:
		r.end++
	default:
		r.free = r.free[:len(r.free)-1]
	}
	return used, nil
}

// Drop forgets what is in a slot: the service is gone for good.
func (r *Records) Drop(slot int) error {
	if r == nil || slot == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	line := pad(r.line[:0])
	r.free = append(r.free, slot)
	_, err := r.file.WriteAt(line, int64(slot)*recordSize)
	return err
}

// encode appends the line of a record. The name stands first and ends with a
// slash, which no name has in it; the rest are keys and values, those that are
// zero left out. What does not fit is the cause: the rest is bounded.
func (r Record) encode(line []byte) []byte {
	line = append(append(line, r.Name...), '/')
	word := func(key, value string) {
		line = append(append(append(append(line, ' '), key...), '='), value...)
	}
	number := func(key string, n int64) {
		if n != 0 {
			line = strconv.AppendInt(append(append(append(line, ' '), key...), '='), n, 10)
		}
	}
	word("phase", r.Phase)
	word("wanted", r.Wanted)
	number("pid", int64(r.Pid))
	number("group", int64(r.Group))
	number("from", int64(r.From))
	number("to", int64(r.To))
	number("since", int64(r.Since))
	number("due", int64(r.Due))
	number("kill-at", int64(r.KillAt))
	number("killed", int64(r.Killed))
	number("not-before", int64(r.NotBefore))
	number("ended", int64(r.Ended))
	number("retry", int64(r.Retry))
	number("failures", int64(r.Failures))
	number("starts", int64(r.Starts))
	number("restarts", int64(r.Restarts))
	if r.HoldIno != 0 {
		line = strconv.AppendUint(append(line, " hold-ino="...), r.HoldIno, 10)
	}
	number("hold-ctime", r.HoldCtime)
	quoted := func(key, value string, room int) {
		if value == "" {
			return
		}
		for text := value; ; text = strings.ToValidUTF8(text[:len(text)*3/4], "") {
			if q := strconv.Quote(text); len(q) <= room {
				word(key, q)
				return
			}
		}
	}
	quoted("asked", r.Asked, 70)
	quoted("exit", r.LastExit, 60)
	quoted("cause", r.Cause, max(2, recordSize-1-len(line)-len(" cause=")))
	return pad(line)
}

// pad fills a line up with spaces, and ends it.
func pad(line []byte) []byte {
	for len(line) < recordSize-1 {
		line = append(line, ' ')
	}
	return append(line[:recordSize-1], '\n')
}

// ParseRecord reads one line. It is false for an empty one and for anything
// that no daemon can have written.
func ParseRecord(line []byte) (Record, bool) {
	var r Record
	name, rest, ok := strings.Cut(string(line), "/ ")
	if !ok || CheckName(name) != nil {
		return r, false
	}
	r.Name = name
	for {
		rest = strings.TrimLeft(rest, " ")
		if rest == "\n" {
			break
		}
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			return r, false
		}
		var value string
		if strings.HasPrefix(after, `"`) {
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				return r, false
			}
			value, _ = strconv.Unquote(quoted)
			rest = after[len(quoted):]
		} else {
			value, rest, ok = strings.Cut(after, " ")
			if !ok {
				return r, false
			}
		}
		if !r.set(key, value) {
			return r, false
		}
	}
	switch r.Phase {
	case Up, Stopping, Down, Backoff, Blocked:
	default:
		return r, false
	}
	switch r.Wanted {
	case "up", "down", "once", "gone":
	default:
		return r, false
	}
	return r, true
}

// set takes one key and its value; keys of a later version are passed over.
func (r *Record) set(key, value string) bool {
	number := func(into *time.Duration) bool {
		n, err := strconv.ParseInt(value, 10, 64)
		*into = time.Duration(n)
		return err == nil && n > 0
	}
	count := func(into *int) bool {
		n, err := strconv.ParseInt(value, 10, 32)
		*into = int(n)
		return err == nil && n > 0
	}
	process := func(into *int) bool { return count(into) && *into > 1 }
	var err error
	switch key {
	case "phase":
		r.Phase = value
	case "wanted":
		r.Wanted = value
	case "pid":
		return process(&r.Pid)
	case "group":
		return process(&r.Group)
	case "from":
		return number(&r.From)
	case "to":
		return number(&r.To)
	case "since":
		return number(&r.Since)
	case "due":
		return number(&r.Due)
	case "kill-at":
		return number(&r.KillAt)
	case "killed":
		return number(&r.Killed)
	case "not-before":
		return number(&r.NotBefore)
	case "ended":
		return number(&r.Ended)
	case "retry":
		return number(&r.Retry)
	case "failures":
		return count(&r.Failures)
	case "starts":
		return count(&r.Starts)
	case "restarts":
		return count(&r.Restarts)
	case "hold-ino":
		r.HoldIno, err = strconv.ParseUint(value, 10, 64)
	case "hold-ctime":
		r.HoldCtime, err = strconv.ParseInt(value, 10, 64)
	case "exit":
		r.LastExit = value
	case "cause":
		r.Cause = value
	case "asked":
		r.Asked = value
	}
	return err == nil
}
