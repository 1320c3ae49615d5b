package actor

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"sysmgr/internal/rundir"
)

// Entry is what the supervisor is told of an entry of the service directory.
type Entry struct {
	Name  string
	Bar   string // why it cannot be run, empty if it can
	Stamp uint64 // another one when the file or its entry changed
	File  File   // which file it is, kept when it is renamed
	Gone  bool   // it is gone, but may yet come back
}

// File is what tells a file from all others.
type File struct{ Dev, Ino uint64 }

// Supervisor owns the actors: it makes one for each service that the scanner
// finds, hands orders on, and ends them all at a shutdown.
type Supervisor struct {
	config *Config
	mail   mailbox[any]
	wake   chan struct{}

	// What follows belongs to Run.
	services members
	waiting  []Entry                  // entries whose services cannot be started before others have ended, by name
	renamed  int                      // how many of them wait for the service they were renamed from
	past     map[string]rundir.Record // services of the daemon before this one, until the first snapshot
	closing  bool
	farewell *farewell       // since closing
	unswept  map[string]bool // services that are gone and whose folders are not

	begun chan struct{} // closed when the services of the last daemon are taken over
}

// place is whether the last snapshot has an entry.
type place uint8

const (
	absent  place = iota
	missing       // it is Gone
	here
)

func (e Entry) place() place {
	if e.Gone {
		return missing
	}
	return here
}

// told is what a service was told of its entry, in eight bytes: see sight.
type told uint64

func (e Entry) told(bar string) told { return told(e.Stamp ^ maphash.String(seed, bar)) }

// file is a File in eight bytes. Zero is one that nobody knows.
type file uint64

func (f File) file() file {
	if f == (File{}) {
		return 0
	}
	return file(maphash.Comparable(seed, f))
}

// Messages to the supervisor.
type (
	snapshot []Entry
	newcomer Entry
	delivery struct {
		name  string
		order Order
	}
	retirement struct {
		name  string
		swept bool
	}
	shutdown struct{}
	// publish asks for another try to publish what could not be; lost says
	// that what was published is gone, deaf that some of it is not to be there
	// any more.
	publish struct{ lost, deaf bool }
	// pause asks whoever gets it to come to rest, to say so, and to do
	// nothing more until resume is closed.
	pause struct {
		resting chan<- struct{}
		resume  <-chan struct{}
	}
)

// NewSupervisor makes a supervisor that takes over the services that the daemon
// before it has left, if any.
func NewSupervisor(config *Config, past ...rundir.Record) *Supervisor {
	v := &Supervisor{
		config:  config,
		wake:    make(chan struct{}, 1),
		past:    make(map[string]rundir.Record, len(past)),
		unswept: make(map[string]bool),
		begun:   make(chan struct{}),
	}
	for _, record := range past {
		v.past[record.Name] = record
	}
	config.outlives = func(name string) { v.post(outlived{name}) }
	config.gone = func(name string, swept bool) { v.post(retirement{name, swept}) }
	return v
}

