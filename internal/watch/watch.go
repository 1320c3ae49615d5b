// Package watch tells that directories have changed: on Linux by inotify(7),
// elsewhere, or where the kernel gives no more watches, by a clock.
//
// It is a doorbell, not a newspaper. It says which directories to look at
// again, at most what for, and never what happened there; whoever hears it reads
// the whole truth anew, so that a lost event loses nothing. The scanner, the
// control actor and the tools use it.
package watch

import (
	"errors"
	"sync"
	"time"
)

// Every is how often a watcher without kernel support rings for everything.
const Every = time.Second

// ErrPolling is returned by New beside a working watcher that has to poll.
var ErrPolling = errors.New("no inotify: polling instead")

// Watcher rings when one of its directories may have changed. A directory is
// known by a key of the caller's choice. Its methods may be called from any
// goroutine; Close ends its own.
type Watcher struct {
	bell chan struct{}
	done chan struct{}
	wait sync.WaitGroup
	sys  system

	// mu guards what follows: the reading goroutine marks, the caller takes.
	mu    sync.Mutex
	dirty map[string]Mark
	all   bool
	lost  bool // the kernel's queue ran over since the last Take
	way   bool // one that was laid may lead elsewhere
}

// Change is what happened to a name in a directory: some of these, or none, as
// when its mode has changed.
type Change uint8

// The changes.
const (
	Came    Change = 1 << iota // it was made there, or moved there
	Gone                       // it was removed, or moved away
	Written                    // somebody who could write to it is done, or it was moved there
)

// Mark is what the caller has made of some changes, in bits of its own choice.
type Mark uint8

// The marks that have a meaning here.
const (
	Rings  Mark = 1      // that of those who do not tell one change from another
	Itself Mark = 1 << 7 // something has happened to the directory itself
)

// New makes a watcher. Where the kernel refuses, it returns one that rings
// for everything each second, together with an error that wraps ErrPolling.
//
// Interested, if not nil, is asked for each name that changed inside a
// directory, and what happened to it; only those it has a mark for ring. It is
// called from another goroutine. Where only others change there is no hurry: the
// kernel is asked again after a millisecond or two.
func New(interested func(name string, what Change) Mark) (*Watcher, error) {
	w := &Watcher{
		bell:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		dirty: make(map[string]Mark),
	}
	err := w.start(interested)
	if err != nil {
		w.wait.Go(w.poll)
		err = errors.Join(ErrPolling, err)
	}
	return w, err
}

// Bell receives after something may have changed; then Take tells what.
func (w *Watcher) Bell() <-chan struct{} { return w.bell }

// News is what a watcher has heard since it was last asked.
type News struct {
	Keys map[string]Mark // directories to look at again, and all marks that rang there; Itself among them
	All  bool            // look at every directory again
	Lost bool            // because events were lost (IN_Q_OVERFLOW)
	Way  bool            // a path given to Lay may lead elsewhere
}

// Take returns what has been heard since the last call and forgets it.
func (w *Watcher) Take() News {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := News{w.dirty, w.all, w.lost, w.way}
	w.dirty, w.all, w.lost, w.way = make(map[string]Mark), false, false, false
	return n
}

func (w *Watcher) ring(key string, mark Mark) {
	w.mu.Lock()
	w.dirty[key] |= mark
	w.mu.Unlock()
	w.wake()
}

func (w *Watcher) ringWay() {
	w.mu.Lock()
	w.way = true
	w.mu.Unlock()
	w.wake()
}

// ringAll rings for everything; if events were lost, some were perhaps of a way.
func (w *Watcher) ringAll(lost bool) {
	w.mu.Lock()
	w.all = true
	w.lost = w.lost || lost
	w.way = w.way || lost
	w.mu.Unlock()
	w.wake()
}

func (w *Watcher) wake() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

func (w *Watcher) poll() {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-tick.C:
			w.ringAll(false)
		}
	}
}
