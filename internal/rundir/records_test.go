//go:build linux

package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// The records of a daemon that was killed are what the next one goes by: these
// tests write some, lose the daemon and read them as the next one does.

// crash ends a daemon the way SIGKILL does: nothing is tidied up.
func crash(c *Claim) {
	c.lock.Close()
	c.pid.Close()
	if c.records != nil {
		c.records.file.Close()
	}
}

// daemon claims the run directory and opens the records.
func daemon(t *testing.T, dir *Dir) (*Claim, *Records, []Record) {
	t.Helper()
	c := claim(t, dir)
	records, past, err := c.Records()
	if err != nil {
		t.Fatalf("records: %v", err)
	}
	if records == nil {
		t.Fatal("no records are kept")
	}
	t.Cleanup(func() { crash(c) })
	return c, records, past
}

func write(t *testing.T, records *Records, slot int, r Record) int {
	t.Helper()
	slot, err := records.Write(slot, r)
	if err != nil {
		t.Fatalf("write %s: %v", r.Name, err)
	}
	return slot
}

// names of records, in the order of their slots.
func names(past []Record) []string {
	slices.SortFunc(past, func(a, b Record) int { return a.slot - b.slot })
	list := []string{}
	for _, r := range past {
		list = append(list, r.Name)
	}
	return list
}

func running(name string) Record {
	return Record{Name: name, Phase: Up, Wanted: "up", Pid: 412, Group: 412, From: 1, To: 2, Since: 3, Starts: 1}
}

func recordsPath(dir *Dir) string { return filepath.Join(dir.Path(), Private, recordsFile) }

// anyRecord draws every field that a record has, also those that will be added.
func anyRecord(t *rapid.T) Record {
	r := Record{
		Name:   anyName(t),
		Phase:  rapid.SampledFrom([]string{Up, Stopping, Down, Backoff, Blocked}).Draw(t, "phase"),
		Wanted: rapid.SampledFrom([]string{"up", "down", "once", "gone"}).Draw(t, "wanted"),
	}
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		field, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case !field.CanSet() || slices.Contains([]string{"Name", "Phase", "Wanted"}, name):
		case rapid.IntRange(0, 3).Draw(t, name+" zero") == 0:
		case name == "Pid" || name == "Group":
			field.SetInt(int64(rapid.IntRange(2, math.MaxInt32).Draw(t, name)))
		case name == "HoldCtime":
			field.SetInt(rapid.Int64().Draw(t, name))
		case field.Kind() == reflect.Int:
			field.SetInt(int64(rapid.IntRange(1, math.MaxInt32).Draw(t, name)))
		case field.Kind() == reflect.Int64:
			field.SetInt(rapid.Int64Range(1, math.MaxInt64).Draw(t, name))
		case field.Kind() == reflect.Uint64:
			field.SetUint(rapid.Uint64().Draw(t, name))
		case field.Kind() == reflect.String:
			// Any bytes: what a program has written may be in a cause.
			field.SetString(string(rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, name)))
		default:
			t.Fatalf("field %s: do not know how to draw a %s", name, field.Type())
		}
	}
	return r
}

