package actor

import (
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// Ending is how a main process ended: the place of the words for it among all
// that there are. A service keeps four bytes then, and not a string. Zero is one
// of no words: none has ended yet.
type Ending uint32

// Where the words begin: of an end that nobody saw, and those that have a number,
// which is an exit status or a signal.
const (
	unknownEnding Ending = 1
	exitEnding           = unknownEnding + 1
	killEnding           = exitEnding + 256
	dumpEnding           = killEnding + 128
	foreignEnding        = dumpEnding + 128 // those of the strangers
)

// endings are the words, made once: Step allocates nothing.
var endings = func() (words [foreignEnding]string) {
	words[unknownEnding] = "unknown"
	for code := range Ending(256) {
		words[exitEnding+code] = "exit " + strconv.Itoa(int(code))
	}
	for sig := range Ending(128) {
		words[killEnding+sig] = "killed by " + rundir.SignalName(unix.Signal(sig))
		words[dumpEnding+sig] = words[killEnding+sig] + " (core dumped)"
	}
	return words
}()

// strangers are words that this daemon has none like, from records of another
// version of it: they are shown and handed on as they are. The lock is for their
// list, which actors that resume add to and whoever shows a state reads.
var strangers struct {
	sync.Mutex
	words []string
}

// endingOf makes an Ending of what wait4(2) says.
func endingOf(status syscall.WaitStatus) Ending {
	switch {
	case status == reaper.Unknown:
		return unknownEnding
	case status.Signaled() && status.CoreDump():
		return dumpEnding + Ending(status.Signal()&127)
	case status.Signaled():
		return killEnding + Ending(status.Signal()&127)
	}
	return exitEnding + Ending(status.ExitStatus()&255)
}

// parseEnding makes an Ending of its words.
func parseEnding(words string) Ending {
	if e := slices.Index(endings[:], words); e >= 0 {
		return Ending(e)
	}
	strangers.Lock()
	defer strangers.Unlock()
	e := slices.Index(strangers.words, words)
	if e < 0 {
		e = len(strangers.words)
		strangers.words = append(strangers.words, words)
	}
	return foreignEnding + Ending(e)
}

// String is the words, as the status file has them.
func (e Ending) String() string {
	if e < foreignEnding {
		return endings[e]
	}
	strangers.Lock()
	defer strangers.Unlock()
	return strangers.words[e-foreignEnding]
}

// ExitWords says how a process ended, as the status file does.
func ExitWords(status syscall.WaitStatus) string { return endingOf(status).String() }
