//go:build linux

package rundir

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var phases = []string{Up, Stopping, Down, Backoff, Blocked}

// statuses draws any status that a daemon may write.
func statuses() *rapid.Generator[Status] {
	word := rapid.StringMatching(`[a-zA-Z0-9._-]{1,32}`)
	text := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[ -~]{1,80}`), rapid.StringOfN(rapid.Rune(), 1, 40, -1))
	millis := rapid.Map(rapid.Int64Range(0, 1e12), func(n int64) time.Duration { return time.Duration(n) * time.Millisecond })
	return rapid.Custom(func(t *rapid.T) Status {
		s := Status{
			Phase:    rapid.SampledFrom(phases).Draw(t, "phase"),
			Wanted:   rapid.SampledFrom([]string{"", "up", "down", "once"}).Draw(t, "wanted"),
			Pid:      rapid.OneOf(rapid.Just(0), rapid.IntRange(2, 1<<31-1)).Draw(t, "pid"),
			Since:    time.UnixMilli(rapid.Int64Range(0, 4e12).Draw(t, "since")),
			Clock:    millis.Draw(t, "clock") / 1000 * 1000,
			Starts:   rapid.IntRange(0, math.MaxInt).Draw(t, "starts"),
			Restarts: rapid.IntRange(0, math.MaxInt).Draw(t, "restarts"),
			LastExit: text.Draw(t, "last-exit"),
			Cause:    text.Draw(t, "cause"),
			RetryIn:  millis.Draw(t, "retry-in"),
			Requests: rapid.SliceOfN(word, 0, KeptRequests).Draw(t, "requests"),
			Refused:  text.Draw(t, "refused"),
		}
		if rapid.Bool().Draw(t, "heard") {
			s.Said = Said{
				Heard:   true,
				Ready:   rapid.Bool().Draw(t, "ready"),
				Waiting: rapid.SliceOfN(rapid.StringMatching(`[a-z][ -.0-~é]{0,20}`), 0, 5).Draw(t, "waiting"),
				Pid:     rapid.OneOf(rapid.Just(0), rapid.IntRange(2, 1<<31-1)).Draw(t, "service-pid"),
			}
		}
		return s
	})
}

// sameMillis: the file counts in milliseconds, and in floating point.
func sameMillis(a, b time.Duration) bool {
	return (a - b).Abs() <= time.Millisecond
}

func TestStatusComesBackAsItWasWritten(t *testing.T) {
	gen := statuses()
	rapid.Check(t, func(t *rapid.T) {
		s := gen.Draw(t, "status")
		got, err := ParseStatus(s.Encode())
		if err != nil {
			t.Fatalf("ParseStatus: %v\n%s", err, s.Encode())
		}
		if !got.Since.Equal(s.Since) || !sameMillis(got.Clock, s.Clock) || !sameMillis(got.RetryIn, s.RetryIn) {
			t.Fatalf("times: got %v %v %v, want %v %v %v", got.Since, got.Clock, got.RetryIn, s.Since, s.Clock, s.RetryIn)
		}
		want := s
		want.Since, want.Clock, want.RetryIn = got.Since, got.Clock, got.RetryIn
		// Text with control characters comes back escaped.
		want.LastExit, want.Cause, want.Refused = plain(s.LastExit), plain(s.Cause), plain(s.Refused)
		if len(want.Requests) == 0 {
			want.Requests = nil
		}
		if len(want.Said.Waiting) == 0 {
			want.Said.Waiting = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v\nfile:\n%s", got, want, s.Encode())
		}
	})
}

// A value cannot break out of its line and forge another one.
func TestStatusKeepsEachValueOnItsLine(t *testing.T) {
	forged := "x\npid 4711\nphase up\r\nwanted up"
	s := Status{Phase: Down, Wanted: "down", LastExit: forged, Cause: forged, Refused: forged, Since: time.Now()}
	data := s.Encode()
	got, err := ParseStatus(data)
	if err != nil || got.Pid != 0 || got.Phase != Down || got.Wanted != "down" {
		t.Errorf("got %+v, %v from\n%s", got, err, data)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		key, _, _ := strings.Cut(line, " ")
		if seen[key] {
			t.Errorf("key %q twice in\n%s", key, data)
		}
		seen[key] = true
	}
}

// A service may have written the file, and an administrator's terminal shows it.
func TestWhatIsReadFromAStatusHarmsNoTerminal(t *testing.T) {
	s, err := ParseStatus([]byte("phase up\nwanted \x1b[1m\ncause \x1b]0;x\a\nlast-exit \x9b\nrefused \x00\nrequest \x1b\nready yes\nwaiting \x1b[2J\nwaiting a/b\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range append([]string{s.Wanted, s.Cause, s.LastExit, s.Refused}, s.Requests...) {
		if word == "" || strings.ContainsFunc(word, unicode.IsControl) || !utf8.ValidString(word) {
			t.Errorf("got %q, want it escaped", word)
		}
	}
	if s.Said.Waiting != nil {
		t.Errorf("got %q, want no service of such a name", s.Said.Waiting)
	}
}

// Without the key ready nobody can tell what a service says of itself: the
// daemon does not hear of it, or is of a version that does not listen.
func TestStatusSaysWhetherItKnowsWhatTheServiceSays(t *testing.T) {
	base := Status{Phase: Up, Wanted: "up", Pid: 100, Since: time.Now()}
	for _, c := range []struct {
		said Said
		want string
	}{
		{Said{}, ""},
		{Said{Ready: true, Waiting: []string{"db"}, Pid: 200}, ""},
		{Said{Heard: true}, "ready no"},
		{Said{Heard: true, Ready: true, Pid: 200}, "service-pid 200,ready yes"},
		{Said{Heard: true, Waiting: []string{"db", "my cache"}}, "ready no,waiting db,waiting my cache"},
	} {
		s := base
		s.Said = c.said
		data := s.Encode()
		var lines []string
		for line := range strings.Lines(string(data)) {
			switch key, _, _ := strings.Cut(line, " "); key {
			case "ready", "waiting", "service-pid":
				lines = append(lines, strings.TrimSuffix(line, "\n"))
			}
		}
		if got := strings.Join(lines, ","); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.said, got, c.want)
		}
		got, err := ParseStatus(data)
		if want := c.said; err != nil || got.Said.Heard != want.Heard || want.Heard && !got.Said.Equal(want) || got.Pid != 100 {
			t.Errorf("%+v: got %+v, %v back", want, got.Said, err)
		}
	}
}

// Whatever a cause says, the file stays one that its readers accept.
func TestStatusIsNeverTooLongToRead(t *testing.T) {
	f := newFolder(t)
	for _, char := range []string{"x", "\x01", "é", "日", "\x80", "\xff", "\n"} {
		long := strings.Repeat(char, 4095)
		s := Status{Phase: Blocked, Wanted: "up", Since: time.Now(), Cause: "link to " + long, LastExit: long, Refused: "id " + long}
		for range KeptRequests {
			s.Requests = append(s.Requests, strings.Repeat("r", 32))
		}
		s.Said = Said{Heard: true, Waiting: []string{"db"}}
		for range 100 {
			s.Said.Waiting = append(s.Said.Waiting, strings.Repeat("w", 255))
		}
		if err := f.Write(State, s.Encode()); err != nil {
			t.Fatal(err)
		}
		got, err := f.ReadStatus()
		if err != nil {
			t.Errorf("%q 4095 times: ReadStatus of %d bytes: %v", char, len(s.Encode()), err)
			continue
		}
		if len(got.Requests) != KeptRequests || !strings.HasPrefix(got.Cause, "link to ") || !strings.HasPrefix(got.Refused, "id ") {
			t.Errorf("%q 4095 times: got %+v, want what the beginning says", char, got)
		}
		if w := got.Said.Waiting; len(w) < 2 || w[0] != "db" || len(w[len(w)-1]) != 255 {
			t.Errorf("waits for a hundred: got %q, want the first of them, and each whole", w)
		}
		if utf8.ValidString(long) && !utf8.ValidString(got.Cause) {
			t.Errorf("%q 4095 times: cut in the middle of a character: %q", char, got.Cause[len(got.Cause)-8:])
		}
	}
}

func TestStatusOfAnotherVersionIsRead(t *testing.T) {
	s, err := ParseStatus([]byte("colour blue\nphase up\n\nnonsense\npid 0412\nstarts many\npid-of-shell 3\nwanted up"))
	if err != nil || s.Phase != Up || s.Pid != 412 || s.Wanted != "up" || s.Starts != 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, bad := range []string{"", "\n", "pid 412\n", "phase \n", "phase UP\n", "phase gone\n", "phase\n", "\x00\x00"} {
		if s, err := ParseStatus([]byte(bad)); err == nil {
			t.Errorf("ParseStatus(%q): got %+v, want an error", bad, s)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add(Status{Phase: Up, Wanted: "up", Pid: 412, Since: time.Unix(1, 0), Requests: []string{"a", "b"}, Refused: "b why"}.Encode())
	f.Add([]byte("phase backoff\nretry-in 1e400\nclock NaN\nsince never\npid -7\n"))
	f.Add([]byte("phase up\npid 1\npid 99999999999999999999\n\xff\xfe"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseStatus(data)
		if s.Pid != 0 && s.Pid <= 1 {
			t.Errorf("pid %d", s.Pid)
		}
		if s.Clock < 0 || s.RetryIn < 0 {
			t.Errorf("negative duration: %v %v", s.Clock, s.RetryIn)
		}
		if err != nil {
			return
		}
		// What was read once is read again in the same way.
		again, err := ParseStatus(s.Encode())
		if err != nil || again.Phase != s.Phase || again.Pid != s.Pid || again.Starts != s.Starts && s.Starts >= 0 {
			t.Errorf("got %+v, %v\nwant %+v", again, err, s)
		}
	})
}

func TestActedNeedsTheWholeID(t *testing.T) {
	s := Status{Requests: []string{"abc", "def"}}
	for id, want := range map[string]bool{"abc": true, "def": true, "ab": false, "": false, "abc def": false} {
		if got := s.Acted(id); got != want {
			t.Errorf("Acted(%q): got %v, want %v", id, got, want)
		}
	}
}

func TestPidFileOfAnythingButAProcessIsRefused(t *testing.T) {
	for _, data := range []string{
		"", "\n", " ", "garbage", "0", "0\n", "1", "1\n", "-1", "-7", "+5", "5 6", "5\n6", "5\t", "0x10", "1e3", "5.0",
		"99999999999", "2147483648", "4294967298", "18446744073709551618", "00000000001",
		"\x00", "412\x00", "\x00412", "412\r\n", " 412", "４１２", "412;", strings.Repeat("\x00", 100), strings.Repeat("9", 1<<20),
	} {
		if pid, err := ParsePid([]byte(data)); err == nil {
			t.Errorf("ParsePid(%.20q): got %d, want an error", data, pid)
		}
	}
	for data, want := range map[string]int{"2": 2, "412\n": 412, "412": 412, "412 \n": 412, "2147483647\n": 1<<31 - 1, "0000000412": 412} {
		if pid, err := ParsePid([]byte(data)); err != nil || pid != want {
			t.Errorf("ParsePid(%q): got %d, %v, want %d", data, pid, err, want)
		}
	}
}

func FuzzParsePid(f *testing.F) {
	for _, seed := range []string{"412\n", "0", "-1", "1", "99999999999", "5 6", "\x00", "2147483647", "2147483648"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pid, err := ParsePid(data)
		if err != nil {
			return
		}
		if pid <= 1 || pid > 1<<31-1 {
			t.Errorf("ParsePid(%q): got %d, which means something else to kill(2)", data, pid)
		}
		if again, err := ParsePid(PidLine(pid)); err != nil || again != pid {
			t.Errorf("ParsePid(PidLine(%d)): got %d, %v", pid, again, err)
		}
	})
}

func TestWordsOfALock(t *testing.T) {
	f := newFolder(t)
	if hold, stamp, _ := f.ReadHold(); hold != NoHold || stamp != (Stamp{}) {
		t.Errorf("without a lock: got %v, %v, want none", hold, stamp)
	}
	for word, want := range map[string]Hold{
		"": HoldOpen, "\n": HoldOpen, " \n": HoldOpen,
		"TERM\n": HoldDown, "15": HoldDown, "SIGTERM": HoldDown, "anything\n": HoldDown, "kill": HoldDown, "-9": HoldDown,
		"1\n": HoldDown, "ONCE": HoldDown, "00": HoldDown, "KILL KILL": HoldDown, "\x00": HoldDown, "0 0": HoldDown,
		"KILL\n": HoldKill, "KILL": HoldKill, "9": HoldKill, "9\n": HoldKill, "SIGKILL\r\n": HoldKill,
		"once": HoldOnce, "once\n": HoldOnce, "0": HoldOnce, " 0\n": HoldOnce,
	} {
		put(t, f.Path()+"/lock", word)
		hold, stamp, _ := f.ReadHold()
		if hold != want || stamp == (Stamp{}) || stamp != f.Stamp(Lock) {
			t.Errorf("lock %q: got %v, %v, want %v and the file's stamp", word, hold, stamp, want)
		}
	}
	for _, hold := range []Hold{HoldDown, HoldKill, HoldOnce} {
		put(t, f.Path()+"/lock", string(hold.Line()))
		if got, _, _ := f.ReadHold(); got != hold {
			t.Errorf("Line of %v is read as %v", hold, got)
		}
	}
}

// Whatever else is called lock holds the service down, and nothing blocks.
func TestOddLockHoldsDown(t *testing.T) {
	for name, make := range odd {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			if err := make(f.Path() + "/lock"); err != nil {
				t.Fatal(err)
			}
			within(t, soon, "ReadHold", func() {
				if hold, stamp, _ := f.ReadHold(); hold != HoldDown || stamp == (Stamp{}) {
					t.Errorf("got %v, %v, want HoldDown and a stamp", hold, stamp)
				}
			})
		})
	}
}

func TestSignalsAsPeopleWriteThem(t *testing.T) {
	for word, want := range map[string]unix.Signal{
		"TERM": unix.SIGTERM, "SIGTERM": unix.SIGTERM, "term": unix.SIGTERM, " 15\n": unix.SIGTERM, "sigusr1": unix.SIGUSR1,
		"9": unix.SIGKILL, "QUIT\n": unix.SIGQUIT, "WINCH": unix.SIGWINCH, "64": 64,
	} {
		if got, ok := ParseSignal(word); !ok || got != want {
			t.Errorf("ParseSignal(%q): got %v, %v, want %v", word, got, ok, want)
		}
	}
	for _, word := range []string{"", "0", "-9", "65", "SIG", "NOPE", "TERM KILL", "9 9", "SIGSIGTERM", "9999999999999999999"} {
		if got, ok := ParseSignal(word); ok {
			t.Errorf("ParseSignal(%q): got %v, want none", word, got)
		}
	}
	for sig := unix.Signal(1); sig < 65; sig++ {
		if got, ok := ParseSignal(SignalName(sig)); !ok || got != sig {
			t.Errorf("signal %d is written %q and read as %d, %v", int(sig), SignalName(sig), int(got), ok)
		}
	}
}

func TestSeconds(t *testing.T) {
	for word, want := range map[string]time.Duration{"0": 0, "1": time.Second, "0.25": 250 * time.Millisecond, "60": time.Minute, "1e1": 10 * time.Second} {
		if got, ok := ParseSeconds(word); !ok || got != want {
			t.Errorf("ParseSeconds(%q): got %v, %v, want %v", word, got, ok, want)
		}
	}
	for _, word := range []string{"", "-1", "NaN", "inf", "1e300", "10s", "1 2", "1,5", "-0.1"} {
		if got, ok := ParseSeconds(word); ok {
			t.Errorf("ParseSeconds(%q): got %v, want none", word, got)
		}
	}
}

func TestMannerOfAService(t *testing.T) {
	usual := Manner{Signal: unix.SIGTERM, Grace: 10 * time.Second}
	for _, c := range []struct {
		signal, timeout string // "-" is no file
		want            Manner
		bad             []string
	}{
		{"-", "-", usual, nil},
		{"INT\n", "-", Manner{unix.SIGINT, usual.Grace}, nil},
		{"-", "3\n", Manner{usual.Signal, 3 * time.Second}, nil},
		{"QUIT", "0", Manner{unix.SIGQUIT, 0}, nil},
		{"hup\n", "1.5\n", Manner{unix.SIGHUP, 1500 * time.Millisecond}, nil},
		{"NOPE", "soon", usual, []string{StopSignal, StopTimeout}},
		{"", "", usual, []string{StopSignal, StopTimeout}},
		{"INT", "-5", Manner{unix.SIGINT, usual.Grace}, []string{StopTimeout}},
	} {
		f := newFolder(t)
		if c.signal != "-" {
			put(t, f.Path()+"/stop-signal", c.signal)
		}
		if c.timeout != "-" {
			put(t, f.Path()+"/stop-timeout", c.timeout)
		}
		m, bad := f.ReadManner(usual)
		if m != c.want || !reflect.DeepEqual(bad, c.bad) {
			t.Errorf("signal %q, timeout %q: got %v %v, want %v %v", c.signal, c.timeout, m, bad, c.want, c.bad)
		}
	}
}
