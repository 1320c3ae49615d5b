package control

import (
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// Change is one thing that a follower has seen: a service that is not as it
// was before, or a daemon that came or went.
type Change struct {
	Name string // of the service; empty: it is the daemon
	View View   // of the service; Gone: there is none of this name
	Pid  int    // what the pid file says: of the service, or of the daemon

	Running bool // of the daemon
}

// Follow tells how the services are, of these names or without any of all, and
// then of every change, until stop is closed. It begins with the daemon. The
// run directory need not be there, nor stay: it is waited for.
//
// It wakes only when something changes. States that follow each other faster
// than they can be read are told as the last of them; the counters of the
// status say how many there were. The only errors are those of a directory
// that may not be looked at.
func Follow(path string, names []string, tell func(Change), stop <-chan struct{}) error {
	// Without inotify the watcher polls, which is good enough for a client.
	watcher, _ := watch.New(interesting)
	defer watcher.Close()
	f := &follower{path: path, only: names, tell: tell, watcher: watcher, known: make(map[string]View)}
	if err := f.round(f.begin); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-stop:
			return nil
		case <-f.gone:
			err = f.round(f.mourn)
		case <-f.watcher.Bell():
			news := f.watcher.Take()
			err = f.round(func(another bool) error { return f.hear(news, another) })
		}
		if err != nil {
			return err
		}
	}
}

// interesting leaves out files that are not finished yet, and the daemon's
// own.
func interesting(name string, _ watch.Change) watch.Mark {
	if strings.HasPrefix(name, ".") {
		return 0
	}
	return watch.Rings
}

// The keys of directories that are no service's folder, whose names hold no
// slash.
const (
	theRundir = "/"
	aboveIt   = "/.." // the nearest directory above a RUNDIR that is not there
)

type follower struct {
	path    string
	only    []string // empty: all
	tell    func(Change)
	watcher *watch.Watcher
	dir     *rundir.Dir     // nil while there is none
	gone    <-chan struct{} // closed when the daemon ends; nil while none runs
	known   map[string]View // what was told of each service, the absent ones left out
}

// round does one piece of work with the run directory that the path leads to
// now. It is not kept open longer: the kernel does not tell of the end of a
// directory that somebody still has open.
func (f *follower) round(work func(another bool) error) error {
	another, err := f.find()
	if err == nil {
		err = work(another)
	}
	f.enter(nil)
	return err
}

// begin tells how everything is now.
func (f *follower) begin(bool) error {
	if err := f.meet(); err != nil {
		return err
	}
	if f.gone == nil {
		f.tell(Change{})
	}
	if err := f.lookAtAll(); err != nil {
		return err
	}
	for _, name := range f.only {
		if _, ok := f.known[name]; !ok {
			f.tell(Change{Name: name, View: View{Gone: true}})
		}
	}
	return nil
}

// mourn tells of the daemon's end, after what it did before.
func (f *follower) mourn(bool) error {
	f.gone = nil
	if err := f.lookAtAll(); err != nil {
		return err
	}
	f.tell(Change{})
	return f.meet()
}

// hear looks at what may have changed: at everything, if this is another run
// directory than before.
func (f *follower) hear(news watch.News, another bool) error {
	if err := f.meet(); err != nil {
		return err
	}
	if another || news.All {
		return f.lookAtAll()
	}
	names := make([]string, 0, len(news.Keys))
	for name := range news.Keys {
		if name != theRundir && name != aboveIt {
			names = append(names, name)
		}
	}
	if _, here := news.Keys[theRundir]; here {
		fresh, err := f.strangers()
		if err != nil {
			return err
		}
		names = append(names, fresh...)
	}
	f.lookAt(names)
	return nil
}

