package reaper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// run is a reaper for a part.
func run(f func(Fact)) (r *Reaper, done func()) {
	r, err := New(f)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	return r, func() { cancel(); <-ended }
}

// daemon runs one service as sysmgr does, and then hangs.
func daemon() {
	signals := make(chan os.Signal, 64)
	if os.Getenv("NOTIFY") != "no" {
		signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	}
	r, _ := run(func(f Fact) {
		if f, ok := f.(Reaped); ok {
			report("reaped", f.Pid)
		}
	})
	if os.Getenv("ADOPT") == "no" {
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, part+"=") })
	p, err := r.Start(Command{Path: os.Getenv("SERVICE"), Env: env})
	if err != nil {
		report("error", err)
		return
	}
	report("started", p.Pid)
	<-p.Exited
	report("exited", p.Pid)
	time.Sleep(time.Hour)
}

// masked is a daemon that is started with all signals blocked.
func masked() {
	runtime.LockOSThread()
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil); err != nil {
		panic(err)
	}
	os.Setenv(part, "daemon")
	panic(syscall.Exec(self(), os.Args, os.Environ()))
}

// proc is a line of a file of /proc/<pid>.
func proc(t *testing.T, pid int, file, key string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("no %q in %s of %d", key, file, pid)
	return ""
}

// descriptors are the open files of a process.
func descriptors(t *testing.T, pid int) map[string]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, e := range entries {
		all[e.Name()], _ = os.Readlink(filepath.Join(dir, e.Name()))
	}
	return all
}

// executed waits until a process has become the program.
func executed(t *testing.T, pid int, program string) {
	t.Helper()
	eventually(t, program, func() bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return strings.TrimSpace(string(name)) == program
	})
}

// clean checks everything that a service is promised about its process, but
// its environment.
func clean(t *testing.T, pid int, cwd, umask, nofile string, stdout, stderr string) {
	t.Helper()
	f := fields(pid)
	if self := fmt.Sprint(pid); f[5] != self || f[6] != self || f[7] != "0" {
		t.Errorf("group, session, terminal: got %s, %s, %s, want %s, %s, none", f[5], f[6], f[7], self, self)
	}
	want := map[string]string{"0": "/dev/null", "1": stdout, "2": stderr}
	eventually(t, fmt.Sprintf("descriptors %v", want), func() bool { // the loader has some of its own at first
		return maps.Equal(descriptors(t, pid), want)
	})
	if got := proc(t, pid, "fdinfo/0", "flags:"); got[len(got)-1] != '0' {
		t.Errorf("stdin: got flags %s, want read-only", got)
	}
	const none = "0000000000000000"
	for _, key := range []string{"SigBlk:", "SigIgn:", "SigCgt:"} {
		if got := proc(t, pid, "status", key); got != none {
			t.Errorf("%s got %s, want none", key, got)
		}
	}
	if got := proc(t, pid, "status", "Umask:"); got != umask {
		t.Errorf("umask: got %s, want %s", got, umask)
	}
	if got := strings.Fields(proc(t, pid, "limits", "Max open files"))[0]; got != nofile {
		t.Errorf("soft limit of open files: got %s, want %s", got, nofile)
	}
	if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); got != cwd {
		t.Errorf("directory: got %s, want %s", got, cwd)
	}
}

// blocks tells whether any thread of a process blocks a signal.
func blocks(t *testing.T, pid int) bool {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return slices.ContainsFunc(tasks, func(e os.DirEntry) bool {
		return strings.Trim(proc(t, pid, "task/"+e.Name()+"/status", "SigBlk:"), "0") != ""
	})
}

