package rundir

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The phases of a service as the status file spells them.
const (
	Up       = "up"
	Stopping = "stopping"
	Down     = "down"
	Backoff  = "backoff"
	Blocked  = "blocked"
)

// Status is the content of a service's status file: lines of a key, a space
// and a value. Keys that have nothing to say are left out, and readers pass
// over keys they do not know.
type Status struct {
	Phase    string        // one of the five phases
	Wanted   string        // up, down or once
	Pid      int           // the main process, 0 without one
	Since    time.Time     // when the phase began, by the wall clock
	Clock    time.Duration // the same moment by Clock, for durations
	Starts   int           // starts since the daemon took the service up
	Restarts int           // times it ended by itself and was to be kept alive
	LastExit string        // "exit 1" or "killed by KILL", empty before the first
	Cause    string        // why it is in this phase
	RetryIn  time.Duration // backoff: from Since to the next start
	Failures int           // ends in a row that were too soon or too often
	Killed   time.Duration // stopping: when KILL was sent, by Clock; 0: not yet
	Calls    int           // of sysmgr-depends in the last run of the same file; -1: not known
	Requests []string      // ids of the requests taken, the newest first
	Refused  string        // id and reason of the last request that was refused
	Said     Said          // what the service says of itself, as far as the daemon has heard of it
}

// Said is what a run of a service says of itself by the files that it writes,
// as a status repeats it. The files are the truth, and this may be a moment
// behind them.
type Said struct {
	Heard   bool     // the daemon hears of what is said; without that nothing here counts
	Ready   bool     // it is ready
	Waiting []string // whom it waits for
	Pid     int      // what it wrote into its pid file, 0: it has left that alone
}

// Equal tells whether the same was said.
func (s Said) Equal(t Said) bool {
	return s.Heard == t.Heard && s.Ready == t.Ready && s.Pid == t.Pid && slices.Equal(s.Waiting, t.Waiting)
}

// KeptRequests is how many request ids a status repeats: enough for many
// clients that wait at once to find theirs.
const KeptRequests = 32

// Encode is the file's content.
func (s Status) Encode() []byte {
	b := make([]byte, 0, 512)
	word := func(key, value string) {
		if value != "" {
			b = append(append(append(append(b, key...), ' '), plain(value)...), '\n')
		}
	}
	number := func(key string, n int) {
		b = append(strconv.AppendInt(append(append(b, key...), ' '), int64(n), 10), '\n')
	}
	moment := func(key string, d time.Duration) {
		b = append(strconv.AppendFloat(append(append(b, key...), ' '), d.Seconds(), 'f', 3, 64), '\n')
	}
	word("phase", s.Phase)
	word("wanted", s.Wanted)
	if s.Pid > 0 {
		number("pid", s.Pid)
	}
	if s.Said.Heard {
		s.Said.encode(word, number)
	}
	b = append(s.Since.AppendFormat(append(b, "since "...), "2006-01-02T15:04:05.000Z07:00"), '\n')
	moment("clock", s.Clock)
	number("starts", s.Starts)
	number("restarts", s.Restarts)
	word("last-exit", s.LastExit)
	word("cause", s.Cause)
	if s.RetryIn > 0 {
		moment("retry-in", s.RetryIn)
	}
	if s.Failures > 0 {
		number("failures", s.Failures)
	}
	if s.Killed > 0 {
		moment("killed", s.Killed)
	}
	if s.Calls >= 0 {
		number("calls", s.Calls)
	}
	word("request", strings.Join(s.Requests, " "))
	word("refused", s.Refused)
	return b
}

// encode writes a line for each name, because there may be spaces in one, and
// no more names than there is room for.
func (s Said) encode(word func(key, value string), number func(key string, n int)) {
	if s.Pid > 0 {
		number("service-pid", s.Pid)
	}
	ready := "no"
	if s.Ready {
		ready = "yes"
	}
	word("ready", ready)
	for _, name := range Fit(s.Waiting) {
		word("waiting", name)
	}
}

