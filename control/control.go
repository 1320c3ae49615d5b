package control

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// Message is what the daemon's end makes of a request or of a lock file, or of
// what a service writes about itself.
type Message struct {
	Service string

	// Said: it is none of the two. What the service says of itself may be
	// another thing than before; whoever gets this looks. Pid, if there is one,
	// is all there is that anybody could say, in the pid file: so nothing is new
	// to whoever has written that.
	Said bool
	Pid  int

	Request Request
	Refused string       // why the request makes no sense; then it has no verb
	Lost    bool         // the service's folder was removed and has been made anew
	Lock    rundir.Stamp // of the lock file this was read from, or that was written for it; zero: neither
}

// Config says where requests are and who gets them.
type Config struct {
	Rundir  *rundir.Dir
	Deliver func(Message) // must not block
	Report  func(Fact)    // must not block

	// Deaf is called once if folders are polled from now on: nothing is
	// delivered any more of what services say of themselves. It must not
	// block; nil is allowed.
	Deaf func()
}

// Fact is something that the control actor tells whoever keeps the log.
type Fact interface{ fact() }

// Asked is told of each message, before it is delivered, but for those with a
// Pid: there is one for each service, and as a rule nothing in it.
type Asked struct{ Message Message }

// Unwritten is told when a lock file could not be written or removed.
type Unwritten struct {
	Service string
	Err     error
}

// Watchless is told once when the kernel gives no watch and folders are polled.
type Watchless struct{ Err error }

// Overrun is told when events were lost and every folder is read again.
type Overrun struct{}

func (Asked) fact()     {}
func (Unwritten) fact() {}
func (Watchless) fact() {}
func (Overrun) fact()   {}

// How long a file may be half done.
const (
	// blink is how long to wait for the second half of two steps that people
	// take with plain tools: echo makes a file and then fills it, rm -r
	// removes a lock and then the folder around it.
	blink = 50 * time.Millisecond
	// unfilled is when an empty request is thrown away.
	unfilled = time.Second
)

// Control is the control actor. Run owns all of it but the calls to it.
type Control struct {
	config Config

	mu     sync.Mutex // guards calls, locked and the life of the watcher, between callers and Run
	calls  []call
	locked map[string]struct{} // services that have a lock, or may have had one
	wake   chan struct{}

	busy sync.Mutex // held while Run looks at folders; see Hold

	// watcher is Run's. Forget, Mute and Heed use it too, with mu, as long as it
	// is there.
	watcher  *watch.Watcher
	polls    bool
	attended names                // services whose requests are taken
	folders  map[string]*folder   // of those, what is known of the folders that are not plain
	again    map[string]time.Time // folders to look at once more, and when
}

// call is an Attend, a Forget, a Renew or a Heed on its way to Run.
type call struct {
	name   string
	attend bool
	renew  bool
	heard  watch.Mark // of a Heed
}

// folder is what is known of a service's folder.
type folder struct {
	fresh     bool           // it has not been looked at yet
	status    bool           // it is due a status: it had one, or its actor is about to write it
	unwritten bool           // the lock does not say what it should: it could not be written
	remade    bool           // it was missing, and we have made it
	unheard   bool           // what its service says has not been looked for since it is watched
	lock      rundir.Version // of the lock that was last acted upon; zero: none
	*pending                 // nil but in a look, if nothing is
}

// pending is what is not done with in a folder. Most have nothing of it for all
// their lives, and there may be very many folders.
type pending struct {
	missed time.Time      // since when it has no status although it is due one; zero: it has
	half   time.Time      // since when the lock looks half done; zero: it does not
	empty  time.Time      // since when a request waits for its writer; zero: none does
	told   time.Time      // when its actor was last told that the service says something; zero: some time ago
	more   bool           // the service has said more since, or takes something back
	unsaid time.Time      // since when it takes something back; zero: it does not
	stuck  rundir.Version // a request that was answered and cannot be removed
}

// plain is what most folders are: there was never a lock, and nothing is pending.
// Of these nothing is kept.
var plain = folder{status: true}

