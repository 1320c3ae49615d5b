// Package control is both ends of the file-based control of services. The
// daemon's end, Control, is an actor that reads requests and lock files in
// the run directory and makes messages of them. The client's end, Client, is
// what svctl and sysmgr-depends use: it places requests and waits for what
// they come to.
//
// It does not decide what a request does to a service (the actor does), and
// it never believes a file about which process is whose.
package control

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// Verb is what a request asks for.
type Verb string

// The verbs of svctl(1). Released is none that can be asked for by name: it
// is what the disappearance of a lock file means.
const (
	Start    Verb = "start"
	Stop     Verb = "stop"
	Restart  Verb = "restart"
	Once     Verb = "once"
	Kill     Verb = "kill"
	Signal   Verb = "signal"
	Released Verb = "released"
)

// Request is one line of a control file.
type Request struct {
	Verb   Verb
	Signal unix.Signal // for Signal
	ID     string      // which the status repeats; may be empty
}

// NewID makes an id that no other request has.
func NewID() string { return strconv.FormatUint(rand.Uint64(), 36) }

// Line is the request as a control file holds it.
func (r Request) Line() []byte {
	words := []string{string(r.Verb)}
	if r.Verb == Signal {
		words = append(words, rundir.SignalName(r.Signal))
	}
	if r.ID != "" {
		words = append(words, r.ID)
	}
	return []byte(strings.Join(words, " ") + "\n")
}

// ParseRequest reads a control file: a verb, a signal's name behind "signal",
// and perhaps an id. The error says what is wrong; the Request then has what
// could be read of the id.
func ParseRequest(data []byte) (Request, error) {
	line, rest, _ := strings.Cut(string(data), "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return Request{}, fmt.Errorf("empty request")
	}
	if strings.TrimSpace(rest) != "" {
		return Request{}, fmt.Errorf("more than one line")
	}
	var r Request
	word, words := words[0], words[1:]
	switch word {
	case "up":
		r.Verb = Start
	case "down":
		r.Verb = Stop
	case "reload":
		r.Verb, r.Signal = Signal, unix.SIGHUP
	case "signal":
		r.Verb = Signal
		if len(words) == 0 {
			return r, fmt.Errorf("signal without a name")
		}
		word, words = words[0], words[1:]
		sig, ok := rundir.ParseSignal(word)
		if !ok {
			return r.withID(words), fmt.Errorf("unknown signal %.20q", word)
		}
		r.Signal = sig
	case string(Start), string(Stop), string(Restart), string(Once), string(Kill):
		r.Verb = Verb(word)
	default:
		return r.withID(words), fmt.Errorf("unknown verb %.20q", word)
	}
	if len(words) > 1 || len(words) == 1 && !isID(words[0]) {
		return r, fmt.Errorf("more behind %q than an id", word)
	}
	return r.withID(words), nil
}

func (r Request) withID(words []string) Request {
	if len(words) == 1 && isID(words[0]) {
		r.ID = words[0]
	}
	return r
}

// isID tells whether a word can be repeated in a status without harm.
func isID(word string) bool {
	if len(word) > 32 {
		return false
	}
	for _, c := range []byte(word) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