// Fit is as many of the names that a service waits for as there is room for in its
// status.
func Fit(names []string) []string {
	room := maxValue
	for i, name := range names {
		if room -= len("waiting ") + len(name) + 1; room < 0 {
			return names[:i]
		}
	}
	return names
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
}

// maxValue is how many bytes of a value are kept: all of them together must
// stay below MaxFile. The longest that are worth it are KeptRequests ids.
const maxValue = 2000

// plain keeps a value on its line: control characters and what is no UTF-8
// are escaped, and what is too long, as the target of a link may be, ends in
// an ellipsis.
func plain(value string) string {
	if strings.ContainsFunc(value, unicode.IsControl) || !utf8.ValidString(value) {
		quoted := strconv.Quote(value)
		value = quoted[1 : len(quoted)-1]
	}
	if len(value) <= maxValue {
		return value
	}
	end := maxValue
	for end > maxValue-utf8.UTFMax && !utf8.RuneStart(value[end]) {
		end--
	}
	return value[:end] + "…"
}

// ParseStatus reads a status file. Lines it does not understand are passed
// over, so that an older tool can read a newer daemon's file; without a phase
// it is an error. The file may have been written by the service, to be shown
// on an administrator's terminal: control characters are escaped here too.
//
// Nothing of data is kept, and nothing is allocated for what a status has as a
// rule: a tool reads those of thousands.
func ParseStatus(data []byte) (Status, error) {
	s := Status{Calls: -1}
	for line := range bytes.Lines(data) {
		key, value, _ := bytes.Cut(bytes.TrimSuffix(line, newline), space)
		switch string(key) {
		case "phase":
			s.Phase = word(value)
		case "wanted":
			s.Wanted = word(value)
		case "pid":
			s.Pid, _ = ParsePid(value)
		case "service-pid":
			s.Said.Pid, _ = ParsePid(value)
		case "ready":
			s.Said.Heard, s.Said.Ready = true, string(value) == "yes"
		case "waiting":
			if name := string(value); CheckName(name) == nil {
				s.Said.Waiting = append(s.Said.Waiting, name)
			}
		case "since":
			s.Since, _ = time.Parse(time.RFC3339, string(value))
		case "clock":
			s.Clock = parseSeconds(string(value))
		case "starts":
			s.Starts, _ = strconv.Atoi(string(value))
		case "restarts":
			s.Restarts, _ = strconv.Atoi(string(value))
		case "last-exit":
			s.LastExit = word(value)
		case "cause":
			s.Cause = word(value)
		case "retry-in":
			s.RetryIn = parseSeconds(string(value))
		case "failures":
			s.Failures, _ = strconv.Atoi(string(value))
		case "killed":
			s.Killed = parseSeconds(string(value))
		case "calls":
			s.Calls, _ = strconv.Atoi(string(value))
		case "request":
			s.Requests = strings.Fields(word(value))
		case "refused":
			s.Refused = word(value)
		}
	}
	switch s.Phase {
	case Up, Stopping, Down, Backoff, Blocked:
		return s, nil
	}
	return s, fmt.Errorf("no status: phase %.20q", s.Phase)
}

var newline, space = []byte("\n"), []byte(" ")

// word is a value as a string, plain.
func word(value []byte) string {
	for _, usual := range [...]string{Up, Stopping, Down, Backoff, Blocked} {
		if string(value) == usual {
			return usual
		}
	}
	return plain(string(value))
}

func parseSeconds(value string) time.Duration {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || f != f || f < 0 || f > 1e9 {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// ReadStatus reads the status file of the folder.
func (f *Folder) ReadStatus() (Status, error) {
	data, err := f.Read(State)
	if err != nil {
		return Status{}, err
	}
	s, err := ParseStatus(data)
	if err != nil {
		return s, f.err("read", State, err)
	}
	return s, nil
}

// Clock is the time since some fixed moment before this boot's first
// process, from CLOCK_MONOTONIC (clock_gettime(2)): the same for every
// process of the machine, and untouched by setting the date.
func Clock() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(clockMonotonic, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Acted tells whether the daemon has taken the request of this id.
func (s Status) Acted(id string) bool {
	for _, r := range s.Requests {
		if r == id {
			return true
		}
	}
	return false
}
