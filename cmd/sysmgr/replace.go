package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/actor"
	"sysmgr/control"
	"sysmgr/internal/program"
	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// inherited is the variable in which the program that is replaced tells the
// next one of its claim.
const inherited = "SYSMGR_CLAIM"

// replacement replaces the running program by what its file is now, in place:
// the process, its number and its children stay.
type replacement struct {
	path       string // of the program
	pathErr    error  // why that is not known
	claim      *rundir.Claim
	reaper     *reaper.Reaper
	control    *control.Control
	supervisor *actor.Supervisor
	log        *journal
	signals    chan os.Signal
	over       <-chan syscall.WaitStatus // receives when the essential service has ended
}

// How long things may take before the replacement goes on without them, or
// not at all.
const (
	trialTime = 10 * time.Second
	beginTime = 3 * time.Second
	// Nothing is reaped meanwhile.
	restTime = 300 * time.Millisecond
)

// do returns only if the replacement came to nothing; then nothing has
// changed.
func (r replacement) do() error {
	// What the last program left to us has to be ours before it is left to the
	// next.
	select {
	case <-r.supervisor.Begun():
	case <-time.After(beginTime):
		return errors.New("still taking over from the last one")
	}
	// From the outside in: no new requests, no new ends, then everybody at
	// rest. A start that hangs is waited for in vain; it is found again by
	// the next program, like one that a killed daemon leaves behind.
	r.control.Hold()
	defer r.control.Resume()
	r.reaper.Hold()
	defer r.reaper.Resume()
	resume, _ := r.supervisor.Pause(restTime)
	defer resume()
	if len(r.over) > 0 {
		return errors.New("the service of -e has ended")
	}
	// From here on our locks are open to children: there must not be a new one.
	r.reaper.HoldForks()
	if !r.claim.Intact() {
		return errors.New("the run directory is lost, and with it what the next program has to know; USR2 works again when it is made anew")
	}
	r.log.flush()
	word, undo := r.claim.PassOn()
	defer undo()

	// Signals that have come and were not answered are for the next program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer deafen(r.signals)()
	var left []os.Signal
	for waiting := true; waiting; {
		select {
		case sig := <-r.signals:
			left = append(left, sig)
			word += fmt.Sprintf(",%d", sig)
		default:
			waiting = false
		}
	}
	err := r.reaper.Exec(r.path, os.Args, append(os.Environ(), inherited+"="+word))
	giveBack(r.signals, left)
	return err
}

// unanswered is the signals that the program before us left to us.
func unanswered() []os.Signal {
	var signals []os.Signal
	words := strings.Split(os.Getenv(inherited), ",")
	for _, word := range words[min(2, len(words)):] {
		if sig, ok := rundir.ParseSignal(word); ok {
			signals = append(signals, sig)
		}
	}
	return signals
}

// try runs the program once, as sysmgr -V: a file that is missing, is half
// copied or is no program at all must not take our place.
func (r replacement) try(ctx context.Context) error {
	if r.pathErr != nil {
		return r.pathErr
	}
	if err := program.Check(r.path); err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	p, err := r.reaper.Start(reaper.Command{Path: r.path, Args: []string{"-V"}, Env: os.Environ(), Mute: true})
	if err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	select {
	case exit := <-p.Exited:
		if exit.Status.Exited() && exit.Status.ExitStatus() == 0 {
			return nil
		}
		return fmt.Errorf("%s -V: %s", r.path, actor.ExitWords(exit.Status))
	case <-ctx.Done():
		r.reaper.SignalGroup(p.Pid, unix.SIGKILL)
		return ctx.Err()
	case <-time.After(trialTime):
		r.reaper.SignalGroup(p.Pid, unix.SIGKILL)
		return fmt.Errorf("%s -V: no end within %s", r.path, trialTime)
	}
}

// itself is the path of this program, as it was called rather than what that
// leads to: links may be led elsewhere when it is replaced.
func itself() (string, error) {
	name := os.Args[0]
	if strings.Contains(name, "/") {
		return filepath.Abs(name)
	}
	running, err := os.Stat("/proc/self/exe")
	if err == nil {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && os.SameFile(info, running) && filepath.IsAbs(path) {
				return path, nil
			}
		}
	}
	path, err := os.Executable()
	if err != nil {
		return "", errors.New("the path of the program is not known")
	}
	return path, nil
}