// A daemon that was started with a blocked mask, ignored signals, a low soft
// limit, a strict umask, odd descriptors and streams passes on to its
// services what it was given of limits, umask, streams and directory, and
// nothing of the rest.
func TestServiceStartsCleanWhateverTheDaemonWasGiven(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	dir := t.TempDir()
	sleeper := sh(t, `exec sleep 1000`)
	for _, c := range []struct{ role, notify string }{{"daemon", "yes"}, {"masked", "yes"}, {"daemon", "no"}} {
		t.Run(c.role+", notify "+c.notify, func(t *testing.T) {
			p := w.start(sh(t, `
				cd "$DIR"; umask 027; ulimit -S -n 77
				trap '' HUP INT QUIT TERM PIPE USR1 USR2 TSTP TTIN TTOU CHLD ALRM CONT
				exec 5<"$DIR" 7>"$DIR/seven" >"$DIR/out" 2>"$DIR/err" <"$DIR/seven"
				exec "$SELF"`), "DIR="+dir, "SELF="+self(), part+"="+c.role, "NOTIFY="+c.notify, "REPORT="+pipe.path, "SERVICE="+sleeper)
			service := pipe.after("started")
			executed(t, service, "sleep")
			clean(t, service, dir, "0027", "77", dir+"/out", dir+"/err")
			// The control: the daemon itself has what its service must not have.
			if fds := descriptors(t, p.Pid); fds["7"] != dir+"/seven" {
				t.Errorf("the daemon's descriptors: got %v, want number 7 among them", fds)
			}
			if c.role == "masked" && !blocks(t, p.Pid) {
				t.Error("no thread of the daemon blocks a signal: the case proves nothing")
			}
			unix.Kill(service, unix.SIGKILL)
			pipe.after("exited")
			w.SignalGroup(p.Pid, unix.SIGKILL)
			w.exit(p)
		})
	}
}

func TestServiceHasItsPathAndItsEnvironmentAlone(t *testing.T) {
	w := reap(t)
	path := filepath.Join(t.TempDir(), "a b")
	if err := os.Symlink(self(), path); err != nil {
		t.Fatal(err)
	}
	want := []string{"ONE=1", part + "=hang", "EMPTY=", "TWO=x y\nz"}
	p, err := w.Start(Command{Path: path, Env: want})
	if err != nil {
		t.Fatal(err)
	}
	read := func(file string) string {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Pid, file))
		return string(data)
	}
	// A start is over when execve can no longer fail, a little before the process
	// has them: until then they are ours.
	eventually(t, "the path alone as its arguments", func() bool { return read("cmdline") == path+"\x00" })
	eventually(t, fmt.Sprintf("%q as its environment", want), func() bool { return read("environ") == strings.Join(want, "\x00")+"\x00" })
	w.Signal(p.Pid, unix.SIGKILL)
	w.exit(p)

	// No environment is an empty one, not ours.
	t.Setenv("OURS_ALONE", "1")
	pipe := newPipe(t)
	p, err = w.Start(Command{Path: sh(t, `env | grep -c OURS_ALONE >'`+pipe.path+`'`)})
	if err != nil {
		t.Fatal(err)
	}
	if got := pipe.line(); got != "0" {
		t.Errorf("without an environment: got %s of ours", got)
	}
	w.exit(p)
}

// A mute one has nothing to write to.
func TestMuteProcessHasNoStreams(t *testing.T) {
	w := reap(t)
	p, err := w.Start(Command{Path: sh(t, "exec sleep 1000"), Mute: true})
	if err != nil {
		t.Fatal(err)
	}
	executed(t, p.Pid, "sleep")
	const null = "/dev/null"
	want := map[string]string{"0": null, "1": null, "2": null}
	eventually(t, fmt.Sprintf("descriptors %v", want), func() bool { return maps.Equal(descriptors(t, p.Pid), want) })
	w.Signal(p.Pid, unix.SIGKILL)
	w.exit(p)
}

// A script without #! runs under /bin/sh, as execvp(3) would run it.
func TestScriptWithoutInterpreterRunsUnderTheShell(t *testing.T) {
	w := reap(t)
	pipe := newPipe(t)
	const lines = `echo "$0 $#" >"$REPORT"; readlink /proc/$$/exe >"$REPORT"; exit 4`
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string]string{
		"with":          "#!/bin/sh\n" + lines + "\n",
		"without":       lines + "\n",
		"empty line":    "\n" + lines + "\n",
		"binary behind": lines + "\n\x00\x01\x02", // an archive that unpacks itself
	} {
		path := script(t, content)
		p := w.start(path, "REPORT="+pipe.path)
		if got, want := pipe.line(), path+" 0"; got != want {
			t.Errorf("%s: $0 and $#: got %q, want %q", what, got, want)
		}
		if got := pipe.line(); got != shell {
			t.Errorf("%s: it runs under %q, want %q", what, got, shell)
		}
		if e := w.exit(p); e.Status != exited(4) || !e.Alone {
			t.Errorf("%s: got %+v, want exit 4", what, e)
		}
	}
}

// elf is a program's header and nothing else, for a machine that no one has.
func elf(machine byte) string {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18], h[19], h[20] = 2, machine, 0xfe, 1
	return string(h)
}

