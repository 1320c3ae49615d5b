//go:build amd64 || arm64

package reaper

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutClone3, in the environment, makes a test binary do without it.
const withoutClone3 = "REAPER_TEST_WITHOUT_CLONE3"

func init() {
	plain.Store(os.Getenv(withoutClone3) != "")
	parts["filtered"] = filtered
}

// All that is promised of starts holds on a kernel without clone3(2) too.
func TestStartsWithoutClone3AreLikeThoseWithIt(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "TestService|TestMute|TestScript|TestWhat|TestStart|TestNoFork")
	if plain.Load() {
		return
	}
	cmd.Env = append(os.Environ(), withoutClone3+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "--- PASS: Test"); n < 8 {
		t.Errorf("got %d tests that pass, want more:\n%s", n, out)
	}
}

// filtered is a process in which clone3 is forbidden, as in a container.
func filtered() {
	const (
		loadNumber = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		ifEqual    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer     = unix.BPF_RET | unix.BPF_K
		everyone   = 1 // SECCOMP_FILTER_FLAG_TSYNC: all threads
		setFilter  = 1 // SECCOMP_SET_MODE_FILTER
		errno      = 0x00050000
		allow      = 0x7fff0000
	)
	filter := []unix.SockFilter{
		{Code: loadNumber},
		{Code: ifEqual, K: unix.SYS_CLONE3, Jf: 1},
		{Code: answer, K: errno | uint32(unix.ENOSYS)},
		{Code: answer, K: allow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		report("cannot give up privileges:", err)
		return
	}
	if _, _, err := unix.Syscall(unix.SYS_SECCOMP, setFilter, everyone, uintptr(unsafe.Pointer(&program))); err != 0 {
		report("cannot filter:", err)
		return
	}
	r, done := run(func(Fact) {})
	defer done()
	for range 3 {
		p, err := r.Start(Command{Path: "/bin/true"})
		if err != nil {
			report("start:", err)
			return
		}
		if e := <-p.Exited; e.Status != exited(0) {
			report("exit:", e)
			return
		}
	}
	if !plain.Load() {
		report("clone3 was not refused")
		return
	}
	report("ok")
}

func TestClone3MayBeForbidden(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	p := w.play("filtered", "REPORT="+pipe.path)
	got := pipe.line()
	if strings.HasPrefix(got, "cannot") {
		t.Skip(got)
	}
	if got != "ok" {
		t.Errorf("got %q, want ok", got)
	}
	w.exit(p)
}

// Who changes the daemon's limit with prlimit(1) means its services too.
func TestServicesGetTheLimitThatSomebodyHasSet(t *testing.T) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	given, raised := unix.Rlimit{Cur: 77, Max: now.Max}, unix.Rlimit{Cur: now.Cur + 1, Max: now.Max}
	for what, c := range map[string]struct {
		files openFiles
		want  bool
	}{
		"as raised":  {openFiles{given: given, ours: now}, true},
		"set since":  {openFiles{given: given, ours: raised}, false},
		"not raised": {openFiles{given: now, ours: now}, false},
	} {
		if limit, ok := c.files.lowered(); ok != c.want || ok && limit != given {
			t.Errorf("%s: got %v, %v, want %v", what, limit, ok, c.want)
		}
	}
}
