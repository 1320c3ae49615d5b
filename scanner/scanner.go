// Package scanner keeps watch over the service directory and says what is in
// it: snapshots of entries, each a whole truth. What follows from them is the
// supervisor's business.
//
// A watch makes it fast, a slow check makes it true: that is one stat(2) of the
// directory, and a look at each entry that does not run as it should, every five
// seconds; once a minute when nothing happens and the kernel tells of everything
// that could be found.
//
// A service that has just come is told of by itself as well, as soon as the
// watch names it: to read a large directory first would keep it waiting.
//
// Invariants: an entry is reported gone only after it has been missing for a
// second from the directory it was in; entries of a directory that itself
// disappeared or was covered are kept.
package scanner

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/program"
	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// Entry is one service in the directory.
type Entry struct {
	Name  string
	Bar   string // why it cannot be run as it is; empty if it can
	Stamp Stamp  // changes whenever the entry or the file behind it does
	Gone  bool   // missing, for less than a second
}

// Stamp tells one state of an entry from another, and one entry from another.
type Stamp struct {
	ID      ID     // of the entry itself, be it a link
	Version uint64 // of all that stat(2) tells of it, and of what it leads to; odd: it is a link
}

// ID tells which file an entry is; it stays when the entry is renamed.
type ID struct{ Dev, Ino uint64 }

// seed makes versions of stamps: two states of an entry have the same one in
// one of 2^63 cases.
var seed = maphash.MakeSeed()

// stampOf makes a stamp of what lstat(2) and stat(2) say.
func stampOf(link, file rundir.Stamp) Stamp {
	version := maphash.Comparable(seed, [2]rundir.Stamp{link, file}) &^ 1
	if link.Mode&unix.S_IFMT == unix.S_IFLNK {
		version |= 1
	}
	return Stamp{ID{link.Dev, link.Ino}, version}
}

// link tells whether the entry is one.
func (s Stamp) link() bool { return s.Version&1 != 0 }

// How long things take.
const (
	Slow  = 5 * time.Second // between slow checks
	Calm  = time.Minute     // between them at rest, if the kernel tells of everything
	Grace = time.Second     // an entry may be missing this long
	// pause is the shortest time between two scans: a burst of changes is
	// one scan at its beginning and one at its end.
	pause = 10 * time.Millisecond
	// prompt is how soon the slow check comes when the kernel tells that a path
	// may lead elsewhere. Mounts come in swarms.
	prompt = 100 * time.Millisecond
	// settle: an entry that is new and cannot be run is probably still being
	// made; it is told of when it stays so for this long.
	settle = 200 * time.Millisecond
	// fresh: a directory that changed this recently may change again within
	// the same tick of its time stamp.
	fresh = 2 * time.Second
)

// Fact is something that the scanner tells whoever keeps the log.
type Fact interface{ fact() }

// Scanned is told after each scan.
type Scanned struct {
	Entries int
	Took    time.Duration
	Changed bool // a snapshot was sent
}

// Refused is told once of an entry whose name cannot be a service's.
type Refused struct {
	Name string
	Err  error
}

// Unreadable is told once when the directory cannot be read: services stay
// as they are.
type Unreadable struct{ Err error }

// Found is told when it can be read again.
type Found struct{}

// Replaced is told when another directory is found under the path. Kept are
// the services that are not in it, and run on.
type Replaced struct{ Kept []string }

// Hung is told when a file system does not answer about an entry.
type Hung struct{ Name string }

// Watchless is told once when the kernel gives no watch and the scanner polls.
type Watchless struct{ Err error }

// Overrun is told when events were lost and everything is read again.
type Overrun struct{}

func (Scanned) fact()    {}
func (Refused) fact()    {}
func (Unreadable) fact() {}
func (Found) fact()      {}
func (Replaced) fact()   {}
func (Watchless) fact()  {}
func (Hung) fact()       {}
func (Overrun) fact()    {}

// Config says what to scan and whom to tell.
type Config struct {
	Dir    string // the service directory, absolute
	Send   func([]Entry)
	Report func(Fact) // must not block
	// Early is told of an entry that has just come, and can be run, as soon as
	// the watch tells of its name. It is a hint: it may be passed over, because
	// a snapshot follows within moments in any case; nil is allowed.
	Early func(Entry)
	// Restless lists services that wait for a better file although nothing
	// was wrong with theirs when it was last looked at. It is asked at each
	// slow check; nil is allowed.
	Restless func() []string
	// Tick is called after each slow check, for whoever else looks at the world
	// every five seconds; nil is allowed. It must not block. At rest the check
	// is rare: whoever has something left to look at calls Stir.
	Tick func()
	// Ways are the paths, absolute, that whoever gets the Tick looks at: each
	// of them, and what leads there, is watched, so that the slow check comes
	// at once when one is removed or replaced. While one is not there the
	// check is never rare.
	Ways []string
}