// find opens the run directory that now has the path, and watches it; or what
// is above it, if there is none. It tells whether that is another one than
// before, all of which has to be looked at then.
func (f *follower) find() (another bool, err error) {
	for {
		dir, err := rundir.Open(f.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		f.enter(dir)
		fresh := false
		if dir == nil {
			fresh = f.watchAbove()
		} else if fresh, err = f.watcher.Add(f.path, theRundir); err == nil {
			f.watcher.Remove(aboveIt)
		} else if errors.Is(err, fs.ErrNotExist) {
			fresh = true // it went away in between
		} else if !errors.Is(err, watch.ErrPolling) {
			return false, err
		}
		if !fresh {
			return another, nil
		}
		// Again, now that the watch is there: another directory may have
		// taken its place before.
		another = true
	}
}

// watchAbove watches the nearest directory above the run directory, and tells
// whether it had not watched that one before.
func (f *follower) watchAbove() (another bool) {
	for path := filepath.Dir(f.path); ; path = filepath.Dir(path) {
		// The dot, because such a directory may well be a link.
		another, err := f.watcher.Add(path+"/.", aboveIt)
		if err == nil || errors.Is(err, watch.ErrPolling) || path == filepath.Dir(path) {
			return another
		}
	}
}

func (f *follower) enter(dir *rundir.Dir) {
	if f.dir != nil {
		f.dir.Close()
	}
	f.dir = dir
}

// meet sees whether a daemon has come, and tells so.
func (f *follower) meet() error {
	if f.gone != nil || f.dir == nil {
		return nil
	}
	witness, err := f.dir.Daemon()
	if errors.Is(err, rundir.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	f.gone = witness.Gone()
	f.tell(Change{Running: true, Pid: f.dir.DaemonPid()})
	return nil
}

// names lists the services to follow that have a folder.
func (f *follower) names() ([]string, error) {
	if f.dir == nil {
		return nil, nil
	}
	names, err := f.dir.Names()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // its end rings the bell
	}
	if len(f.only) > 0 {
		names = slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(f.only, name) })
	}
	return names, err
}

// strangers lists the services that have come, and those that have gone.
func (f *follower) strangers() ([]string, error) {
	names, err := f.names()
	there := make(map[string]bool, len(names))
	var out []string
	for _, name := range names {
		there[name] = true
		if _, ok := f.known[name]; !ok {
			out = append(out, name)
		}
	}
	for name := range f.known {
		if !there[name] {
			out = append(out, name)
		}
	}
	return out, err
}

func (f *follower) lookAtAll() error {
	names, err := f.names()
	if err != nil {
		return err
	}
	for name := range f.known {
		names = append(names, name)
	}
	f.lookAt(names)
	return nil
}

// lookAt tells what is new of these services, in the order of their names.
func (f *follower) lookAt(names []string) {
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		view, pid := f.view(name)
		before, known := f.known[name]
		if view.Gone && f.dir != nil && f.dir.Holds(name, rundir.Syspid) {
			continue // it runs; its status could not be written
		}
		if f.known[name] = view; view.Gone {
			delete(f.known, name)
		}
		if view.Gone && known || !view.Gone && !(known && same(before, view)) {
			f.tell(Change{Name: name, View: view, Pid: pid})
		}
	}
}

// view watches the folder of a service and reads what is in it. What cannot
// be read is not there.
func (f *follower) view(name string) (v View, pid int) {
	none := View{Gone: true}
	if f.dir == nil {
		return none, 0
	}
	folder, err := f.dir.Folder(name)
	if err != nil {
		return none, 0
	}
	defer folder.Close()
	// Each time anew: another folder may have taken the place of the one
	// that is watched.
	f.watcher.Add(folder.Path(), name)
	if v, err = Look(f.dir, name); err != nil {
		return none, 0
	}
	pid = v.Pid
	if data, err := folder.Read(rundir.Pid); err == nil && pid != 0 {
		if n, err := rundir.ParsePid(data); err == nil {
			pid = n
		}
	}
	return v, pid
}

// same tells whether two views differ in nothing that is worth a line: that a
// request was taken is not.
func same(a, b View) bool {
	for _, v := range []*View{&a, &b} {
		v.Requests, v.Refused, v.Since, v.Clock = nil, "", time.Time{}, 0
	}
	return reflect.DeepEqual(a, b)
}
