//go:build !linux

package watch

import "errors"

// system is empty: kqueue(2) reports entries that come and go but neither
// writes nor modes inside a directory, so it would be polled all the same.
type system struct{}

var errNoInotify = errors.New("not on this platform")

func (w *Watcher) start(func(string, Change) Mark) error { return errNoInotify }

// Add does nothing here: the clock rings for everything.
func (w *Watcher) Add(path, key string) (another bool, err error) { return false, nil }

// Remove does nothing here.
func (w *Watcher) Remove(key string) {}

// Mute does nothing here.
func (w *Watcher) Mute(path, key string) {}

// Heed does nothing here.
func (w *Watcher) Heed(path, key string) {}

// Lay does nothing here: no way is covered.
func (w *Watcher) Lay(paths ...string) (covered bool) { return false }

// Close ends the watcher and waits for its goroutine.
func (w *Watcher) Close() {
	close(w.done)
	w.wait.Wait()
}
