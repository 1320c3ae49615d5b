package actor

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

var update = flag.Bool("update", false, "write the golden table, and the manual that shows it")

const (
	golden = "testdata/states.txt"
	manual = "../man/sysmgr-states.7"
)

// t0 is when all events of the table happen.
const t0 = Moment(24 * time.Hour)

// sample is a state as the table shows it.
type sample struct {
	name  string
	state State
}

// samples has one state for every phase and want that Step can come to, and
// two for stopping, where it matters whether the main process is gone.
func samples() []sample {
	since := t0.Add(-5 * time.Second)
	var out []sample
	add := func(note string, s State) {
		s.Since = since
		name := s.Phase.String() + "/" + s.Want.String()
		if note != "" {
			name += " (" + note + ")"
		}
		out = append(out, sample{name, s})
	}
	for _, w := range []Want{WantUp, WantOnce} {
		add("starting", State{Phase: Down, Want: w})
		add("", State{Phase: Up, Want: w, Pid: 9, Group: 9})
		add("", State{Phase: Backoff, Want: w, Since: t0.Add(-5 * time.Second), Due: t0})
		add("", State{Phase: Blocked, Want: w, Bar: "not executable"})
	}
	for _, w := range Wants {
		timeout := t0.Add(4 * time.Second)
		add("", State{Phase: Stopping, Want: w, Pid: 9, Group: 9, KillAt: timeout, Due: timeout})
		add("main process gone", State{Phase: Stopping, Want: w, Group: 9, KillAt: timeout, Due: t0})
		add("KILL sent", State{Phase: Stopping, Want: w, Pid: 9, Group: 9, Killed: t0, Due: t0})
	}
	add("", State{Phase: Down, Want: WantDown})
	add("retired", State{Phase: Down, Want: WantGone})
	return out
}

// happening is an event as the table shows it.
type happening struct {
	name  string
	event Event
}

func happenings() []happening {
	manner := rundir.Manner{Signal: unix.SIGTERM, Grace: 10 * time.Second}
	var out []happening
	add := func(note string, e Event) {
		if e.Manner = manner; e.At.IsZero() {
			e.At = t0
		}
		name := e.Kind.String()
		if note != "" {
			name += " (" + note + ")"
		}
		out = append(out, happening{name, e})
	}
	exit1 := syscall.WaitStatus(1 << 8)
	for _, k := range Kinds {
		switch k {
		case Appeared:
			add("runnable", Event{Kind: k})
			add("not runnable", Event{Kind: k, Bar: "a directory, not a file"})
		case Started:
			add("", Event{Kind: k, Pid: 7})
		case Refused:
			for _, r := range Refusals {
				add(r.String(), Event{Kind: k, Refusal: r, Cause: "the reason"})
			}
		case Exited:
			add("group empty", Event{Kind: k, Exit: exit1, Alone: true})
			add("group not empty", Event{Kind: k, Exit: exit1})
		case Timer:
			add("due now", Event{Kind: k})
			add("due in 4s", Event{Kind: k, At: t0.Add(4 * time.Second)})
		case Signal:
			add("", Event{Kind: k, Signal: unix.SIGHUP})
		default:
			add("", Event{Kind: k})
		}
	}
	return out
}

// table is the whole of Step: every event in every state.
func table() string {
	var b strings.Builder
	for _, s := range samples() {
		fmt.Fprintf(&b, "%s\n", s.name)
		for _, h := range happenings() {
			next, effects := Step(s.state, h.event)
			result := "-"
			if next != s.state || len(effects) > 0 {
				words := []string{next.Phase.String() + "/" + next.Want.String()}
				for _, e := range effects {
					words = append(words, e.String())
				}
				if !next.Due.IsZero() {
					words = append(words, "timer "+next.Due.Sub(h.event.At).String())
				}
				result = strings.Join(words, ", ")
			}
			fmt.Fprintf(&b, "  %-24s %s\n", h.name, result)
		}
	}
	return b.String()
}

// The table is what people read who want to know what happens when; it is in
// the manual, and this test keeps both true.
func TestTableInTheManualIsWhatStepDoes(t *testing.T) {
	got := table()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("Step is not as %s says: see what changed, then run go test ./actor -update\n%s", golden, firstDifference(got, string(want)))
	}
	page, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = ".\\\" begin table\n.Bd -literal\n", ".Ed\n.\\\" end table\n"
	before, rest, ok := strings.Cut(string(page), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", manual)
	}
	if *update && shown != got {
		shown = got
		if err := os.WriteFile(manual, []byte(before+begin+got+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if shown != got {
		t.Errorf("the table in %s is old: run go test ./actor -update\n%s", manual, firstDifference(shown, got))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			w = append(w, make([]string, len(g))...)
			return fmt.Sprintf("line %d: got  %q\n         want %q", i+1, g[i], w[i])
		}
	}
	return "the rest is missing"
}

// Every phase and want that can be reached has its row, and no other.
func TestTableHasEveryReachableState(t *testing.T) {
	type pair struct {
		p Phase
		w Want
	}
	shown := make(map[pair]bool)
	var queue []State
	for _, s := range samples() {
		shown[pair{s.state.Phase, s.state.Want}] = true
		queue = append(queue, s.state)
	}
	reached := make(map[pair]bool)
	for _, s := range queue {
		for _, h := range happenings() {
			next, _ := Step(s, h.event)
			reached[pair{next.Phase, next.Want}] = true
			if !shown[pair{next.Phase, next.Want}] {
				t.Errorf("%v/%v, %s: got %v/%v, which has no row", s.Phase, s.Want, h.name, next.Phase, next.Want)
			}
		}
	}
	for p := range shown {
		if !reached[p] {
			t.Errorf("%v/%v has a row, but nothing leads there", p.p, p.w)
		}
	}
}
