//go:build linux

package control

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// soon is how long a test waits for what must come. It is long because
// machines are slow; nothing that passes waits this long.
const soon = 30 * time.Second

// part names what the test binary is to be instead of a test, when a test
// has started it as another process.
const part = "CONTROL_TEST_PART"

func TestMain(m *testing.M) {
	dir := os.Getenv("DIR")
	switch os.Getenv(part) {
	case "":
		// Most of them wait for time to pass, and need no processor for that.
		flag.Parse()
		flag.Set("test.parallel", "24")
		goleak.VerifyTestMain(m)
	case "daemon":
		claimAndHang(dir)
	case "nobody":
		fmt.Print(askAsNobody(dir))
	case "without watches":
		fmt.Print(attendWithoutWatches(dir))
	case "watches come back":
		fmt.Print(attendUntilWatchesComeBack(dir))
	case "read-only":
		fmt.Print(attendReadOnly(dir))
	case "without descriptors":
		fmt.Print(lookWithoutDescriptors(dir))
	}
}

// another makes a command of the test binary in another part.
func another(role, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), part+"="+role, "DIR="+dir, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// output is what another process prints.
func output(t *testing.T, role, dir string, attr *syscall.SysProcAttr) string {
	t.Helper()
	cmd := another(role, dir)
	cmd.SysProcAttr = attr
	out, err := cmd.Output()
	if errors.Is(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", role, err, out)
	}
	return string(out)
}

// world is a run directory with a Control over it, and what that has said.
type world struct {
	t       *testing.T
	dir     *rundir.Dir
	control *Control

	mu       sync.Mutex
	messages []Message
	facts    []Fact
	said     chan struct{} // receives after something was said
	read     int           // messages that the test has looked at
}

// newWorld makes one whose Control does not run yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	w := &world{t: t, dir: dir, said: make(chan struct{}, 1)}
	w.control = New(Config{Rundir: dir, Deliver: w.deliver, Report: w.report})
	return w
}

// run lets the Control run until the end of the test.
func (w *world) run() *world {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.control.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	return w
}

// start is newWorld, running, and attending to the services.
func start(t *testing.T, names ...string) *world {
	t.Helper()
	w := newWorld(t).run()
	for _, name := range names {
		w.control.Attend(name)
		w.expect("released " + name)
		w.publish(name)
	}
	return w
}

// publish writes a status, as the actor of the service would.
func (w *world) publish(name string) {
	if f, err := w.dir.Folder(name); err == nil {
		f.WriteNew(rundir.State, []byte("phase down\n"))
		f.Close()
	}
}

func (w *world) deliver(m Message) {
	w.mu.Lock()
	w.messages = append(w.messages, m)
	w.mu.Unlock()
	select {
	case w.said <- struct{}{}:
	default:
	}
}

func (w *world) report(f Fact) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts = append(w.facts, f)
}

// text is a message as the tests write it: the verb, the service, then what
// else there is.
func text(m Message) string {
	words := []string{string(m.Request.Verb), m.Service}
	if m.Refused != "" {
		words[0] = "refused"
	}
	if m.Request.Verb == Signal {
		words = append(words, rundir.SignalName(m.Request.Signal))
	}
	if m.Said {
		words[0] = "said"
	}
	if m.Pid != 0 {
		words = append(words, fmt.Sprint(m.Pid))
	}
	if m.Request.ID != "" {
		words = append(words, "#"+m.Request.ID)
	}
	if m.Lost {
		words = append(words, "lost")
	}
	if m.Lock != (rundir.Stamp{}) {
		words = append(words, "lock")
	}
	if m.Refused != "" {
		words = append(words, "("+m.Refused+")")
	}
	return strings.Join(words, " ")
}

// other is a service that quiet asks for.
const other = "~quiet"

// next is the next message. That there is no lock is said again and again
// ("released"); it counts only if it is wanted.
func (w *world) next(wanted string) (m Message, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.read < len(w.messages) {
		m = w.messages[w.read]
		w.read++
		if m.Request.Verb != Released || text(m) == wanted {
			return m, true
		}
	}
	return m, false
}

// expect waits for messages, which must come in this order with none between.
func (w *world) expect(want ...string) (last Message) {
	w.t.Helper()
	late := time.After(soon)
	for _, wanted := range want {
		for {
			m, ok := w.next(wanted)
			if ok && text(m) != wanted {
				w.t.Fatalf("got %q, want %q", text(m), wanted)
			}
			if ok {
				if last = m; m.Lost {
					w.publish(m.Service)
				}
				break
			}
			select {
			case <-w.said:
			case <-late:
				w.t.Fatalf("no %q after %v", wanted, soon)
			}
		}
	}
	return last
}

// quiet fails the test if there was a message that it has not expected. What
// has happened before it is called has been looked at when it returns: twice
// a request of another service goes all the way through the Control.
func (w *world) quiet() {
	w.t.Helper()
	w.control.Attend(other)
	defer w.control.Forget(other)
	// The request before this one may just be taken, and the folder be removed
	// that was forgotten at the end of the last call.
	place := func(line []byte) error {
		f, err := w.dir.MakeFolder(other)
		w.must(err)
		defer f.Close()
		return f.WriteNew(rundir.Control, line)
	}
	for i := range 2 {
		line := Request{Verb: Restart, ID: fmt.Sprint(i)}.Line()
		for place(line) != nil {
			time.Sleep(time.Millisecond)
		}
		w.expect(fmt.Sprintf("restart %s #%d", other, i))
	}
}

// path is that of a file in a service's folder.
func (w *world) path(name, file string) string { return filepath.Join(w.dir.Path(), name, file) }

// echo writes as the shell does: it makes the file, and then fills it.
func (w *world) echo(name, file, line string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name, file), []byte(line), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// put makes the file complete, and then gives it its name.
func (w *world) put(name, file, line string) {
	w.t.Helper()
	tmp := filepath.Join(w.dir.Path(), ".tmp")
	w.must(os.WriteFile(tmp, []byte(line), 0o644))
	w.must(os.Rename(tmp, w.path(name, file)))
}

// lock is what the lock file of a service says, "-" without one.
func (w *world) lock(name string) string {
	data, err := os.ReadFile(w.path(name, rundir.Lock))
	if errors.Is(err, os.ErrNotExist) {
		return "-"
	}
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// none fails the test if one of the files is in a service's folder.
func (w *world) none(name string, files ...string) {
	w.t.Helper()
	for _, file := range files {
		if _, err := os.Lstat(w.path(name, file)); err == nil {
			w.t.Errorf("%s/%s is still there", name, file)
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// odd puts things that are no regular file of reasonable size under a path.
var odd = map[string]func(path string) error{
	"directory":      func(path string) error { return os.Mkdir(path, 0o755) },
	"fifo":           func(path string) error { return unix.Mkfifo(path, 0o644) },
	"dangling link":  func(path string) error { return os.Symlink("/nonexistent", path) },
	"link to a file": func(path string) error { return os.Symlink("/etc/hostname", path) },
	"link to itself": func(path string) error { return os.Symlink(path, path) },
	"a gigabyte": func(path string) error {
		return errors.Join(os.WriteFile(path+"-", nil, 0o644), os.Truncate(path+"-", 1<<30), os.Rename(path+"-", path))
	},
}