func TestWhatCannotBeStartedSaysWhy(t *testing.T) {
	w := reap(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	evidence := at("evidence")
	make := func(name, content string, mode os.FileMode) string {
		if err := errors.Join(os.WriteFile(at(name), []byte(content), mode), os.Chmod(at(name), mode)); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	link := func(target, name string) string {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	busy := make("busy", "#!/bin/sh\nexit 0\n", 0o755)
	writer, err := os.OpenFile(busy, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for what, c := range map[string]struct {
		path  string
		env   []string
		errno syscall.Errno
		why   string
	}{
		"missing":           {at("missing"), nil, unix.ENOENT, "no such file"},
		"dangling":          {link("missing", "dangling"), nil, unix.ENOENT, `link to "missing", which does not exist`},
		"loop":              {link("loop", "loop"), nil, unix.ELOOP, "its links lead in a circle"},
		"directory":         {dir, nil, unix.EACCES, "a directory, not a file"},
		"below a file":      {make("file", "x", 0o644) + "/x", nil, unix.ENOTDIR, "not a directory"},
		"not executable":    {make("mode", "#!/bin/sh\n", 0o644), nil, unix.EACCES, "not executable (chmod +x it)"},
		"empty":             {make("empty", "", 0o755), nil, unix.ENOEXEC, "an empty file"},
		"bad interpreter":   {make("bad", "#!/nonexistent/sh\n", 0o755), nil, unix.ENOENT, `interpreter "/nonexistent/sh": no such file or directory`},
		"DOS line ends":     {make("dos", "#!/bin/sh\r\n", 0o755), nil, unix.ENOENT, "DOS line ends"},
		"garbage":           {make("garbage", "\x00\x01\x02 >"+evidence+"\n>"+evidence+"\n", 0o755), nil, unix.ENOEXEC, "cannot be executed: exec format error"},
		"another machine's": {make("elf", elf(0xdc), 0o755), nil, unix.ENOEXEC, "cannot be executed: exec format error"},
		"too much":          {"/bin/true", []string{"X=" + strings.Repeat("x", 1<<20)}, unix.E2BIG, "argument list too long"},
		"busy":              {busy, nil, unix.ETXTBSY, "text file busy"},
	} {
		p, err := w.Start(Command{Path: c.path, Env: c.env})
		var refused *StartError
		if !errors.As(err, &refused) {
			t.Errorf("%s: got %+v, %v, want a StartError", what, p, err)
			continue
		}
		if refused.Errno != c.errno && !(c.errno == unix.ENOEXEC && refused.Errno == unix.EACCES) {
			t.Errorf("%s: got %v (%d), want %v", what, refused.Errno, int(refused.Errno), c.errno)
		}
		if !errors.Is(err, refused.Errno) {
			t.Errorf("%s: %v does not unwrap to its errno", what, err)
		}
		if !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: got %q, want %q", what, err, c.why)
		}
	}
	if _, err := os.Lstat(evidence); err == nil {
		t.Error("garbage was given to the shell")
	}
	w.empty()
	eventually(t, "no child", func() bool { return len(children()) == 0 })
	if all := facts[Fact](w); len(all) != 0 {
		t.Errorf("got reports of strangers: %+v", all)
	}
	// Once the writer is done, it runs.
	writer.Close()
	if e := w.exit(w.start(busy)); e.Status != exited(0) {
		t.Errorf("no longer busy: got %+v", e)
	}
}

// The end of a process is waited for as soon as somebody reaps.
func TestWhatIsStartedBeforeRunIsReapedByIt(t *testing.T) {
	w := &world{t: t, news: make(chan struct{}, 1)}
	r, err := New(func(Fact) {})
	if err != nil {
		t.Fatal(err)
	}
	w.Reaper = r
	started := make(chan Process, 1)
	go func() { started <- w.start("/bin/true") }()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	w.exit(<-started)
	w.empty()
	cancel()
	<-done
}

// A descriptor that is to outlive an execve(2) of ours is kept by no child:
// while it is open to them none is forked, and afterwards all are.
func TestNoForkBeginsWhileForksAreHeld(t *testing.T) {
	w := reap(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	link := func(pid, fd any) string {
		path, _ := os.Readlink(fmt.Sprintf("/proc/%v/fd/%v", pid, fd))
		return path
	}
	ours, path := link("self", pipe[0]), sh(t, "exec sleep 0.1")
	stop := make(chan struct{})
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if p, err := w.Start(Command{Path: path}); err != nil {
					t.Error(err)
				} else {
					<-p.Exited
				}
			}
		})
	}
	for range 10 {
		w.Hold()
		w.HoldForks()
		unix.FcntlInt(uintptr(pipe[0]), unix.F_SETFD, 0)
		time.Sleep(5 * time.Millisecond)
		unix.CloseOnExec(pipe[0])
		for _, pid := range children() {
			if theirs := link(pid, pipe[0]); theirs == ours {
				t.Errorf("child %d has %s", pid, theirs)
			}
		}
		w.Resume()
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	starters.Wait()
}

// holdExecve has every execve of the file that a part is told of wait
// (fanotify(7)), until an answer is written to the descriptor. Where that cannot
// be had it says so, and the part is over.
func holdExecve() (fan int, ok bool) {
	fan, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	if err == nil {
		err = unix.FanotifyMark(fan, unix.FAN_MARK_ADD, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, os.Getenv("HANGS"))
	}
	if err != nil {
		report("cannot hold an execve:", err)
	}
	return fan, err == nil
}

// hung is a daemon one of whose starts hangs in execve, as on a dead network
// file system: here fanotify(7) does not let it go on.
func hung() {
	runtime.GOMAXPROCS(2)
	debug.SetGCPercent(-1)   // which must not be waited for by a collection
	debug.SetMemoryLimit(-1) // of any kind
	fan, ok := holdExecve()
	if !ok {
		return
	}
	r, done := run(func(f Fact) {
		if f, ok := f.(Reaped); ok {
			report("reaped", f.Pid)
		}
	})
	defer done()
	r.Processors(4) // as sysmgr does: a fork may keep its processor
	if n := runtime.GOMAXPROCS(0); n != 2 {
		report("processors before the first start:", n)
	}
	const many = forksAtATime + 1
	type result struct {
		held Process
		err  error
	}
	results := make(chan result, many)
	var events [many]unix.FanotifyEventMetadata
	for i := range events {
		go func() {
			p, err := r.Start(Command{Path: os.Getenv("HANGS")})
			results <- result{p, err}
		}()
		// It hangs now: the kernel asks whether it may go on.
		if _, err := unix.Read(fan, (*[unsafe.Sizeof(events[0])]byte)(unsafe.Pointer(&events[i]))[:]); err != nil {
			report("cannot read:", err)
			return
		}
	}
	if n := runtime.GOMAXPROCS(0); n != 4 {
		report("processors now:", n)
	}
	for range 100 {
		p, err := r.Start(Command{Path: "/bin/true"})
		if err != nil {
			report("another start:", err)
			return
		}
		if e := <-p.Exited; e.Status != exited(0) || !e.Alone {
			report("another exit:", e)
			return
		}
	}
	select {
	case result := <-results:
		report("it did not hang:", result.err)
		return
	default:
	}
	pids := children()
	if len(pids) != many {
		report("children while some hang:", pids)
		return
	}
	if !keepsProcessor { // else they are the runtime's, and as that makes them
		for _, pid := range pids {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if !strings.Contains(string(status), "\nSigCgt:\t0000000000000000\n") {
				report("a child that hangs has handlers of ours:", strings.ReplaceAll(string(status), "\n", " "))
				return
			}
		}
	}
	if r.Collect(false) == keepsProcessor {
		report("garbage was collected although that stops the world, or not although it does not")
		return
	}
	for _, event := range events {
		answer := unix.FanotifyResponse{Fd: event.Fd, Response: unix.FAN_ALLOW}
		unix.Write(fan, (*[unsafe.Sizeof(answer)]byte)(unsafe.Pointer(&answer))[:])
		unix.Close(int(event.Fd))
	}
	// Closing lets go what else may be asked.
	unix.Close(fan)
	for range many {
		result := <-results
		if result.err != nil {
			report("a start that hung:", result.err)
			return
		}
		if e := <-result.held.Exited; e.Status != exited(6) {
			report("its exit:", e)
			return
		}
	}
	if !r.Collect(true) {
		report("the garbage was not collected although nothing hangs")
		return
	}
	report("ok")
}

func TestStartThatHangsHoldsUpNoOther(t *testing.T) {
	playsWell(t, "hung", "HANGS="+sh(t, `exit 6`))
}