// anyName draws a name that a service can have: what divides a line of the
// records from its next part may be in it.
func anyName(t *rapid.T) string {
	letter := rapid.OneOf(rapid.SampledFrom([]rune(` ="=-.ü\`)), rapid.Rune())
	return rapid.StringOfN(letter, 1, 40, MaxName).Filter(func(name string) bool { return CheckName(name) == nil }).Draw(t, "name")
}

func TestEveryFieldOfARecordOutlivesTheDaemon(t *testing.T) {
	dir := newDir(t)
	rapid.Check(t, func(rt *rapid.T) {
		os.RemoveAll(filepath.Join(dir.Path(), Private))
		before := make(map[string]Record)
		for range rapid.IntRange(1, 5).Draw(rt, "services") {
			r := anyRecord(rt)
			before[r.Name] = r
		}
		c := claim(t, dir)
		defer func() { crash(c) }()
		records, past, err := c.Records()
		if err != nil || len(past) != 0 {
			rt.Fatalf("records: got %v, %v, want none yet", past, err)
		}
		for name, r := range before {
			if r.slot, err = records.Write(0, r); err != nil || r.slot == 0 {
				rt.Fatalf("write %q: slot %d, %v", name, r.slot, err)
			}
			before[name] = r
		}
		crash(c)
		c = claim(t, dir)
		if _, past, err = c.Records(); err != nil {
			rt.Fatal(err)
		}
		after := make(map[string]Record)
		for _, r := range past {
			after[r.Name] = r
		}
		if len(after) != len(past) || !reflect.DeepEqual(after, before) {
			rt.Fatalf("got  %+v\nwant %+v", past, before)
		}
	})
}

// A line is of one length whatever is in it. What does not fit is the cause,
// which loses its end and nothing else.
func TestTheLongestNameAndCauseCutNothingButTheCause(t *testing.T) {
	for what, cause := range map[string]string{
		"letters":     strings.Repeat("x", 5000),
		"quotes":      strings.Repeat(`"`, 5000),
		"bytes":       strings.Repeat("\xff", 5000),
		"long runes":  strings.Repeat("ü", 5000),
		"ends of it":  strings.Repeat("/ \n", 2000),
		"as it fits ": "short",
	} {
		dir := newDir(t)
		c, records, _ := daemon(t, dir)
		r := Record{
			Name: strings.Repeat("n", MaxName), Phase: Stopping, Wanted: "gone", Pid: math.MaxInt32, Group: math.MaxInt32,
			From: math.MaxInt64, To: math.MaxInt64, Since: math.MaxInt64, Due: math.MaxInt64, KillAt: math.MaxInt64,
			Killed: math.MaxInt64, NotBefore: math.MaxInt64, Ended: math.MaxInt64, Retry: math.MaxInt64,
			Failures: math.MaxInt32, Starts: math.MaxInt32, Restarts: math.MaxInt32,
			HoldIno: math.MaxUint64, HoldCtime: math.MinInt64, LastExit: "killed by VTALRM (core dumped)", Cause: cause,
		}
		r.slot = write(t, records, 0, r)
		next := running("next")
		next.slot = write(t, records, 0, next)
		crash(c)
		_, _, past := daemon(t, dir)
		if len(past) != 2 || past[1] != next {
			t.Fatalf("%s: got %+v, want both, and the second as it was", what, past)
		}
		got := past[0]
		if !strings.HasPrefix(cause, got.Cause) && !strings.HasPrefix(strings.ToValidUTF8(cause, ""), got.Cause) {
			t.Errorf("%s: cause: got %q, want its beginning", what, got.Cause)
		}
		if len(cause) < 20 && got.Cause != cause || strings.HasPrefix(cause, "x") && len(got.Cause) < 100 {
			t.Errorf("%s: cause: got %d bytes of %d", what, len(got.Cause), len(cause))
		}
		if got.Cause = r.Cause; got != r {
			t.Errorf("%s: got  %+v\nwant %+v", what, got, r)
		}
	}
}

// damaged writes three records, damages the file and returns what the next
// daemon reads.
func damaged(t *testing.T, damage func(data []byte) []byte) (*Dir, *Records, []Record) {
	t.Helper()
	dir := newDir(t)
	c, records, _ := daemon(t, dir)
	for _, name := range []string{"a", "b", "c"} {
		write(t, records, 0, running(name))
	}
	crash(c)
	data, err := os.ReadFile(recordsPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	put(t, recordsPath(dir), string(damage(data)))
	_, records, past := daemon(t, dir)
	return dir, records, past
}

// line puts a text into the second of three records.
func line(text string) func([]byte) []byte {
	return func(data []byte) []byte {
		return slices.Concat(data[:2*recordSize], pad([]byte(text)), data[3*recordSize:])
	}
}

func TestALineThatMakesNoSenseCostsOnlyItself(t *testing.T) {
	for what, damage := range map[string]func([]byte) []byte{
		"garbage":              line("garbage"),
		"nothing":              line(""),
		"zeros":                line(strings.Repeat("\x00", recordSize-1)),
		"no key":               line("b/ phase=up wanted=up since"),
		"no phase":             line("b/ wanted=up since=3"),
		"no want":              line("b/ phase=up since=3"),
		"another phase":        line("b/ phase=waiting wanted=up since=3"),
		"a name that is none":  line("../ phase=up wanted=up since=3"),
		"a name in a folder":   line("x/b/ phase=up wanted=up since=3"),
		"process 1":            line("b/ phase=up wanted=up since=3 pid=1 group=1"),
		"all processes":        line("b/ phase=up wanted=up since=3 pid=-1 group=-1"),
		"too large a number":   line("b/ phase=up wanted=up since=3 pid=4294967297 group=4294967297"),
		"a moment before time": line("b/ phase=up wanted=up since=-3"),
		"an open quote":        line(`b/ phase=up wanted=up since=3 cause="x`),
		"no end":               func(data []byte) []byte { data[3*recordSize-1] = ' '; return data },
		"half a line over it": func(data []byte) []byte {
			copy(data[2*recordSize:], "b/ phase=up want")
			copy(data[2*recordSize+recordSize/2:], bytes.Repeat([]byte{0}, recordSize/2))
			return data
		},
	} {
		dir, records, past := damaged(t, damage)
		if got := names(past); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("%s: got %q, want a and c", what, got)
			continue
		}
		// Its place is for the next service.
		slot := write(t, records, 0, running("d"))
		if slot != 2 {
			t.Errorf("%s: next slot: got %d, want 2", what, slot)
		}
		data, _ := os.ReadFile(recordsPath(dir))
		if len(data) != 4*recordSize {
			t.Errorf("%s: got %d bytes, want %d", what, len(data), 4*recordSize)
		}
	}
}

// A daemon that is killed while the file grows leaves a line that ends in the
// middle: it is none, and the next record is written over it.
func TestATornLineAtTheEndIsWrittenOver(t *testing.T) {
	for _, length := range []int{1, 20, recordSize - 1} {
		dir, records, past := damaged(t, func(data []byte) []byte { return data[:3*recordSize+length] })
		if got := names(past); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("%d bytes: got %q, want a and b", length, got)
		}
		if slot := write(t, records, 0, running("d")); slot != 3 {
			t.Errorf("%d bytes: slot: got %d, want 3", length, slot)
		}
		data, _ := os.ReadFile(recordsPath(dir))
		if r, ok := ParseRecord(data[3*recordSize:]); !ok || r.Name != "d" {
			t.Errorf("%d bytes: got %q", length, data[3*recordSize:])
		}
	}
}

// A later version may write keys that this one does not know.
func TestUnknownKeysArePassedOver(t *testing.T) {
	_, _, past := damaged(t, line(`b/ phase=up wanted=up since=3 pid=7 group=7 colour="a b" size=9`))
	if got := names(past); !slices.Equal(got, []string{"a", "b", "c"}) || past[1].Pid != 7 {
		t.Errorf("got %+v, want all three", past)
	}
}

func TestOfTwoLinesOfOneNameTheFirstCounts(t *testing.T) {
	twin := running("a")
	twin.Pid, twin.Group = 7, 7
	_, records, past := damaged(t, line(strings.TrimRight(string(twin.encode(nil)), " \n")))
	if got := names(past); !slices.Equal(got, []string{"a", "c"}) || past[0].Pid != 412 || past[0].slot != 1 {
		t.Fatalf("got %+v, want the first a, and c", past)
	}
	if slot := write(t, records, 0, running("d")); slot != 2 {
		t.Errorf("slot of the next: got %d, want that of the second a, 2", slot)
	}
}

// Numbers of processes mean nothing after a boot or in another PID namespace.
func TestRecordsOfAnotherTimeOrPlaceAreNone(t *testing.T) {
	boot, space, _ := strings.Cut(era(), " ")
	flipped := strings.Replace(boot, boot[:1], string('a'+(boot[0]+1)%6), 1)
	for what, title := range map[string]string{
		"boot":      recordsTitle + flipped + " " + space,
		"namespace": recordsTitle + boot + " pid:[1]",
		"version":   strings.Replace(recordsTitle, "1", "2", 1) + era(),
		"nothing":   "",
		"more":      recordsTitle + era() + " x",
	} {
		dir, records, past := damaged(t, func(data []byte) []byte {
			return slices.Concat(pad([]byte(title)), data[recordSize:])
		})
		if len(past) != 0 {
			t.Errorf("%s: got %+v, want none", what, past)
		}
		write(t, records, 0, running("d"))
		data, _ := os.ReadFile(recordsPath(dir))
		if want := string(pad([]byte(recordsTitle+era()))) + string(running("d").encode(nil)); string(data) != want {
			t.Errorf("%s: got %d bytes, want a new file with one record", what, len(data))
		}
	}
	for _, length := range []int{0, 10, recordSize - 1} {
		if _, _, past := damaged(t, func(data []byte) []byte { return data[:length] }); len(past) != 0 {
			t.Errorf("first line cut to %d bytes: got %+v, want none", length, past)
		}
	}
}

// The same in a real PID namespace, which is what a container that is started
// anew over the same run directory has.
func TestADaemonInAnotherNamespaceReadsNoRecords(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make a PID namespace")
	}
	dir := newDir(t)
	c, records, _ := daemon(t, dir)
	write(t, records, 0, running("a"))
	crash(c)
	for _, space := range []struct {
		flags uintptr
		want  string
	}{{0, "1 <nil>"}, {unix.CLONE_NEWPID, "0 <nil>"}} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), part+"=records", "DIR="+dir.Path(), "GORACE=atexit_sleep_ms=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: space.flags}
		out, err := cmd.Output()
		if errors.Is(err, unix.EPERM) {
			t.Skip("no PID namespaces here")
		}
		if got := strings.TrimSpace(string(out)); err != nil || got != space.want {
			t.Errorf("flags %#x: got %q, %v, want %q", space.flags, got, err, space.want)
		}
	}
}

