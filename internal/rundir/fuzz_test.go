//go:build linux

package rundir

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"
)

func FuzzReadHold(f *testing.F) {
	for _, seed := range []string{"", "TERM\n", "KILL", "9", "once\n", "0", " once ", "ONCE", "once\nonce", "\x00", "-9", strings.Repeat("x", MaxFile+1)} {
		f.Add([]byte(seed))
	}
	folder := newFolder(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		put(t, filepath.Join(folder.Path(), Lock), string(data))
		hold, stamp, _ := folder.ReadHold()
		if hold == NoHold || stamp == (Stamp{}) {
			t.Errorf("%q: got %v, %v, want a hold", data, hold, stamp)
		}
		if (hold == HoldOpen) != (len(data) <= MaxFile && strings.TrimSpace(string(data)) == "") {
			t.Errorf("%q: got %v", data, hold)
		}
		// What is held is never started by a word that is not exactly one of two.
		if word := strings.TrimSpace(string(data)); hold == HoldOnce && word != "once" && word != "0" {
			t.Errorf("%q: got once", data)
		}
		if hold == HoldOpen {
			return
		}
		put(t, filepath.Join(folder.Path(), Lock), string(hold.Line()))
		if again, _, _ := folder.ReadHold(); again != hold {
			t.Errorf("%q: got %v, and from its own line %v", data, hold, again)
		}
	})
}

func FuzzReadManner(f *testing.F) {
	for _, seed := range []string{"", "TERM", "15", "0", "-1", "65", "1e9", "NaN", "inf", "0x10", "99999999999", "SIGSIG", "\x00", "9\n9"} {
		f.Add([]byte(seed), []byte(seed))
	}
	folder := newFolder(f)
	f.Fuzz(func(t *testing.T, signal, timeout []byte) {
		put(t, filepath.Join(folder.Path(), StopSignal), string(signal))
		put(t, filepath.Join(folder.Path(), StopTimeout), string(timeout))
		usual := Manner{Signal: unix.SIGTERM, Grace: 10}
		m, bad := folder.ReadManner(usual)
		if m.Signal < 1 || m.Signal > 64 {
			t.Errorf("%q: got signal %d", signal, int(m.Signal))
		}
		if m.Grace < 0 {
			t.Errorf("%q: got %v", timeout, m.Grace)
		}
		for _, name := range bad {
			if name == StopSignal && m.Signal != usual.Signal || name == StopTimeout && m.Grace != usual.Grace {
				t.Errorf("%q, %q: bad %v, and got %+v", signal, timeout, bad, m)
			}
		}
	})
}

func FuzzParseSignal(f *testing.F) {
	for _, seed := range []string{"TERM", "sigterm", "15", "0", "-9", "65", "+9", "RTMIN", "SIGSIGTERM", " KILL\n", "\u0131nt"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, word string) {
		sig, ok := ParseSignal(word)
		if !ok {
			return
		}
		if sig < 1 || sig > 64 {
			t.Errorf("ParseSignal(%q): got %d", word, int(sig))
		}
		if again, ok := ParseSignal(SignalName(sig)); !ok || again != sig {
			t.Errorf("ParseSignal(%q): got %d, and from its name %d", word, int(sig), int(again))
		}
	})
}

func FuzzParseSeconds(f *testing.F) {
	for _, seed := range []string{"0", "1.5", "-0", "1e300", "NaN", "Inf", "0x1p10", "1_000", "315360001", " 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if d, ok := ParseSeconds(word); d < 0 || !ok && d != 0 || d.Hours() > 10*365*24 {
			t.Errorf("ParseSeconds(%q): got %v, %v", word, d, ok)
		}
		if d := parseSeconds(word); d < 0 {
			t.Errorf("parseSeconds(%q): got %v", word, d)
		}
	})
}

func FuzzCheckName(f *testing.F) {
	for _, seed := range []string{"", ".", "..", "/", "../../x", "pid", "a\nb", "\xff", "web", "ünïcødé", strings.Repeat("x", 256), ".sysmgr", "\u2028", "\u0085"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) != nil {
			return
		}
		if name == "" || len(name) > MaxName || strings.Contains(name, "/") || name == "." || name == ".." || name == Pid ||
			strings.ContainsFunc(name, unicode.IsControl) || filepath.Base(name) != name {
			t.Errorf("CheckName(%q): got nil", name)
		}
	})
}

// Whatever is in a line of the records, it makes no process of 0 or 1, and
// what a daemon has written is read as it was.
func FuzzParseRecord(f *testing.F) {
	f.Add(Record{Name: "web", Phase: Up, Wanted: "up", Pid: 412, Group: 412, From: 1, To: 2, Since: 3, Starts: 1}.encode(nil))
	f.Add(Record{Name: "a b=c", Phase: Backoff, Wanted: "once", Due: 9, Cause: "x \" / y\n", LastExit: "exit 1", Asked: "a1"}.encode(nil))
	for _, seed := range []string{"", "\n", "web/ phase=up wanted=up pid=1 \n", "web/ phase=up wanted=up pid=-7 group=0 \n",
		"web/ phase=up wanted=up pid=99999999999 \n", "../x/ phase=up wanted=up \n", "web/ phase=up wanted=up cause=\"\\x", "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, ok := ParseRecord(line)
		if !ok {
			return
		}
		if CheckName(r.Name) != nil || r.Pid < 0 || r.Pid == 1 || r.Group < 0 || r.Group == 1 || r.Failures < 0 {
			t.Errorf("%q: got %+v", line, r)
		}
		again, ok := ParseRecord(r.encode(nil))
		again.slot = r.slot
		if len(r.Cause) < 50 && len(r.LastExit) < 10 && len(r.Asked) < 10 && (!ok || again != r) {
			t.Errorf("%q: got %+v, %v\nwant %+v", line, again, ok, r)
		}
	})
}
