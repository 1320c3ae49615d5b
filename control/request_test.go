//go:build linux

package control

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestRequestsThatAreUnderstood(t *testing.T) {
	for line, want := range map[string]Request{
		"start\n":              {Verb: Start},
		"start":                {Verb: Start},
		"  start \n\n":         {Verb: Start},
		"up x\n":               {Verb: Start, ID: "x"},
		"stop\r\n":             {Verb: Stop},
		"down\n":               {Verb: Stop},
		"restart a-b_C.9\n":    {Verb: Restart, ID: "a-b_C.9"},
		"once\t1\n":            {Verb: Once, ID: "1"},
		"kill\n":               {Verb: Kill},
		"reload 7\n":           {Verb: Signal, Signal: unix.SIGHUP, ID: "7"},
		"signal USR1\n":        {Verb: Signal, Signal: unix.SIGUSR1},
		"signal sigusr1 id\n":  {Verb: Signal, Signal: unix.SIGUSR1, ID: "id"},
		"signal 10 id\n":       {Verb: Signal, Signal: unix.SIGUSR1, ID: "id"},
		"stop " + longest + "": {Verb: Stop, ID: longest},
	} {
		if got, err := ParseRequest([]byte(line)); err != nil || got != want {
			t.Errorf("ParseRequest(%q): got %+v, %v, want %+v", line, got, err, want)
		}
	}
}

var longest = strings.Repeat("x", 32)

func TestRequestsThatAreRefused(t *testing.T) {
	for line, want := range map[string]struct{ id, why string }{
		"":                         {"", "empty"},
		"\n":                       {"", "empty"},
		" \t\n":                    {"", "empty"},
		"\nstart\n":                {"", "empty"},
		"stat\n":                   {"", "unknown verb"},
		"START\n":                  {"", "unknown verb"},
		"released\n":               {"", "unknown verb"},
		"explode id\n":             {"id", "unknown verb"},
		"explode id more\n":        {"", "unknown verb"},
		"signal\n":                 {"", "without a name"},
		"signal NOPE id\n":         {"id", "unknown signal"},
		"signal 0 id\n":            {"id", "unknown signal"},
		"signal -9 id\n":           {"id", "unknown signal"},
		"start id more\n":          {"", "more behind"},
		"start " + longest + "x":   {"", "more behind"},
		"start \x1b[2J\n":          {"", "more behind"},
		"start id/../../etc\n":     {"", "more behind"},
		"start ünïcødé\n":          {"", "more behind"},
		"start\nstop\n":            {"", "more than one line"},
		"start\x00\n":              {"", "unknown verb"},
		"\x00":                     {"", "unknown verb"},
		strings.Repeat("x", 16000): {"", "unknown verb"},
	} {
		got, err := ParseRequest([]byte(line))
		if err == nil || !strings.Contains(err.Error(), want.why) {
			t.Errorf("ParseRequest(%.40q): got %+v, %v, want an error about %q", line, got, err, want.why)
			continue
		}
		if got.ID != want.id {
			t.Errorf("ParseRequest(%.40q): got id %q, want %q", line, got.ID, want.id)
		}
		if len(err.Error()) > 200 || strings.ContainsAny(err.Error(), "\x00\x1b\n") {
			t.Errorf("ParseRequest(%.40q): its error is not fit to print: %q", line, err)
		}
	}
}

func TestRequestComesBackAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Request{
			Verb: rapid.SampledFrom([]Verb{Start, Stop, Restart, Once, Kill, Signal}).Draw(t, "verb"),
			ID:   rapid.StringMatching(`[a-zA-Z0-9._-]{0,32}`).Draw(t, "id"),
		}
		if r.Verb == Signal {
			r.Signal = unix.Signal(rapid.IntRange(1, 64).Draw(t, "signal"))
		}
		if got, err := ParseRequest(r.Line()); err != nil || got != r {
			t.Fatalf("%q: got %+v, %v, want %+v", r.Line(), got, err, r)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	for _, seed := range []string{"start\n", "signal USR1 id\n", "reload x", "explode id", "start\nstop", "signal \xff", "\x00", "stop a b"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRequest(data)
		if r.ID != "" && !isID(r.ID) {
			t.Errorf("id %q", r.ID)
		}
		if err != nil {
			return
		}
		switch r.Verb {
		case Start, Stop, Restart, Once, Kill:
		case Signal:
			if r.Signal < 1 || r.Signal > 64 {
				t.Errorf("signal %d", int(r.Signal))
			}
		default:
			t.Errorf("verb %q", r.Verb)
		}
		if again, err := ParseRequest(r.Line()); err != nil || again != r {
			t.Errorf("%q: got %+v, %v, want %+v", r.Line(), again, err, r)
		}
	})
}

func TestIDsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 10_000 {
		id := NewID()
		if seen[id] || !isID(id) || id == "" {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}