// Scanner is the scanner actor. Run owns all of it but rescan, heard, mood
// and stir.
type Scanner struct {
	config  Config
	rescan  chan struct{}
	heard   heard
	mood    atomic.Int32  // see Stir
	stir    chan struct{} // receives when a calm is over
	slow    time.Duration // Slow, Calm
	calm    time.Duration
	covered bool          // the ways are, as they were laid the last time
	laid    time.Time     // when that was
	rang    bool          // and one of them has rung since
	hasten  time.Duration // when to check again if they are not; slow: there is no hurry
	watcher *watch.Watcher
	watched bool
	polls   bool // there is no watch: the bell rings each second
	first   bool // nothing has been sent yet
	owed    bool // a snapshot is due, whatever the next scan finds

	dir      ID                       // which directory was read last
	dirStamp rundir.Stamp             // and in which state
	read     time.Time                // and when
	known    known                    // entries by name
	refused  map[string]bool          // names already told of
	lost     bool                     // the directory could not be read last time
	empty    bool                     // there was nothing in it last time
	opened   bool                     // its mode has changed: each entry is checked anew
	hung     map[string]chan struct{} // entries nobody has an answer about, closed when there is
}

// seen is what the scanner knows of an entry.
type seen struct {
	entry   Entry
	missing time.Time // since when; zero: it is there
	kept    bool      // it was in a directory that is no longer here
	young   time.Time // since when it is new, and perhaps not finished; zero: told of
}

// known is the entries that the scanner remembers. There may be very many, and
// of most there is little to remember. A name is in one of the two only.
type known struct {
	plain []memory        // those that can be run, are there, and have been told of, sorted by name
	odd   map[string]seen // all others
}

type memory struct {
	name  string
	stamp Stamp
}

func (m memory) seen() seen { return seen{entry: Entry{Name: m.name, Stamp: m.stamp}} }

// place is where an entry is among the plain ones, or would be.
func (k *known) place(name string) (at int, there bool) {
	return slices.BinarySearchFunc(k.plain, name, func(m memory, name string) int { return cmp.Compare(m.name, name) })
}

// get returns what is known of an entry, the zero seen if nothing is.
func (k *known) get(name string) seen {
	if at, there := k.place(name); there {
		return k.plain[at].seen()
	}
	return k.odd[name]
}

// has tells whether anything is.
func (k *known) has(name string) bool { return k.get(name).entry.Name != "" }

// set remembers an entry. It is quick if that is the last one by its name.
func (k *known) set(s seen) {
	m := memory{s.entry.Name, s.entry.Stamp}
	at, there := len(k.plain), false
	if at > 0 && m.name <= k.plain[at-1].name {
		at, there = k.place(m.name)
	}
	switch plain := s == m.seen(); {
	case plain && there:
		k.plain[at] = m
	case plain:
		delete(k.odd, m.name)
		k.plain = slices.Insert(k.plain, at, m)
	default:
		if there {
			k.plain = slices.Delete(k.plain, at, at+1)
		}
		k.odd[m.name] = s
	}
}

func (k *known) len() int { return len(k.plain) + len(k.odd) }

// all goes through all of them. Odd ones may be set meanwhile to what is odd.
func (k *known) all() iter.Seq[seen] {
	return func(yield func(seen) bool) {
		for _, m := range k.plain {
			if !yield(m.seen()) {
				return
			}
		}
		for _, s := range k.odd {
			if !yield(s) {
				return
			}
		}
	}
}

// New makes a scanner. The directory must be there: an error otherwise.
func New(config Config) (*Scanner, error) {
	info, err := os.Stat(config.Dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: config.Dir, Err: unix.ENOTDIR}
	}
	return &Scanner{
		config:  config,
		rescan:  make(chan struct{}, 1),
		stir:    make(chan struct{}, 1),
		slow:    Slow,
		hasten:  Slow,
		calm:    Calm,
		known:   known{odd: make(map[string]seen)},
		refused: make(map[string]bool),
		hung:    make(map[string]chan struct{}),
	}, nil
}