// own finds a folder that is to be looked at or changed, and keeps what is known
// of it; settle forgets that if the folder is plain again.
func (c *Control) own(name string) (k *folder, ok bool) {
	k, ok = c.folders[name]
	if !ok && c.attended.has(name) {
		own := plain
		k, ok = &own, true
		c.folders[name] = k
	}
	return k, ok
}

func (c *Control) settle(name string, k *folder) {
	if *k.pending == (pending{}) {
		k.pending = nil
	}
	if *k == plain && c.folders[name] == k { // it is not another's by now
		delete(c.folders, name)
	}
}

// New makes a control actor that attends to nothing yet.
func New(config Config) *Control {
	return &Control{
		config:  config,
		wake:    make(chan struct{}, 1),
		locked:  make(map[string]struct{}),
		folders: make(map[string]*folder),
		again:   make(map[string]time.Time),
	}
}

// Attend begins to take requests for a service. What its lock says now is
// delivered too. It does not block.
func (c *Control) Attend(name string) { c.call(call{name: name, attend: true}) }

// Forget ends it. It does not block. The watch ends at once: whoever calls is
// about to empty the folder, and what the kernel would tell of that costs more
// than all the rest.
func (c *Control) Forget(name string) {
	c.call(call{name: name}) // first: see look
	c.mu.Lock()
	if c.watcher != nil {
		c.watcher.Remove(name)
	}
	c.mu.Unlock()
}

// Mute says that the actor of a service is about to change files in its folder
// that are no requests: nobody is woken for what happens there, until Heed. It
// does not block.
func (c *Control) Mute(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watcher != nil {
		c.watcher.Mute(c.path(name), name)
	}
}

// Heed ends a Mute. f is the open folder, or nil. If there is anything in it
// that may have been meant for us, or may have been removed meanwhile, or if the
// actor has read a lock there, which may be gone again, it is looked at soon; a pid file is the actor's, which has not made it yet. It does
// not block.
func (c *Control) Heed(name string, f *rundir.Folder, read bool) {
	c.mu.Lock()
	if c.watcher != nil {
		c.watcher.Heed(c.path(name), name)
	}
	_, locked := c.locked[name]
	c.mu.Unlock()
	there := rundir.Everything
	if f != nil {
		there = f.Content()
	}
	var heard watch.Mark
	if locked || read || there.Has(rundir.Lock) || there.Has(rundir.Control) || there.Has(rundir.Taken) || !there.Has(rundir.State) {
		heard |= order
	}
	if there.Has(rundir.Ready) || there.Has(rundir.Waiting) {
		heard |= said
	}
	if heard != 0 {
		c.call(call{name: name, heard: heard})
	}
}

func (c *Control) path(name string) string { return filepath.Join(c.config.Rundir.Path(), name) }

// Renew says that the run directory is another one: every folder is looked for
// anew. Those that are gone with the old one are no orders. It does not block.
func (c *Control) Renew() { c.call(call{renew: true}) }

func (c *Control) call(k call) {
	c.mu.Lock()
	c.calls = append(c.calls, k)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run takes requests until ctx is done.
func (c *Control) Run(ctx context.Context) error {
	watcher, err := watch.New(interest)
	if err != nil {
		c.watchless(err)
	}
	c.use(watcher)
	defer watcher.Close()
	defer c.use(nil)
	late := time.NewTimer(time.Hour)
	late.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-watcher.Bell():
		case <-late.C:
		}
		c.busy.Lock()
		c.lookAround()
		c.busy.Unlock()
		if next, ok := c.nextLook(); ok {
			late.Reset(time.Until(next))
		}
	}
}

// What a change may be: an order, or something that the service says of itself,
// or says no longer.
const (
	order watch.Mark = 1 << iota
	said
	unsaid
)

