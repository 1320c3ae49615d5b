package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"sysmgr/internal/cli"
	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// heardSignals are those that would end or stop us.
var heardSignals = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGTERM,
	unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGVTALRM,
	unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGIO,
	unix.SIGXCPU, unix.SIGXFSZ, unix.SIGSYS, unix.SIGWINCH,
}

// listen makes every signal that would end or stop us harmless, for the rest
// of our life, and returns where they arrive. They are never ignored: a
// service would inherit that.
func listen() chan os.Signal {
	// Those that the last program left come first: once we listen, others may
	// fill the channel, and nobody reads from it yet.
	left := unanswered()
	signals := make(chan os.Signal, 64+len(left))
	for _, sig := range left {
		signals <- sig
	}
	signal.Notify(signals, heardSignals...)
	return signals
}

// deafen prepares the calling thread, which is locked, for execve(2): what comes
// before the next program listens is not to end or stop it. Masks and what is
// pending survive, so most signals wait until then. But the Go runtime unblocks
// those that end a program by default before it runs anything of ours, and those
// that stop one before it has a handler. It leaves them ignored if they are, HUP
// and INT of the former: then a HUP changes nothing, because the next program
// looks at everything anyway, and an INT is lost. TERM, QUIT and ABRT end it.
func deafen(signals chan<- os.Signal) (undo func()) {
	lost := []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU}
	signal.Ignore(lost...)
	unblock := block(slices.DeleteFunc(slices.Clone(heardSignals), func(sig os.Signal) bool { return slices.Contains(lost, sig) }))
	return func() {
		unblock()
		signal.Notify(signals, lost...)
	}
}

// ends tells whether a signal ends the daemon.
func ends(sig os.Signal) bool {
	return slices.Contains([]os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT}, sig)
}

// giveBack puts signals that were taken and not answered back to where they
// arrive, as far as there is room.
func giveBack(to chan<- os.Signal, signals []os.Signal) {
	for _, sig := range signals {
		select {
		case to <- sig:
		default:
		}
	}
}

// obey does what signals say, until one of them ends the daemon or the
// essential service has ended; then it returns the exit status. From then on
// signals change nothing any more.
//
// While the next program is tried out, which takes its time and may hang, only
// the end is not kept waiting. Other signals are for the program after that.
func obey(ctx context.Context, signals chan os.Signal, over <-chan syscall.WaitStatus, log *journal, rescan func(), next replacement) int {
	var tried chan error // nil: no program is being tried out
	var left []os.Signal
	for {
		select {
		case err := <-tried:
			tried = nil
			giveBack(signals, left)
			left = nil
			if err == nil {
				err = next.do()
			}
			log.report(unreplaced{err})
		case <-ctx.Done():
			return 0
		case status := <-over:
			if status == reaper.Unknown {
				return cli.Fail // it was not our child: nobody knows
			}
			if status.Signaled() {
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		case sig := <-signals:
			name := rundir.SignalName(sig.(syscall.Signal))
			if ends(sig) {
				log.report(heard{name, "shut down"})
				return 0
			}
			if tried != nil {
				if len(left) < cap(signals) {
					left = append(left, sig)
				}
				continue
			}
			switch sig {
			case unix.SIGHUP:
				log.report(heard{name, "rescan"})
				rescan()
			case unix.SIGUSR2:
				log.report(heard{name, "replace program"})
				tried = make(chan error, 1)
				go func(tried chan<- error) { tried <- next.try(ctx) }(tried)
			case unix.SIGUSR1:
				effect := "debug off"
				if log.toggle() {
					effect = "debug on"
				}
				log.report(heard{name, effect})
			}
		}
	}
}