// Rescan asks for a scan now. It does not block.
func (s *Scanner) Rescan() {
	select {
	case s.rescan <- struct{}{}:
	default:
	}
}

// Run scans until ctx is done. The first snapshot is sent at once.
func (s *Scanner) Run(ctx context.Context) error {
	watcher, err := watch.New(s.heard.hear)
	if err != nil {
		s.polls = true
		s.config.Report(Watchless{err})
	}
	s.watcher = watcher
	defer watcher.Close()

	slow := time.NewTimer(s.slow)
	defer slow.Stop()
	grace := time.NewTimer(time.Hour)
	grace.Stop()
	var quiet <-chan time.Time // set while the pause after a scan lasts
	due := true                // a scan is wanted
	tick := false              // and Tick is, after it
	soon := false              // the slow check is about to come
	s.first = true
	// Before anything can be lost without a word; what is lost already is for
	// whoever gets the Tick.
	if s.cover(); !s.covered {
		s.tick()
	}
	for {
		if due && quiet == nil {
			due = false
			s.Stir()
			s.scan()
			s.first = false
			quiet = time.After(pause)
			if until := s.nextLook(); !until.IsZero() {
				grace.Reset(time.Until(until))
			}
		}
		if tick && !due {
			tick = false
			s.tick()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-quiet:
			quiet = nil
		case <-s.rescan:
			due = true
		case <-grace.C:
			due = true
		case <-s.stir:
			if !soon {
				slow.Reset(s.slow)
			}
		case <-watcher.Bell():
			news := watcher.Take()
			s.rang = s.rang || news.Way
			if news.Way && !soon {
				s.Stir()
				soon = true
				s.hasten = prompt
				slow.Reset(prompt)
			}
			if len(news.Keys) == 0 && !news.All {
				continue
			}
			due = true
			lost := news.Lost
			if lost {
				s.config.Report(Overrun{})
			}
			if quiet == nil && !lost && s.glance(s.heard.take()) {
				// First those who have something to do now.
				runtime.Gosched()
				quiet = time.After(pause)
			}
		case <-slow.C:
			soon = false
			stale, next := s.check()
			slow.Reset(next)
			due, tick = due || stale, true
		}
	}
}

func (s *Scanner) tick() {
	if s.config.Tick != nil {
		s.config.Tick()
	}
}

// stale is the slow check: whether anything may have changed that no event
// told of.
func (s *Scanner) stale() bool {
	var st unix.Stat_t
	if err := unix.Stat(s.config.Dir, &st); err != nil {
		return true
	}
	stamp := rundir.StampOf(&st)
	if s.lost || !s.watched || stamp != s.dirStamp || s.read.Sub(time.Unix(0, stamp.Mtime)).Abs() < fresh {
		return true
	}
	doubtful := s.doubtful()
	for i, e := range s.look(doubtful, s.entry) {
		if e != s.entry(doubtful[i]) {
			return true
		}
	}
	return false
}

// entry is what is known of an entry.
func (s *Scanner) entry(name string) Entry { return s.known.get(name).entry }

// look reads entries anew, of which old is what is known; the zero Entry stands
// for one that is not there. A file system that does not answer is waited for a
// while, and then by somebody else: the entry stays as it was until it has
// answered, and nobody else is held up. Many are looked at in parts, all at once.
func (s *Scanner) look(names []string, old func(name string) Entry) []Entry {
	entries := make([]Entry, len(names))
	for i, name := range names {
		entries[i] = old(name)
	}
	const worthIt = 64
	parts := max(1, min(runtime.GOMAXPROCS(0), len(names)/worthIt))
	var looks []*looking
	for n := range parts {
		from, to := n*len(names)/parts, (n+1)*len(names)/parts
		looks = append(looks, s.begin(names[from:to], entries[from:to]))
	}
	for _, l := range looks {
		for n := s.await(l); n < len(l.names); n = s.await(l) {
			// What comes after this one is looked at by another goroutine.
			l = s.begin(l.names[n:], l.known[n:])
		}
	}
	return entries
}

// begin begins a look at entries of which this is what is known.
func (s *Scanner) begin(names []string, known []Entry) *looking {
	l := &looking{opened: s.opened, dir: s.config.Dir, names: names, known: known, entries: slices.Clone(known), done: make(chan struct{})}
	for _, name := range names {
		select {
		case <-s.hung[name]:
			delete(s.hung, name)
		default:
			if s.hung[name] != nil {
				l.skip = append(l.skip, name)
			}
		}
	}
	go func() {
		defer close(l.done)
		l.run()
	}()
	return l
}