// interest is what the name of a file that has changed in a folder is of
// interest for. Ordinary starts and stops ring nobody: the pid file counts when
// somebody has written to it, which the daemon does not, that links it there and
// removes it.
func interest(name string, what watch.Change) watch.Mark {
	switch name {
	case rundir.Lock, rundir.Control, rundir.Taken:
		return order
	case rundir.State:
		if what&watch.Gone != 0 {
			return order // only we write it, and whoever removes it is not we
		}
	case rundir.Ready, rundir.Waiting:
		switch {
		case what&watch.Gone != 0:
			return unsaid
		case what&watch.Came != 0, what&watch.Written != 0 && name == rundir.Waiting:
			return said // of what is in ready, nothing counts
		}
	case rundir.Pid:
		if what&watch.Written != 0 {
			return said
		}
	}
	return 0
}

// use lets Forget have the watcher, or no longer.
func (c *Control) use(w *watch.Watcher) {
	c.mu.Lock()
	c.watcher = w
	c.mu.Unlock()
}

// Hold lets no request be taken until Resume is called. It waits for those
// that are just being taken: those have been delivered when it returns.
func (c *Control) Hold() { c.busy.Lock() }

// Resume ends a Hold.
func (c *Control) Resume() { c.busy.Unlock() }

// lookAround looks at every folder that something has happened to.
func (c *Control) lookAround() {
	c.answer()
	news := c.watcher.Take()
	if news.Lost {
		c.config.Report(Overrun{})
	}
	c.rings(news) // first: if a folder is another one now, what it was told of is past
	now := time.Now()
	for name, at := range c.again {
		if !now.Before(at) {
			delete(c.again, name)
			c.look(name)
		}
	}
}

// rings looks at what the watcher has heard of.
func (c *Control) rings(news watch.News) {
	if news.All {
		for _, name := range slices.Clone(c.attended) { // a look may change who is
			c.look(name)
			c.hear(name, said)
		}
		return
	}
	for name, mark := range news.Keys {
		c.ring(name, mark)
	}
}

// ring is rings for one folder.
func (c *Control) ring(name string, mark watch.Mark) {
	c.hear(name, mark) // first: if the folder is another one now, that is past
	if mark&(order|watch.Itself) != 0 {
		c.look(name)
	}
}

// hear passes on that a service may have said something: at once the first time,
// and all that comes in the next moment together, however often it writes. So is
// what it takes back: rm -r takes what is in the folder one after the other, and
// must not meet a status that is written because of the first.
func (c *Control) hear(name string, mark watch.Mark) {
	if mark&(said|unsaid) == 0 || c.polls || !c.attended.has(name) {
		return
	}
	k, _ := c.own(name)
	if k.pending == nil {
		k.pending = new(pending)
	}
	if mark&said != 0 && k.told.IsZero() {
		c.deliver(Message{Service: name, Said: true})
	} else {
		k.more = true
	}
	if k.told.IsZero() {
		k.told = time.Now()
	}
	if mark&unsaid != 0 && k.unsaid.IsZero() {
		k.unsaid = time.Now()
	}
	c.lookBy(name, k.next())
}

// next is when its actor is told the next time of what a service says.
func (p *pending) next() time.Time {
	if p.unsaid.After(p.told) {
		return p.unsaid.Add(blink)
	}
	return p.told.Add(blink)
}

// lookBy has a folder looked at by then, if not sooner.
func (c *Control) lookBy(name string, then time.Time) {
	if at, ok := c.again[name]; !ok || at.After(then) {
		c.again[name] = then
	}
}

func (c *Control) nextLook() (next time.Time, ok bool) {
	for _, at := range c.again {
		if !ok || at.Before(next) {
			next, ok = at, true
		}
	}
	return next, ok
}

func (c *Control) watchless(err error) {
	if !c.polls {
		c.polls = true
		c.config.Report(Watchless{err})
		if c.config.Deaf != nil {
			c.config.Deaf()
		}
	}
}

