package main

import (
	"errors"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// What is written here into the folder of the calling service is for others to
// see. A service that has dropped its privileges may not be able to write it,
// and a full disk neither: it waits all the same.

// leave runs f on the folder of the calling service, if there is one.
func (w *waiter) leave(f func(*rundir.Folder) error) {
	if w.self == "" {
		return
	}
	folder, err := w.dir.Folder(w.self)
	if err == nil {
		err = f(folder)
		folder.Close()
	}
	if err != nil && !w.mute {
		w.mute = true
		w.say("", "svctl will not show that "+w.self+" waits: "+err.Error())
	}
}

// call notes that there is a call.
func (w *waiter) call() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leave(func(f *rundir.Folder) error {
		wait := f.ReadWait()
		wait.Calls++
		return f.WriteWait(wait)
	})
}

// note writes whom the service waits for.
func (w *waiter) note(open []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(open, w.open) || len(open) == 0 {
		return // settle tells of the end, after another look
	}
	w.open = open
	begins := w.since == 0
	if begins {
		w.since = rundir.Clock()
	}
	w.leave(func(f *rundir.Folder) (err error) {
		if begins {
			wait := f.ReadWait()
			wait.Since = w.since
			err = f.WriteWait(wait)
		}
		return errors.Join(err, f.Write(rundir.Waiting, rundir.Names(open)))
	})
}

// settle turns waiting into needs: what the service waited for, now and
// before.
func (w *waiter) settle() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leave(func(f *rundir.Folder) error {
		all := f.ReadNames(rundir.Needs)
		for _, name := range w.names {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
		return f.Write(rundir.Needs, rundir.Names(all))
	})
	return nil
}

// end takes the note away: nobody waits any more.
func (w *waiter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since == 0 || w.ended {
		return
	}
	w.ended = true
	w.leave(func(f *rundir.Folder) error {
		wait := f.ReadWait()
		now := rundir.Clock()
		wait.Total, wait.Since, wait.Ended = wait.At(now), 0, now
		return errors.Join(f.WriteWait(wait), f.Remove(rundir.Waiting))
	})
}

// onSignal takes the note away too if a signal ends us.
func (w *waiter) onSignal() {
	signals := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	go func() {
		sig := <-signals
		w.end()
		os.Exit(128 + int(sig.(syscall.Signal)))
	}()
}
