package rundir

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Manner is how a service wants to be stopped.
type Manner struct {
	Signal unix.Signal   // the first signal to its main process
	Grace  time.Duration // from there to KILL; 0 means never
}

// ReadManner reads stop-signal and stop-timeout, which a script may have
// written before it ran its program. What is missing or makes no sense is
// taken from usual; the names of files that make no sense are returned.
func (f *Folder) ReadManner(usual Manner) (m Manner, bad []string) {
	m = usual
	if data, err := f.Read(StopSignal); err == nil {
		if sig, ok := ParseSignal(string(data)); ok {
			m.Signal = sig
		} else {
			bad = append(bad, StopSignal)
		}
	}
	if data, err := f.Read(StopTimeout); err == nil {
		if grace, ok := ParseSeconds(strings.TrimSpace(string(data))); ok {
			m.Grace = grace
		} else {
			bad = append(bad, StopTimeout)
		}
	}
	return m, bad
}

// ParseSeconds reads a number of seconds as options and files give it: not
// negative, with or without a fraction, at most ten years.
func ParseSeconds(word string) (time.Duration, bool) {
	f, err := strconv.ParseFloat(word, 64)
	if err != nil || !(f >= 0 && f <= 10*365*86400) {
		return 0, false
	}
	return time.Duration(f * float64(time.Second)), true
}