// countRecords is a daemon that says how many records it has read, and crashes.
func countRecords(path string) {
	dir, err := Open(path)
	if err == nil {
		var c *Claim
		if c, err = dir.Claim(); err == nil {
			var past []Record
			_, past, err = c.Records()
			fmt.Println(len(past), err)
			return
		}
	}
	fmt.Println(err)
}

// The folder is ours alone, so only the administrator can put something in
// place of the records. It is neither followed, waited for nor read without
// end, and what can be replaced is.
func TestWhatIsInPlaceOfTheRecordsIsNotReadAndReplaced(t *testing.T) {
	for name, make := range odd {
		dir := newDir(t)
		c, _, _ := daemon(t, dir)
		crash(c)
		if err := os.Remove(recordsPath(dir)); err != nil {
			t.Fatal(err)
		}
		if err := make(recordsPath(dir)); err != nil {
			t.Fatal(err)
		}
		within(t, soon, name, func() {
			c, err := dir.Claim()
			if err != nil {
				t.Errorf("%s: claim: %v", name, err)
				return
			}
			defer func() { crash(c) }()
			records, past, err := c.Records()
			if name == "directory" { // which rename(2) does not replace
				if err == nil || len(past) != 0 || records != nil {
					t.Errorf("%s: got %v, %v, want an error and none", name, past, err)
				}
				c.records = nil
				return
			}
			if err != nil || len(past) != 0 {
				t.Errorf("%s: got %v, %v, want none", name, past, err)
				return
			}
			if _, err := records.Write(0, running("a")); err != nil {
				t.Errorf("%s: write: %v", name, err)
			}
			info, err := os.Lstat(recordsPath(dir))
			if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || info.Size() != 2*recordSize {
				t.Errorf("%s: got %v, %v, want a file of our own", name, info, err)
			}
		})
	}
}

