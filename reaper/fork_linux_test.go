//go:build amd64 || arm64

package reaper

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutClone3, in the environment, makes a test binary do without it.
const withoutClone3 = "REAPER_TEST_WITHOUT_CLONE3"

func init() {
	plain.Store(os.Getenv(withoutClone3) != "")
	parts["filtered"] = filtered
	parts["one"] = one
	parts["stuck"] = stuck
	if os.Getenv(part) == "stuck" {
		runtime.LockOSThread() // the main goroutine, on the first thread
	}
}

// All that is promised of starts holds on a kernel without clone3(2) too.
func TestStartsWithoutClone3AreLikeThoseWithIt(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "TestService|TestMute|TestScript|TestWhat|TestStart|TestNoFork|TestSignalIs|TestLimit")
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
	playsWell(t, "filtered")
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

// stuck is a daemon whose first thread is in a start that hangs. Signals for
// the process go to that one before others, if it takes them.
func stuck() {
	fan, ok := holdExecve()
	if !ok {
		return
	}
	r, done := run(func(Fact) {})
	defer done()
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	word := make(chan string, 1)
	go func() {
		var event unix.FanotifyEventMetadata
		if _, err := unix.Read(fan, (*[unsafe.Sizeof(event)]byte)(unsafe.Pointer(&event))[:]); err != nil {
			word <- fmt.Sprint("cannot read: ", err)
			return
		}
		time.Sleep(time.Second) // until all threads are at rest
		unix.Kill(os.Getpid(), unix.SIGTERM)
		select {
		case <-term:
			word <- "ok"
		case <-time.After(soon / 2):
			word <- "TERM was not heard"
		}
		// Closing would not let it go: the child has a copy.
		answer := unix.FanotifyResponse{Fd: event.Fd, Response: unix.FAN_ALLOW}
		unix.Write(fan, (*[unsafe.Sizeof(answer)]byte)(unsafe.Pointer(&answer))[:])
		unix.Close(int(event.Fd))
		unix.Close(fan)
	}()
	if p, err := r.Start(Command{Path: os.Getenv("HANGS")}); err == nil {
		<-p.Exited
	}
	report(<-word)
}

// A start that hangs keeps no signal from the others.
func TestSignalIsHeardWhileAStartHangs(t *testing.T) {
	playsWell(t, "stuck", "HANGS="+sh(t, `exit 6`))
}

// one is a daemon that starts one service, after somebody has set its limit of
// open files (prlimit(1)), if SET says so.
func one() {
	r, done := run(func(Fact) {})
	defer done()
	var set unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &set)
	if _, err := fmt.Sscan(os.Getenv("SET"), &set.Cur); err == nil {
		// Not by a function of package unix: that would tell the runtime.
		unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&set)), 0, 0, 0)
	}
	p, err := r.Start(Command{Path: os.Getenv("SERVICE"), Env: []string{"REPORT=" + os.Getenv("REPORT")}})
	if err != nil {
		report(err)
		return
	}
	<-p.Exited
}

// The limit is a service's, whatever it is: that which the daemon was given, or
// which somebody has set since, be it before anything was started.
func TestLimitOfOpenFilesIsTheServices(t *testing.T) {
	w := reap(t)
	service := sh(t, `exec >"$REPORT"; ulimit -S -n`)
	for _, c := range []struct{ given, set, want string }{{"77", "", "77"}, {"77", "500", "500"}, {"77", "40", "40"}} {
		pipe := newPipe(t)
		p := w.start(sh(t, `ulimit -S -n "$GIVEN"; exec "$SELF"`), "SELF="+self(), part+"=one", "REPORT="+pipe.path,
			"SERVICE="+service, "GIVEN="+c.given, "SET="+c.set)
		if got := pipe.line(); got != c.want {
			t.Errorf("given %s, set %q: got %s, want %s", c.given, c.set, got, c.want)
		}
		w.exit(p)
	}
}

// Nor does a limit that leaves no room for descriptors 0 to 2 keep those from
// being made.
func TestLimitOfNoOpenFilesHindersNoStart(t *testing.T) {
	w := reap(t)
	was, known := files, files()
	defer func() { files = was }()
	files = func() openFiles {
		return openFiles{given: unix.Rlimit{Cur: 0, Max: known.given.Max}, ours: known.ours}
	}
	p, err := w.Start(Command{Path: "/bin/true", Mute: true})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited // whatever it says: it may have libraries to open
}