// post gives the supervisor a message. It does not block.
func (v *Supervisor) post(message any) {
	if v.mail.put(message) {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
}

// Found tells the supervisor all the entries that there are now. They are its
// own from then on. It does not block.
func (v *Supervisor) Found(entries []Entry) { v.post(snapshot(entries)) }

// Early tells the supervisor of an entry that has just come, and can be run,
// before the snapshot that it is in. It does not block.
func (v *Supervisor) Early(e Entry) { v.post(newcomer(e)) }

// Deliver hands an order to a service; one that does not exist is no error.
// It does not block.
func (v *Supervisor) Deliver(name string, o Order) { v.post(delivery{name, o}) }

// Shutdown stops every service; then Run returns. It does not block, and a
// second one changes nothing.
func (v *Supervisor) Shutdown() { v.post(shutdown{}) }

// Publish tries again to publish what could not be published, and tells whether
// there is anything; lost says that the run directory is another one, and all
// has to be. It does not block.
func (v *Supervisor) Publish(lost bool) (silent bool) {
	silent = v.config.silent.Load() > 0
	if lost || silent {
		v.post(publish{lost: lost})
	}
	return silent
}

// Deafen says that nobody tells any more what services say of themselves: their
// status says nothing of it from now on. It does not block.
func (v *Supervisor) Deafen() {
	v.config.deaf.Store(true)
	v.post(publish{deaf: true})
}

// Begun is closed when the services of the daemon before this one are taken
// over.
func (v *Supervisor) Begun() <-chan struct{} { return v.begun }

// Pause brings all actors to rest, with every message answered that they had
// got, and tells whether all of them came to it within a time: one whose start
// hangs does not. They go on when resume is called. It is for when the program
// is about to be replaced; nobody may send messages meanwhile.
func (v *Supervisor) Pause(within time.Duration) (resume func(), complete bool) {
	resting, gate := make(chan struct{}, 1), make(chan struct{})
	v.post(pause{resting, gate})
	select {
	case <-resting:
		complete = true
	case <-time.After(within):
	}
	return func() { close(gate) }, complete
}

// pause passes a pause on to all services.
func (v *Supervisor) pause(p pause) {
	resting := make(chan struct{}, len(v.services))
	for _, m := range v.services {
		m.service.post(pause{resting, p.resume})
	}
	for range v.services {
		select {
		case <-resting:
		case <-p.resume:
			return
		}
	}
	p.rest()
}

// rest is what becomes of whoever has nothing left to do.
func (p pause) rest() {
	p.resting <- struct{}{}
	<-p.resume
}

// How soon a shutdown that is held up is told of, and how often.
const (
	heldUpAfter = 2 * time.Second
	heldUpEvery = 10 * time.Second
)

// Restless lists the services in back-off: a better file would help them, but
// nothing is wrong with the one they have as far as the scanner can see. It
// may be called from any goroutine.
func (v *Supervisor) Restless() []string {
	v.config.restless.Lock()
	defer v.config.restless.Unlock()
	return slices.Collect(maps.Keys(v.config.restless.names))
}

// Run is the supervisor. It returns when, after a Shutdown, the last service
// is gone.
func (v *Supervisor) Run() {
	late := time.NewTimer(time.Hour)
	late.Stop()
	for {
		select {
		case <-v.wake:
		case <-late.C:
			v.config.Report(HeldUp{v.late()})
			late.Reset(heldUpEvery)
		}
		for _, message := range v.mail.take() {
			switch m := message.(type) {
			case snapshot:
				v.found(m)
			case newcomer:
				v.early(Entry(m))
			case delivery:
				if s, ok := v.services.get(m.name); ok {
					s.service.Tell(m.order)
				}
			case retirement:
				if !m.swept {
					v.unswept[m.name] = true
				}
				v.retire(m.name)
				v.onward(m.name)
			case outlived:
				v.onward(m.name)
			case publish:
				v.sweep()
				for _, member := range v.services {
					member.service.post(m)
				}
			case pause:
				v.pause(m)
			case shutdown:
				if !v.closing {
					v.close()
					late.Reset(heldUpAfter)
				}
			}
		}
		if v.closing && len(v.services) == 0 {
			late.Stop()
			return
		}
	}
}

// sweep tries again what could not be swept when its service went.
func (v *Supervisor) sweep() {
	for name := range v.unswept {
		if _, back := v.services.get(name); !back && v.config.Rundir.Sweep(name, true) != nil {
			continue
		}
		delete(v.unswept, name)
		if v.config.silent.Add(-1) == 0 {
			v.config.Report(Published{})
		}
	}
}

// late lists the services that hold up the shutdown: those that were told to
// stop. The others wait for them.
func (v *Supervisor) late() []string {
	names := make([]string, 0, len(v.services))
	for _, m := range v.services {
		if v.farewell.told[m.service.name] {
			names = append(names, m.service.name)
		}
	}
	return names
}

func (v *Supervisor) found(entries snapshot) {
	byName := func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(entries, byName) { // those of the scanner are
		slices.SortFunc(entries, byName)
	}
	rest := entries
	for _, m := range v.services {
		for len(rest) > 0 && rest[0].Name < m.service.name {
			rest = rest[1:]
		}
		m.service.place = absent
		if len(rest) > 0 && rest[0].Name == m.service.name {
			m.service.place = rest[0].place()
		}
	}
	v.takeOver(entries)
	v.reconcile(entries)
	v.dismiss()
	select {
	case <-v.begun:
	default:
		close(v.begun)
	}
}

// early makes a service of an entry before the snapshot that it is in, if that
// can mean nothing else than that there is one more: it is not one that was
// renamed, nor one that comes back. All else is for the snapshot to say.
func (v *Supervisor) early(e Entry) {
	if _, known := v.services.get(e.Name); known || v.closing {
		return
	}
	select {
	case <-v.begun:
	default:
		return
	}
	for _, m := range v.services {
		if m.service.file == e.File.file() || m.service.file == 0 { // which nobody knows: see reconcile
			return
		}
	}
	v.add(e, "")
}

// takeOver makes the services whose entries went while there was no daemon:
// they may still run, and then are to be stopped.
func (v *Supervisor) takeOver(entries []Entry) {
	for name := range v.past {
		if find(entries, name) && !v.closing {
			continue // it resumes in reconcile
		}
		v.dismissed(v.add(Entry{Name: name}, ""))
	}
}

// dismiss ends the services whose entries are gone.
func (v *Supervisor) dismiss() {
	if v.closing {
		return
	}
	for _, m := range v.services {
		if m.service.place == absent && !m.service.removed {
			v.dismissed(m)
		}
	}
}

func (v *Supervisor) dismissed(m member) {
	m.service.place, m.service.removed = absent, true
	m.service.tell(Event{Kind: Removed})
}

// reconcile makes the services agree with entries: all those of a snapshot, or
// those that are waiting.
func (v *Supervisor) reconcile(entries []Entry) {
	if v.closing {
		return
	}
	leaving := v.leaving()
	v.waiting, v.renamed = nil, 0
	for _, e := range entries {
		if e.Gone {
			continue
		}
		name, bar := e.Name, e.Bar
		m, ok := v.services.get(name)
		// mv a b: b is the same program, so it waits until a has stopped.
		if old, ok := leaving[e.File.file()]; ok && old != name && bar == "" {
			bar = "renamed from " + old + ", which has not stopped yet"
			v.renamed++
		}
		// So it does if only a daemon that is no more knew a: which file that
		// was nobody can tell.
		_, resumes := v.past[name]
		old, leaves := leaving[0]
		doubtful := leaves && bar == "" && (!ok && !resumes || ok && m.service.doubtful)
		if doubtful {
			bar = "perhaps renamed from " + old + ", which has not stopped yet"
			v.renamed++
		}
		// It may be back while its actor is about to end: see retire.
		back := ok && m.service.removed
		if back || bar != e.Bar {
			v.waiting = append(v.waiting, e)
		}
		switch {
		case !ok:
			v.add(e, bar).service.doubtful = doubtful
		case !back && m.service.told != e.told(bar):
			m.service.told, m.service.file, m.service.doubtful = e.told(bar), e.File.file(), doubtful
			m.service.tell(Event{Kind: Appeared, Bar: bar})
		}
	}
}

// find tells whether there is an entry of this name among them.
func find(entries []Entry, name string) bool {
	_, found := slices.BinarySearchFunc(entries, name, func(e Entry, name string) int { return cmp.Compare(e.Name, name) })
	return found
}

// leaving maps the files of services whose entries are gone to their names.
func (v *Supervisor) leaving() map[file]string {
	var files map[file]string
	for _, m := range v.services {
		if m.service.place == here {
			continue
		}
		if files == nil {
			files = make(map[file]string)
		}
		files[m.service.file] = m.service.name
	}
	return files
}

func (v *Supervisor) add(e Entry, bar string) member {
	s := NewService(v.config, e.Name, bar)
	if record, ok := v.past[e.Name]; ok {
		delete(v.past, e.Name)
		s = Resume(v.config, record, bar)
	}
	s.told, s.file, s.place = e.told(bar), e.File.file(), e.place()
	v.services.add(s)
	s.setOff(WantUp)
	return member{s}
}

// retire forgets a service whose actor has ended. Its entry may be there
// again already.
func (v *Supervisor) retire(name string) {
	v.services.remove(name)
	if find(v.waiting, name) || v.renamed > 0 {
		v.reconcile(v.waiting)
	}
}
