package rundir

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What sysmgr-depends leaves in a folder beside Waiting and Needs. Names that
// begin with a dot are no interface.
const (
	// Waited says how often this run of the service has called sysmgr-depends,
	// how long it has waited, and since when it waits now.
	Waited = ".waited"
	// Circle says who waited for whom when this service found that it waited
	// for itself, so that the others in the circle learn of it even if this one
	// has given up already.
	Circle = ".circle"
)

// Names is the content of Waiting and Needs: one name a line.
func Names(names []string) []byte {
	return []byte(strings.Join(names, "\n") + "\n")
}

// ReadNames reads Waiting or Needs; nil if there is none. The services that
// write them may write anything: what is no name is left out.
func (f *Folder) ReadNames(file string) []string {
	data, err := f.Read(file)
	if err != nil {
		return nil
	}
	return ParseNames(data)
}

// ParseNames reads the content of Waiting or Needs.
func ParseNames(data []byte) []string {
	var names []string
	var seen map[string]bool // once there are many: there may be thousands
	for line := range strings.Lines(string(data)) {
		name := strings.TrimSuffix(line, "\n")
		if CheckName(name) != nil || seen[name] || seen == nil && slices.Contains(names, name) {
			continue
		}
		names = append(names, name)
		if seen != nil {
			seen[name] = true
		} else if len(names) == 16 {
			seen = make(map[string]bool)
			for _, name := range names {
				seen[name] = true
			}
		}
	}
	return names
}

// Wait is the content of Waited.
type Wait struct {
	Total time.Duration // of the waits that are over
	Since time.Duration // by Clock, of the one that is not; 0: none
	Ended time.Duration // by Clock, of the last one; 0: none has ended
	Calls int           // of sysmgr-depends
}

// At is how long the service has waited until a moment of Clock.
func (w Wait) At(clock time.Duration) time.Duration {
	if w.Since > 0 {
		return w.Total + max(0, clock-w.Since)
	}
	return w.Total
}

// WriteWait writes Waited.
func (f *Folder) WriteWait(w Wait) error {
	return f.Write(Waited, fmt.Appendf(nil, "total %s\nsince %s\nended %s\ncalls %d\n",
		seconds(w.Total), seconds(w.Since), seconds(w.Ended), w.Calls))
}

// ReadWait reads Waited; the zero Wait if there is none.
func (f *Folder) ReadWait() (w Wait) {
	data, err := f.Read(Waited)
	if err != nil {
		return w
	}
	for line := range strings.Lines(string(data)) {
		switch key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); key {
		case "total":
			w.Total = parseSeconds(value)
		case "since":
			w.Since = parseSeconds(value)
		case "ended":
			w.Ended = parseSeconds(value)
		case "calls":
			w.Calls, _ = strconv.Atoi(value)
		}
	}
	return w
}

// Found is the content of Circle: when it was found, and who waited for whom.
type Found struct {
	Clock time.Duration
	Needs map[string][]string
}

// WriteFound writes Circle.
func (f *Folder) WriteFound(c Found) error {
	lines := []string{seconds(c.Clock)}
	for name, needs := range c.Needs {
		for _, need := range needs {
			lines = append(lines, name+"\t"+need) // no name has a tab in it
		}
	}
	return f.Write(Circle, Names(lines))
}

// ReadFound reads Circle; the zero Found if there is none.
func (f *Folder) ReadFound() Found {
	data, err := f.Read(Circle)
	if err != nil {
		return Found{}
	}
	clock, rest, _ := strings.Cut(string(data), "\n")
	c := Found{Clock: parseSeconds(clock), Needs: make(map[string][]string)}
	for line := range strings.Lines(rest) {
		name, need, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if CheckName(name) == nil && CheckName(need) == nil {
			c.Needs[name] = append(c.Needs[name], need)
		}
	}
	return c
}

// OfARun are the files that a run of the service writes about itself, and which
// do not hold for the next.
var OfARun = [...]string{Ready, StopSignal, StopTimeout, Waiting, Needs, Waited, Circle}
