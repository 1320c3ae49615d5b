package reaper

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// These tests use real processes. Their reaper calls wait4(-1), which takes
// every child of the test binary: so they run one after another, each with a
// reaper of its own, and os/exec is not used.

// soon is how long a test waits for what must come. It is long because
// machines are slow; nothing that passes waits this long.
const soon = 30 * time.Second

// part names what the test binary is to be instead of a test. A Command has
// no arguments, so it is told by the environment.
const part = "REAPER_TEST_PART"

// parts are the processes that a shell script cannot be.
var parts = map[string]func(){
	"hang":   func() { time.Sleep(time.Hour) },
	"daemon": daemon,
	"masked": masked,
	"keeper": keeper,
	"thread": thread,
	"pid 1":  pidOne,
	"hung":   hung,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(part); role != "" {
		parts[role]()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// world is a reaper that runs, and what it has reported.
type world struct {
	*Reaper
	t testing.TB

	mu    sync.Mutex
	facts []Fact
	news  chan struct{}
}

// reap starts a reaper. At the end of the test everything that is left of its
// processes is killed, and nothing of them may be left in its tables.
func reap(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, news: make(chan struct{}, 1)}
	r, err := New(func(f Fact) {
		w.mu.Lock()
		w.facts = append(w.facts, f)
		w.mu.Unlock()
		select {
		case w.news <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Reaper = r
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() {
		for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
			left := children()
			if len(left) == 0 {
				// Those of one that has just ended may have come to a thread that
				// was asked before they did.
				left = children()
			}
			if len(left) == 0 {
				break
			}
			for _, pid := range left {
				unix.Kill(pid, unix.SIGKILL)
			}
			if time.Now().After(end) {
				t.Errorf("children that cannot be killed: %v", left)
				break
			}
		}
		w.empty()
		cancel()
		<-done
		w.over()
	})
	return w
}

// over waits for the goroutine that reaps, which may end after Run: it would
// meddle with the next reaper. In a daemon there is one.
func (w *world) over() {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-time.After(soon):
		w.t.Errorf("no children, and the reaper is still there after %v", soon)
	}
}

// children are all processes whose parent we are, zombies too.
func children() (pids []int) {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, field := range bytes.Fields(data) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// empty fails the test if something is left in the tables, which may still
// be on its way out of them.
func (w *world) empty() {
	w.t.Helper()
	eventually(w.t, "tables are empty", func() bool {
		w.Reaper.mu.Lock()
		defer w.Reaper.mu.Unlock()
		return len(w.main) == 0 && len(w.draining) == 0 && len(w.early) == 0
	})
}

// eventually calls f until it answers true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v", what, soon)
		}
	}
}

// script makes an executable file.
func script(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "service")
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// sh makes a shell script.
func sh(t testing.TB, lines string) string {
	t.Helper()
	return script(t, "#!/bin/sh\n"+lines+"\n")
}

// start starts a command with our environment and what is added to it.
func (w *world) start(path string, env ...string) Process {
	w.t.Helper()
	p, err := w.Start(Command{Path: path, Env: append(os.Environ(), env...)})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// play starts the test binary in another part.
func (w *world) play(role string, env ...string) Process {
	w.t.Helper()
	return w.start(self(), append(env, part+"="+role, "GORACE=atexit_sleep_ms=0")...)
}

// playsWell plays a part that reports "ok", or what is wrong, or that it cannot
// be played on this machine, and why.
func playsWell(t *testing.T, role string, env ...string) {
	t.Helper()
	w, pipe := reap(t), newPipe(t)
	p := w.play(role, append(env, "REPORT="+pipe.path)...)
	got := pipe.line()
	if strings.HasPrefix(got, "cannot") {
		t.Skip(got)
	}
	if got != "ok" {
		t.Errorf("%s: got %q, want ok", role, got)
	}
	w.exit(p)
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// exit waits for the end of a process.
func (w *world) exit(p Process) Exit {
	w.t.Helper()
	select {
	case e := <-p.Exited:
		if e.Drained {
			w.t.Errorf("%d: drained before its exit", p.Pid)
		}
		return e
	case <-time.After(soon):
		w.t.Fatalf("%d: no exit after %v", p.Pid, soon)
		return Exit{}
	}
}

// drained waits until nothing is left in the group of a process.
func (w *world) drained(p Process) {
	w.t.Helper()
	select {
	case e := <-p.Exited:
		if !e.Drained {
			w.t.Errorf("%d: got exit %+v, want it drained", p.Pid, e)
		}
	case <-time.After(soon):
		w.t.Fatalf("%d: not drained after %v", p.Pid, soon)
	}
}

// lives fails the test if the group of a process is said to be empty.
func (w *world) lives(p Process) {
	w.t.Helper()
	select {
	case e := <-p.Exited:
		w.t.Errorf("%d: got %+v, but something is left", p.Pid, e)
	default:
	}
}

// fact waits until f accepts a fact that was reported.
func fact[F Fact](w *world, f func(F) bool) F {
	w.t.Helper()
	late := time.After(soon)
	for {
		for _, f1 := range facts[F](w) {
			if f(f1) {
				return f1
			}
		}
		select {
		case <-w.news:
		case <-late:
			var none F
			w.t.Fatalf("no %T after %v; there were %+v", none, soon, facts[Fact](w))
		}
	}
}

// facts are all of a type.
func facts[F Fact](w *world) (all []F) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.facts {
		if f, ok := f.(F); ok {
			all = append(all, f)
		}
	}
	return all
}

// pipe is a FIFO: children write lines to it, or wait for its end.
type pipe struct {
	t    testing.TB
	path string
	file *os.File
	r    *bufio.Reader
}

func newPipe(t testing.TB) *pipe {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// For both, so that nobody waits for somebody to open it.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &pipe{t: t, path: path, file: f, r: bufio.NewReader(f)}
}

// line waits for the next line.
func (p *pipe) line() string {
	p.t.Helper()
	p.file.SetReadDeadline(time.Now().Add(soon))
	line, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("no line: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// number waits for the next line, a process number.
func (p *pipe) number() int {
	p.t.Helper()
	line := p.line()
	pid, err := strconv.Atoi(line)
	if err != nil || pid <= 1 {
		p.t.Fatalf("got %q, want a process number", line)
	}
	return pid
}

// after waits for the next line of this kind, and returns its number.
func (p *pipe) after(kind string) int {
	p.t.Helper()
	for {
		if rest, ok := strings.CutPrefix(p.line(), kind+" "); ok {
			n, err := strconv.Atoi(rest)
			if err != nil {
				p.t.Fatalf("got %q after %q, want a number", rest, kind)
			}
			return n
		}
	}
}

// report is the other end, for a part.
func report(words ...any) {
	f, err := os.OpenFile(os.Getenv("REPORT"), os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, words...)
	f.Close()
}

func exited(code int) syscall.WaitStatus { return syscall.WaitStatus(code << 8) }

func killed(sig syscall.Signal) syscall.WaitStatus { return syscall.WaitStatus(sig) }

// fields are those of /proc/<pid>/stat, counted from 3 as in
// proc_pid_stat(5); nil if there is no such process.
func fields(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return append([]string{"", "", ""}, strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))...)
}

func parentOf(pid int) int {
	f := fields(pid)
	if f == nil {
		return 0
	}
	ppid, _ := strconv.Atoi(f[4])
	return ppid
}

// state is the letter that /proc/<pid>/stat has for a process, 0 if there is
// no such process.
func state(pid int) byte {
	s, err := readStat(strconv.Itoa(pid))
	if err != nil {
		return 0
	}
	return s.state
}