// await waits until a look is over or hangs, and returns how many entries are
// done with: what is known of them is new.
func (s *Scanner) await(l *looking) int {
	// Most looks are over before a timer could be set, which wakes a thread.
	for range 20 {
		select {
		case <-l.done:
			return copy(l.known, l.entries)
		default:
			runtime.Gosched()
		}
	}
	late := time.NewTicker(answerTime)
	defer late.Stop()
	for seen := int64(-1); ; {
		select {
		case <-l.done:
			return copy(l.known, l.entries)
		case <-late.C:
		}
		at := l.at.Load()
		if int(at) == len(l.names) {
			<-l.done // just about to be closed
			return copy(l.known, l.entries)
		}
		if at != seen {
			seen = at
			continue
		}
		if !l.at.CompareAndSwap(at, given) {
			continue // it has just got its answer
		}
		copy(l.known[:at], l.entries[:at])
		name := l.names[at]
		s.hung[name] = l.done
		s.config.Report(Hung{name})
		go func() {
			<-l.done
			s.Rescan()
		}()
		return int(at) + 1
	}
}

// looking is a look at many entries, on a goroutine of its own.
type looking struct {
	dir     string
	opened  bool
	names   []string
	known   []Entry  // what is known of them; for who has begun it
	skip    []string // nobody has an answer about them yet
	entries []Entry  // what was known, and then what is seen
	at      atomic.Int64
	folders program.Folders
	done    chan struct{} // closed when it is over
}

// given is the place of a look that was given up.
const given = -1

func (l *looking) run() {
	l.folders = make(program.Folders)
	for i, name := range l.names {
		if !slices.Contains(l.skip, name) {
			l.entries[i] = l.look(name, l.entries[i])
		}
		if !l.at.CompareAndSwap(int64(i), int64(i+1)) {
			return
		}
	}
}

// answerTime is how long a file system may take to tell of a file.
const answerTime = time.Second

func (l *looking) look(name string, old Entry) Entry {
	path := filepath.Join(l.dir, name)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err == unix.ENOENT {
		return Entry{}
	} else if err != nil {
		// It cannot be looked at, which does not make it go.
		old.Gone = false
		return old
	}
	var file rundir.Stamp
	link := rundir.StampOf(&st)
	dangling := false
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if dangling = unix.Stat(path, &st) != nil; !dangling {
			file = rundir.StampOf(&st)
		}
	}
	e := Entry{Name: name, Stamp: stampOf(link, file)}
	if e.Stamp == old.Stamp && old.Bar == "" && !l.opened {
		return e // what could be run can still be run
	}
	var err error
	if dangling {
		err = l.folders.Check(path) // which says why
	} else {
		err = l.folders.CheckFile(path, &st)
	}
	if err != nil {
		e.Bar = err.Error()
	}
	return e
}

// scan reads the whole directory and sends a snapshot if anything changed.
func (s *Scanner) scan() {
	start := time.Now()
	s.heard.take() // the reading will tell
	another := s.watch()
	var st unix.Stat_t
	err := unix.Stat(s.config.Dir, &st)
	// A disk that fails for a moment is no directory that has gone.
	gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESTALE)
	var names []string
	if err == nil {
		names, err = list(s.config.Dir)
	}
	if err != nil {
		s.watched = false
		if !s.lost {
			s.lost = true
			s.config.Report(Unreadable{err})
		}
		if gone && s.keepMissed() {
			s.config.Send(s.snapshot())
		}
		return
	}
	if s.lost {
		s.lost = false
		s.config.Report(Found{})
	}
	dir, stamp := ID{uint64(st.Dev), uint64(st.Ino)}, rundir.StampOf(&st)
	// A new directory may have the number of the one that was removed.
	other := s.dir != dir
	moved := (other || another) && s.dir != ID{}
	s.opened = stamp.Mode != s.dirStamp.Mode
	s.dir, s.dirStamp, s.read, s.empty = dir, stamp, start, len(names) == 0
	changed, kept := s.merge(names, moved, start)
	if moved && (other || len(kept) > 0) {
		s.config.Report(Replaced{kept})
	}
	s.opened = false
	changed = changed || s.first || s.owed
	if changed {
		s.owed = false
		s.config.Send(s.snapshot())
	}
	s.config.Report(Scanned{Entries: s.known.len(), Took: time.Since(start), Changed: changed})
}