// answer does what was called for, in that order. A look may call it in turn,
// which goes on where this is.
func (c *Control) answer() {
	for k, ok := c.nextCall(); ok; k, ok = c.nextCall() {
		if k.renew {
			for _, name := range c.attended {
				k, _ := c.own(name)
				k.fresh = true
				c.again[name] = time.Now()
			}
		} else if k.heard != 0 {
			c.hear(k.name, k.heard)
			if k.heard&order != 0 {
				c.again[k.name] = time.Now() // and not here, in the middle of a look at it
			}
		} else if k.attend {
			c.attended.add(k.name)
			c.folders[k.name] = &folder{fresh: true, status: true}
			c.look(k.name)
		} else {
			f := c.folders[k.name]
			c.attended.remove(k.name)
			delete(c.folders, k.name)
			delete(c.again, k.name)
			c.lockSeen(k.name, false)
			c.watcher.Remove(k.name) // a look may have come in between
			if f != nil && f.remade {
				// It may have been late, and have made the folder anew, which
				// its actor had removed after it asked us to forget it.
				c.config.Rundir.RemoveFolder(k.name)
			}
		}
	}
}

// lockSeen keeps for Heed whether a service has a lock, as far as is known, or
// perhaps has one. One that is forgotten has none.
func (c *Control) lockSeen(name string, perhaps bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.folders[name]; k != nil && (perhaps || k.lock != 0) {
		c.locked[name] = struct{}{}
	} else {
		delete(c.locked, name)
	}
}

func (c *Control) nextCall() (k call, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) == 0 {
		c.calls = nil
		return call{}, false
	}
	k, c.calls = c.calls[0], c.calls[1:]
	return k, true
}

// open makes sure that the folder is there and watched, and tells whether it
// is another than before: somebody has removed the old one. It is false if the
// service is not attended to any more.
func (c *Control) open(name string, k *folder) (another bool, err error, ours bool) {
	another, err = c.watch(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return another, err, true
	}
	// Its service may be gone, and have said so before it took the folder
	// along: that is no order.
	if c.answer(); c.folders[name] != k {
		return false, nil, false
	}
	k.remade = true
	f, err := c.config.Rundir.MakeFolder(name)
	if err == nil {
		f.Close()
		_, err = c.watch(name)
	}
	return true, err, true
}

// watch watches the folder, if it is not watched already.
func (c *Control) watch(name string) (another bool, err error) {
	another, err = c.watcher.Add(c.path(name), name)
	if errors.Is(err, watch.ErrPolling) {
		c.watchless(err)
		err = nil
	}
	if err == nil && !another && c.polls {
		_, err = os.Lstat(c.path(name))
	}
	return another, err
}

// look reads a folder: the requests in it, then its lock.
func (c *Control) look(name string) {
	k, ok := c.own(name)
	if !ok {
		return
	}
	another, err, ours := c.open(name, k)
	if !ours {
		return
	}
	if k.pending == nil {
		k.pending = new(pending)
	}
	defer c.settle(name, k)
	if err != nil {
		c.again[name] = time.Now().Add(unfilled)
		return
	}
	if another && !k.fresh {
		// The watch also ends when the service has been forgotten.
		if c.answer(); c.folders[name] != k {
			return
		}
		// rm -r of the folder starts the service. The actor may have made
		// it anew before we could see that it was missing.
		*k = folder{status: true, remade: k.remade, pending: new(pending)}
		c.deliver(Message{Service: name, Request: Request{Verb: Start}, Lost: true})
	}
	k.unheard = k.unheard || another
	f, err := c.config.Rundir.Folder(name)
	if err != nil {
		c.again[name] = time.Now().Add(unfilled)
		return
	}
	defer f.Close()
	there := f.Content()
	// Before anybody is told: a lock that goes while nothing is heard must not go unseen.
	c.lockSeen(name, there.Has(rundir.Lock) || there.Has(rundir.Control) || there.Has(rundir.Taken))
	lost := !k.fresh && !another && c.bereft(name, k, there)
	if lost {
		// Somebody has removed what we published; or whoever removed the lock
		// was on his way to remove all else, and slower than we were in
		// starting the service again. What the lock says now is said anew.
		k.lock, k.unwritten = 0, false
	}
	k.fresh = false
	empty, locked := false, there.Has(rundir.Lock)
	if there.Has(rundir.Control) || there.Has(rundir.Taken) {
		empty = c.requests(name, k, f)
		locked = true // or not: a request makes one, or removes it
	} else {
		k.empty = time.Time{}
	}
	half := c.lock(name, k, f, locked, lost)
	c.lockSeen(name, false)
	c.listen(name, k, f, there)
	if !half {
		k.half = time.Time{}
	} else if k.half.IsZero() {
		k.half = time.Now()
	}
	if half || empty {
		c.again[name] = time.Now().Add(blink)
	}
	if !k.told.IsZero() {
		c.lookBy(name, k.next())
	}
}

