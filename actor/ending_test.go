package actor

import (
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
	"sysmgr/reaper"
)

// What the status file and the records say is the same whatever an Ending is made
// of; and whoever reads it there has the same Ending again.
func TestWordsMakeTheEndingThatTheyAreOf(t *testing.T) {
	if e := parseEnding(""); e != 0 || e.String() != "" {
		t.Errorf("before the first end: got %d, %q", e, e)
	}
	for status := range syscall.WaitStatus(1 << 16) {
		want := "exit " + strconv.Itoa(status.ExitStatus())
		switch {
		case status == reaper.Unknown:
			want = "unknown"
		case status.Signaled():
			want = "killed by " + rundir.SignalName(unix.Signal(status.Signal()))
			if status.CoreDump() {
				want += " (core dumped)"
			}
		case !status.Exited():
			continue // it has stopped, or goes on: no end
		}
		e := endingOf(status)
		if got := e.String(); got != want {
			t.Fatalf("status %#x: got %q, want %q", int(status), got, want)
		}
		if again := parseEnding(want); again != e {
			t.Fatalf("%q: got %d, want %d", want, again, e)
		}
	}
}

// A daemon of another version may have other words.
func TestWordsOfAnotherVersionAreKeptAsTheyAre(t *testing.T) {
	strange := []string{"exit 256", "Unknown", "killed by KILL ", "exit 256"}
	var states []State
	for _, words := range strange {
		r := past("web", State{Phase: Down, Starts: 1}, nil)
		r.LastExit = words
		s, ok := restored(reread(t, r), Now(), rundir.Clock())
		if !ok {
			t.Fatalf("%q: the record is of no use", words)
		}
		s.Since = 0
		states = append(states, s)
	}
	for i, words := range strange {
		if got := states[i].record(Now(), rundir.Clock()).LastExit; got != words {
			t.Errorf("got %q, want %q", got, words)
		}
	}
	if states[0] != states[3] || states[0] == states[1] {
		t.Errorf("got %d, %d and %d; want the same for the same words, and no others", states[0].LastExit, states[3].LastExit, states[1].LastExit)
	}
}