// A link to good records is a link all the same.
func TestALinkToRecordsIsNotFollowed(t *testing.T) {
	dir := newDir(t)
	c, records, _ := daemon(t, dir)
	write(t, records, 0, running("a"))
	crash(c)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := errors.Join(os.Rename(recordsPath(dir), elsewhere), os.Symlink(elsewhere, recordsPath(dir))); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(elsewhere)
	_, records, past := daemon(t, dir)
	write(t, records, 0, running("b"))
	if after, _ := os.ReadFile(elsewhere); len(past) != 0 || !bytes.Equal(after, before) {
		t.Errorf("got %+v, and the file behind the link changed: %v; want neither", past, !bytes.Equal(after, before))
	}
}

// A service that is gone for good leaves nothing, and its place to another.
func TestADroppedRecordIsForgottenAndItsPlaceUsedAgain(t *testing.T) {
	dir := newDir(t)
	c, records, _ := daemon(t, dir)
	slots := map[string]int{}
	for _, name := range []string{"a", "b", "c"} {
		slots[name] = write(t, records, 0, running(name))
	}
	if err := errors.Join(records.Drop(slots["b"]), records.Drop(0)); err != nil {
		t.Fatal(err)
	}
	crash(c)
	c, records, past := daemon(t, dir)
	if got := names(past); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("after the drop: got %q, want a and c", got)
	}
	if err := records.Drop(past[0].Slot()); err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, name := range []string{"d", "e", "f"} {
		got = append(got, write(t, records, 0, running(name)))
	}
	if slices.Sort(got); !slices.Equal(got, []int{1, 2, 4}) {
		t.Errorf("slots of three new ones: got %v, want the two free ones and the next, 1, 2, 4", got)
	}
	crash(c)
	if _, _, past = daemon(t, dir); len(past) != 4 {
		t.Errorf("at the end: got %q, want c and the three new ones", names(past))
	}
}