// keepMissed keeps what was just missed, which went with the directory, and
// tells whether there was anything.
func (s *Scanner) keepMissed() (found bool) {
	for _, k := range s.known.odd {
		if !k.missing.IsZero() {
			k.entry.Gone = false
			s.known.set(seen{entry: k.entry, kept: true})
			found = true
		}
	}
	return found
}

// watch puts the watch on the directory and tells whether it is another than
// the one that was watched. It comes before the reading, so that nothing falls
// between the two.
func (s *Scanner) watch() (another bool) {
	another, err := s.watcher.Add(s.config.Dir+"/.", "")
	if errors.Is(err, watch.ErrPolling) && !s.polls {
		s.polls = true
		s.config.Report(Watchless{err})
	}
	s.watched = err == nil || s.polls
	return another
}

func list(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// merge brings what is known up to date with the names that are there, and
// tells whether that changed anything. moved says that they are those of
// another directory than last time; kept are the services that are not in it.
func (s *Scanner) merge(names []string, moved bool, now time.Time) (changed bool, kept []string) {
	services := make([]string, 0, len(names))
	for _, name := range names {
		if rundir.Ignored(name) {
			continue
		}
		if err := rundir.CheckName(name); err != nil {
			if !s.refused[name] {
				s.refused[name] = true
				s.config.Report(Refused{name, err})
			}
			continue
		}
		services = append(services, name)
	}
	slices.Sort(services)
	next := known{plain: make([]memory, 0, len(services)), odd: make(map[string]seen)}
	for i, e := range s.look(services, s.entry) {
		if e.Name == "" {
			continue // gone since the directory was read
		}
		old := s.known.get(services[i])
		if old.entry.Name != "" {
			e.Name = old.entry.Name // which others have too: the same bytes in memory
		}
		k := seen{entry: e}
		if wait := e.patience(); wait > 0 && !s.first {
			k.young = old.young
			if old.entry.Name == "" {
				k.young = now
			} else if now.Sub(old.young) >= wait {
				k.young = time.Time{}
			}
		}
		told, tell := old.entry.Name != "" && old.young.IsZero(), k.young.IsZero()
		if told != tell || tell && (e != old.entry || old.kept) {
			changed = true
		}
		next.set(k)
	}
	maps.DeleteFunc(s.refused, func(name string, _ bool) bool { return !slices.Contains(names, name) })

	for k := range s.known.all() {
		name := k.entry.Name
		switch {
		case next.has(name):
			continue
		case k.kept && !moved:
			// It has been told of, and runs on.
		case !k.young.IsZero():
			continue // it was never told of
		case moved:
			// What ran in the directory that was here before runs on.
			kept = append(kept, name)
			if !k.kept {
				k.kept, k.missing, k.entry.Gone = true, time.Time{}, false
				changed = true
			}
		case k.missing.IsZero():
			k.missing, k.entry.Gone = now, true
			changed = true
		case now.Sub(k.missing) >= Grace:
			changed = true
			continue
		}
		next.set(k)
	}
	s.known = next
	slices.Sort(kept)
	return changed, kept
}

// patience is how long a new entry has to stay as it is before it is told of.
func (e Entry) patience() time.Duration {
	if e.Bar != "" || e.Stamp.link() && passing(e.Name) {
		return settle
	}
	return 0
}

// passing tells whether a name is of the kind under which ln -sf of GNU makes a
// link, Cu and six more, before it renames it over the old one. It is not there
// to stay; others remove the old link.
func passing(name string) bool {
	if len(name) != len("CuXXXXXX") || name[:2] != "Cu" {
		return false
	}
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// nextLook is when a missing entry is gone for good or a young one is to be
// told of, whichever comes first; zero if there is neither.
func (s *Scanner) nextLook() time.Time {
	var next time.Time
	sooner := func(since time.Time, after time.Duration) {
		if at := since.Add(after); !since.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, k := range s.known.odd {
		sooner(k.missing, Grace)
		sooner(k.young, k.entry.patience())
	}
	return next
}

func (s *Scanner) snapshot() []Entry {
	entries := make([]Entry, 0, s.known.len())
	for k := range s.known.all() {
		if k.young.IsZero() {
			entries = append(entries, k.entry)
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return entries
}