// bereft tells whether the folder is due a status, and has had none for a
// while: rm -r of the folder takes it before the folder itself, and must not
// meet one that was made anew meanwhile. Without a lock, that is an order to
// start; not where a lock is missing only because it could not be written.
func (c *Control) bereft(name string, k *folder, there rundir.Content) bool {
	switch {
	case there.Has(rundir.State):
		k.status, k.missed = true, time.Time{}
		return false
	case !k.status:
		return false
	case k.missed.IsZero():
		k.missed = time.Now()
	case time.Since(k.missed) >= unfilled && !k.unwritten:
		k.status, k.missed = false, time.Time{}
		return true
	}
	c.again[name] = time.Now().Add(unfilled)
	return false
}

// listen passes on what a service may have said while nobody heard it, because
// its folder was not watched yet, or nobody was told, because he had just been. The
// pid file is read here, so that no actor is woken whose service has said nothing:
// that is most of them.
func (c *Control) listen(name string, k *folder, f *rundir.Folder, there rundir.Content) {
	anew, more := k.unheard, k.more
	over := !k.told.IsZero() && !time.Now().Before(k.next())
	if over {
		k.told, k.more, k.unsaid = time.Time{}, false, time.Time{}
	}
	if !anew && !(over && more) {
		return
	}
	if k.unheard = false; over {
		k.told = time.Now()
	}
	if c.polls {
		return
	}
	m := Message{Service: name, Said: true}
	if !there.Has(rundir.Ready) && !there.Has(rundir.Waiting) {
		data, err := []byte(nil), fs.ErrNotExist
		if there.Has(rundir.Pid) {
			data, err = f.Read(rundir.Pid)
		}
		if anew && errors.Is(err, fs.ErrNotExist) {
			return // it does not run
		}
		m.Pid, _ = rundir.ParsePid(data)
	}
	c.deliver(m)
}

// requests takes every request there is. A request is renamed before it is
// read, so that its place is free for the next and whoever writes to that
// place from now on does not write into this one. It returns whether one is
// there that its writer has not filled yet.
func (c *Control) requests(name string, k *folder, f *rundir.Folder) (half bool) {
	for {
		place := rundir.Taken
		stamp, err := f.Stat(place)
		if err == nil && stamp == (rundir.Stamp{}) {
			k.empty = time.Time{}
			place = rundir.Control
			stamp, err = f.Stat(place)
			switch {
			case err != nil:
			case stamp == rundir.Stamp{}:
				return false
			case stamp.Mode&unix.S_IFMT == unix.S_IFDIR:
				// It stays in its place: one that is not empty is its
				// owner's to remove.
			case f.Rename(rundir.Control, rundir.Taken) != nil:
				c.again[name] = time.Now().Add(unfilled)
				return false
			default:
				continue
			}
		}
		if err != nil {
			c.again[name] = time.Now().Add(unfilled)
			return false
		}
		if stamp.Version() != k.stuck {
			half, short := c.request(name, k, f, place)
			if short {
				c.again[name] = time.Now().Add(unfilled)
			}
			if half || short {
				return half
			}
		}
		if f.Remove(place) != nil {
			// A directory, or a file system that is read-only. It has been
			// answered, and is not answered twice.
			k.stuck = stamp.Version()
			return false
		}
		k.stuck = 0
	}
}