// A record that is written again stays where it is.
func TestARecordIsWrittenOverInItsPlace(t *testing.T) {
	dir := newDir(t)
	c, records, _ := daemon(t, dir)
	a, b := write(t, records, 0, running("a")), write(t, records, 0, running("b"))
	long := running("a")
	long.Cause = strings.Repeat("x", 300)
	write(t, records, a, long)
	short := running("a")
	short.Starts = 9
	if slot := write(t, records, a, short); slot != a {
		t.Errorf("slot: got %d, want %d still", slot, a)
	}
	crash(c)
	_, _, past := daemon(t, dir)
	short.slot, long = a, running("b")
	long.slot = b
	if !slices.Equal(past, []Record{short, long}) {
		t.Errorf("got %+v, want %+v and b", past, short)
	}
}

// When somebody removes the file each service writes its record again, into the
// place that it has; new ones get others.
func TestRecordsThatWereRemovedAreMadeAnewWithTheirPlaces(t *testing.T) {
	for what, remove := range map[string]func(dir *Dir) error{
		"file":   func(dir *Dir) error { return os.Remove(recordsPath(dir)) },
		"folder": func(dir *Dir) error { return os.RemoveAll(filepath.Join(dir.Path(), Private)) },
		"rundir": func(dir *Dir) error { return os.RemoveAll(dir.Path()) },
	} {
		dir := newDir(t)
		c, records, _ := daemon(t, dir)
		slots := map[string]int{}
		for _, name := range []string{"a", "b", "c"} {
			slots[name] = write(t, records, 0, running(name))
		}
		records.Drop(slots["b"])
		if lost, err := c.Keep(); lost || err != nil {
			t.Fatalf("%s: Keep before: got %v, %v, want false", what, lost, err)
		}
		if err := remove(dir); err != nil {
			t.Fatal(err)
		}
		if lost, err := c.Keep(); !lost || err != nil {
			t.Fatalf("%s: Keep: got %v, %v, want true", what, lost, err)
		}
		for name, slot := range map[string]int{"c": slots["c"], "d": 0, "e": 0, "a": slots["a"]} {
			if got := write(t, records, slot, running(name)); slot != 0 && got != slot {
				t.Errorf("%s: slot of %s: got %d, want %d", what, name, got, slot)
			}
		}
		crash(c)
		_, next, past := daemon(t, dir)
		got := names(past)
		slices.Sort(got)
		if !slices.Equal(got, []string{"a", "c", "d", "e"}) {
			t.Errorf("%s: got %q, want a, c, d, e", what, got)
		}
		if !next.Incomplete() { // nobody knows whether all had come to write
			t.Errorf("%s: got complete records, want that some may be missing", what)
		}
	}
}

