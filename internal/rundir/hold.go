package rundir

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Hold is what the lock file of a service says.
type Hold uint8

// The meanings of a lock file.
const (
	NoHold   Hold = iota // absent: the service is kept alive
	HoldDown             // TERM, 15, or anything else: it is held down
	HoldKill             // KILL or 9: the same, and stopped with KILL
	HoldOnce             // once or 0: it runs, and is not restarted
	HoldOpen             // there but empty: somebody is just writing it
)

// Line is the content of a lock file that says h.
func (h Hold) Line() []byte {
	switch h {
	case HoldKill:
		return []byte("KILL\n")
	case HoldOnce:
		return []byte("once\n")
	}
	return []byte("TERM\n")
}

// ReadHold reads the lock file, and tells which version of it that was.
// Something under that name that cannot be read as a file is a lock too:
// HoldDown. An error says that nobody can tell whether there is one: for want of
// a descriptor, of memory, of a disk that answers, of a permission.
func (f *Folder) ReadHold() (Hold, Stamp, error) {
	data, stamp, err := f.read(Lock)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		return NoHold, Stamp{}, nil
	case !errors.Is(err, ErrIrregular) && !errors.Is(err, fs.ErrPermission):
		return NoHold, Stamp{}, err
	default:
		if stamp == (Stamp{}) {
			if stamp = f.Stamp(Lock); stamp == (Stamp{}) {
				return NoHold, stamp, err
			}
		}
		return HoldDown, stamp, nil
	}
	switch word := strings.TrimSpace(string(data)); word {
	case "":
		return HoldOpen, stamp, nil
	case "KILL", "SIGKILL", "9":
		return HoldKill, stamp, nil
	case "once", "0":
		return HoldOnce, stamp, nil
	}
	return HoldDown, stamp, nil
}

// ParseSignal reads a signal as people write it: TERM, SIGTERM, term or 15.
func ParseSignal(word string) (unix.Signal, bool) {
	word = strings.ToUpper(strings.TrimSpace(word))
	if n, err := strconv.Atoi(word); err == nil {
		return unix.Signal(n), n > 0 && n < 65
	}
	if !strings.HasPrefix(word, "SIG") {
		word = "SIG" + word
	}
	sig := unix.SignalNum(word)
	return sig, sig != 0
}

// SignalName is the name of a signal without SIG, as kill(1) writes it.
func SignalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return strconv.Itoa(int(sig))
}