// request reads one request and answers it. half: its writer has not filled
// it yet. short: it cannot be read for want of something.
func (c *Control) request(name string, k *folder, f *rundir.Folder, place string) (half, short bool) {
	data, err := f.Read(place)
	switch {
	case errors.Is(err, rundir.ErrIrregular), errors.Is(err, fs.ErrPermission):
		c.refuse(name, "", "the request is "+rundir.ErrIrregular.Error())
		return false, false
	case err != nil:
		return false, true
	}
	if len(data) == 0 {
		if k.empty.IsZero() {
			k.empty = time.Now()
		}
		if time.Since(k.empty) < unfilled {
			return true, false
		}
	}
	request, err := ParseRequest(data)
	if err != nil {
		c.refuse(name, request.ID, err.Error())
	} else {
		c.act(name, k, f, request)
	}
	return false, false
}

func (c *Control) refuse(name, id, why string) {
	c.deliver(Message{Service: name, Request: Request{ID: id}, Refused: why})
}

func (c *Control) deliver(m Message) {
	if m.Pid == 0 {
		c.config.Report(Asked{m})
	}
	c.config.Deliver(m)
}

// act writes into the lock file what a request asks for, so that it holds
// for the next daemon too, and passes the request on.
func (c *Control) act(name string, k *folder, f *rundir.Folder, r Request) {
	var err error
	switch r.Verb {
	case Start, Restart:
		err = f.Remove(rundir.Lock)
	case Stop:
		err = writeLock(f, rundir.HoldDown)
	case Kill:
		err = writeLock(f, rundir.HoldKill)
	case Once:
		err = writeLock(f, rundir.HoldOnce)
	}
	m := Message{Service: name, Request: r}
	if r.Verb != Signal {
		stamp := f.Stamp(rundir.Lock)
		k.lock = stamp.Version()
		if k.unwritten = err != nil; !k.unwritten {
			m.Lock = stamp
		}
	}
	if err != nil {
		c.config.Report(Unwritten{name, err})
	}
	c.deliver(m)
}

// writeLock writes one. If it cannot be written, what is there and says something
// else goes all the same: it would be heeded by the next daemon, and by people.
// Without one the actor holds the service from memory and its record, and writes
// the lock as soon as that can be done.
func writeLock(f *rundir.Folder, h rundir.Hold) error {
	err := f.Write(rundir.Lock, h.Line())
	if err == nil {
		return nil
	}
	old, _, unread := f.ReadHold()
	if down := old == rundir.HoldDown || old == rundir.HoldKill; unread == nil && down && h != rundir.HoldOnce || old == h {
		return nil
	}
	if f.Remove(rundir.Lock) != nil {
		return err
	}
	return f.Write(rundir.Lock, h.Line()) // in the room that it had
}

// lock passes on what the lock file says, if that is not what it said when it
// was last acted upon. That it is absent is said each time: the actor may
// have seen one that was there for a moment. It returns whether the file, or
// what is left of it, looks half done. Unless locked is set, there is none.
func (c *Control) lock(name string, k *folder, f *rundir.Folder, locked, lost bool) (half bool) {
	hold, stamp := rundir.NoHold, rundir.Stamp{}
	if locked {
		var err error
		if hold, stamp, err = f.ReadHold(); err != nil {
			c.again[name] = time.Now().Add(unfilled)
			return false
		}
	}
	settled := !k.half.IsZero() && time.Since(k.half) >= blink
	version := stamp.Version()
	if version == k.lock && (version != 0 || k.unwritten) {
		return false
	}
	m := Message{Service: name, Lock: stamp, Lost: lost}
	switch hold {
	case rundir.NoHold:
		if k.lock != 0 {
			if !settled {
				return true
			}
			c.again[name] = time.Now().Add(unfilled) // see look
		}
		m.Request.Verb = Released
	case rundir.HoldOpen:
		if !settled {
			return true
		}
		m.Request.Verb = Stop
	case rundir.HoldDown:
		m.Request.Verb = Stop
	case rundir.HoldKill:
		m.Request.Verb = Kill
	case rundir.HoldOnce:
		m.Request.Verb = Once
	}
	k.lock, k.unwritten = version, false
	c.deliver(m)
	return false
}