// On a disk that is full nothing is lost but what could not be written, and its
// place is not used up.
func TestARecordThatCouldNotBeWrittenLeavesItsPlaceFree(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	dir := newDir(t)
	c, records, _ := daemon(t, dir)
	a, b := write(t, records, 0, running("a")), write(t, records, 0, running("b"))
	records.Drop(a)
	file := records.file
	for what, slot := range map[string]int{"new": 0, "old": b} {
		for range 5 {
			records.file = full
			got, err := records.Write(slot, running("c"))
			records.file = file
			if !errors.Is(err, unix.ENOSPC) || got != slot {
				t.Fatalf("%s: got slot %d, %v, want %d, %v", what, got, err, slot, unix.ENOSPC)
			}
		}
	}
	if got := []int{write(t, records, 0, running("c")), write(t, records, 0, running("d"))}; !slices.Equal(got, []int{a, b + 1}) {
		t.Errorf("slots after it: got %v, want the free one and the next, %d, %d", got, a, b+1)
	}
	crash(c)
	if _, _, past := daemon(t, dir); !slices.Equal(names(past), []string{"c", "b", "d"}) {
		t.Errorf("got %q, want c, b, d", names(past))
	}
}

// Where no records are kept, nothing is written, and nothing goes wrong.
func TestWithoutRecordsNothingIsWritten(t *testing.T) {
	var none *Records
	slot, err := none.Write(0, running("a"))
	if err = errors.Join(err, none.Drop(3)); slot != 0 || err != nil {
		t.Errorf("got slot %d, %v, want 0 and no error", slot, err)
	}
}

// Many services write at once.
func TestManyWritersGetPlacesOfTheirOwn(t *testing.T) {
	dir := newDir(t)
	c, records, _ := daemon(t, dir)
	const services = 50
	done := make(chan error, services)
	for i := range services {
		go func() {
			r := running(fmt.Sprintf("s%02d", i))
			slot, err := 0, error(nil)
			for n := range 20 {
				r.Starts = n + 1
				if slot, err = records.Write(slot, r); err == nil && n == 10 {
					err, slot = records.Drop(slot), 0
				}
				if err != nil {
					break
				}
			}
			done <- err
		}()
	}
	late := time.After(soon)
	for range services {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-late:
			t.Fatal("writers block")
		}
	}
	crash(c)
	_, _, past := daemon(t, dir)
	if len(past) != services {
		t.Errorf("got %d records, want %d", len(past), services)
	}
	for _, r := range past {
		if r.Starts != 20 {
			t.Errorf("%s: got %d starts, want the last that was written, 20", r.Name, r.Starts)
		}
	}
}
