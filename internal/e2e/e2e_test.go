// Package e2e runs the real programs, built with the race detector, as
// people do: each file in testdata is a shell session that holds one promise
// of the manual, and is named after it.
//
// Beside the commands of testscript there are:
//
//	daemon [FLAG...]        start sysmgr and wait until it is there
//	daemon -signal SIG      send it a signal
//	daemon -exits CODE      wait for its end, which must have this status
//	service FILE...         put files into SYSDIR as services, complete at once
//	until COMMAND           run a shell command again and again until it is true
//	never SECONDS COMMAND   fail if a shell command is true within this time
//	logged REGEXP           wait until the daemon's log has a line like this
package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// deadline is how long anything may take: long, because machines are slow.
const deadline = 60 * time.Second

// bin is where the programs are.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	// The scripts mostly wait, for seconds that have to pass.
	flag.Set("test.parallel", "8")
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sysmgr-e2e")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		bin = filepath.Join(dir, "bin")
		build := exec.Command("go", "build", "-race", "-o", bin+"/", "sysmgr/cmd/...")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build:", err)
			return 1
		}
		// Other users run them too.
		os.Chmod(dir, 0o755)
		return m.Run()
	}())
}

func TestScripts(t *testing.T) {
	// Other users have to get at the scripts' folders.
	root, err := os.MkdirTemp("", "sysmgr-e2e-work")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		WorkdirRoot: root,
		Deadline:    time.Now().Add(150 * time.Second),
		Dir:         "testdata",
		Setup:       setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":  daemonCmd,
			"service": serviceCmd,
			"until":   untilCmd,
			"never":   neverCmd,
			"logged":  loggedCmd,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "checkout": // not an unpacked archive
				return exec.Command("git", "-C", "../..", "rev-parse", "HEAD").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		RequireUniqueNames: true,
	})
}

// daemon is the sysmgr of a script.
type daemon struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

const daemonKey = "daemon"

func setup(env *testscript.Env) error {
	sys, run := filepath.Join(env.WorkDir, "sys"), filepath.Join(env.WorkDir, "run")
	env.Setenv("SYSDIR", sys)
	env.Setenv("RUNDIR", run)
	env.Setenv("LOG", filepath.Join(env.WorkDir, "log"))
	top, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	env.Setenv("TOP", top)
	for _, key := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY"} {
		out, err := exec.Command("go", "env", key).Output()
		if err != nil {
			return err
		}
		env.Setenv(key, strings.TrimSpace(string(out)))
	}
	env.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	env.Setenv("TERM", "dumb")
	// The race detector would have each tool sleep for a second at its end.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	d := &daemon{}
	env.Values[daemonKey] = d
	env.Defer(func() { d.end(env.T(), run) })
	// The folder of the script is 0700; scripts that run things as another
	// user need a way in.
	if err := os.Chmod(env.WorkDir, 0o755); err != nil {
		return err
	}
	return os.Mkdir(sys, 0o755)
}

// end stops what a script has left running, and fails it if the daemon does
// not end in good order, leaves a process or saw a data race.
func (d *daemon) end(t testscript.T, run string) {
	fail := func(format string, args ...any) { t.Log(fmt.Sprintf(format, args...)); t.FailNow() }
	orderly := true
	if d.cmd != nil {
		select {
		case <-d.done:
		default:
			d.cmd.Process.Signal(unix.SIGTERM)
			select {
			case <-d.done:
			case <-time.After(deadline):
				orderly = false
				d.cmd.Process.Kill()
				<-d.done
			}
		}
	}
	left := processes(run)
	for end := time.Now().Add(2 * time.Second); len(left) > 0 && time.Now().Before(end); left = processes(run) {
		time.Sleep(50 * time.Millisecond) // children of what was just killed
	}
	for _, pid := range left {
		unix.Kill(pid, unix.SIGKILL)
	}
	data, _ := os.ReadFile(d.log)
	switch {
	case !orderly:
		fail("sysmgr did not end after TERM; its log:\n%s", data)
	case bytes.Contains(data, []byte("DATA RACE")) || bytes.Contains(data, []byte("panic:")):
		fail("sysmgr went wrong:\n%s", data)
	case d.cmd != nil && len(left) > 0:
		fail("left over after the end: %v; the log:\n%s", left, data)
	}
}

// processes lists those that were started with this RUNDIR by a sysmgr.
func processes(run string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.Contains(env, []byte("RUNDIR="+run+"\x00")) && bytes.Contains(env, []byte("SYSMGR_NAME=")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func daemonCmd(ts *testscript.TestScript, neg bool, args []string) {
	d := ts.Value(daemonKey).(*daemon)
	if len(args) == 2 && args[0] == "-signal" {
		sig, ok := rundir.ParseSignal(args[1])
		if !ok || d.cmd == nil {
			ts.Fatalf("daemon -signal: no daemon, or no signal %s", args[1])
		}
		ts.Check(d.cmd.Process.Signal(sig))
		return
	}
	if len(args) == 2 && args[0] == "-exits" {
		select {
		case <-d.done:
		case <-time.After(deadline):
			ts.Fatalf("sysmgr has not ended")
		}
		if got := d.cmd.ProcessState.ExitCode(); strconv.Itoa(got) != args[1] {
			ts.Fatalf("exit status: got %d, want %s; the log:\n%s", got, args[1], ts.ReadFile(d.log))
		}
		return
	}
	d.log = ts.Getenv("LOG")
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	ts.Check(err)
	defer log.Close()
	d.cmd = exec.Command(filepath.Join(bin, "sysmgr"), args...)
	if ts.Getenv("DAEMON") != "" { // a shell command around it
		d.cmd = exec.Command("sh", append([]string{"-c", ts.Getenv("DAEMON") + ` exec sysmgr "$@"`, "sh"}, args...)...)
	}
	d.cmd.Dir = ts.MkAbs(".")
	d.cmd.Stderr, d.cmd.Stdout = log, log
	for _, key := range []string{"SYSDIR", "RUNDIR", "PATH", "HOME", "WORK", "EXTRA"} {
		d.cmd.Env = append(d.cmd.Env, key+"="+ts.Getenv(key))
	}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ts.Check(d.cmd.Start())
	d.done = make(chan struct{})
	cmd, done := d.cmd, d.done
	go func() {
		cmd.Wait()
		close(done)
	}()
	run := ts.Getenv("RUNDIR")
	if !filepath.IsAbs(run) {
		run = ts.MkAbs(run)
	}
	poll(ts, "sysmgr to start", func() bool {
		select {
		case <-done:
			ts.Fatalf("sysmgr ended: %v\n%s", cmd.ProcessState, ts.ReadFile(d.log))
		default:
		}
		dir, err := rundir.Open(run)
		if err != nil {
			return false
		}
		defer dir.Close()
		w, err := dir.Daemon()
		if err == nil {
			w.Close()
		}
		return err == nil
	})
}

// poll waits for what has no event to wait for.
func poll(ts *testscript.TestScript, what string, true func() bool) {
	for end := time.Now().Add(deadline); !true(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			d := ts.Value(daemonKey).(*daemon)
			data, _ := os.ReadFile(d.log)
			ts.Fatalf("waited in vain for %s; the log:\n%s", what, data)
		}
	}
}

func serviceCmd(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args {
		name := filepath.Base(file)
		tmp := ts.MkAbs(filepath.Join(ts.Getenv("SYSDIR"), ".new-"+name))
		ts.Check(os.WriteFile(tmp, []byte(ts.ReadFile(file)), 0o755))
		ts.Check(os.Chmod(tmp, 0o755))
		ts.Check(os.Rename(tmp, filepath.Join(filepath.Dir(tmp), name)))
	}
}

// shell runs a command as the script would and tells whether it was true.
func shell(ts *testscript.TestScript, command string) bool {
	return ts.Exec("sh", "-c", command) == nil
}

func untilCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: until COMMAND")
	}
	poll(ts, args[0], func() bool { return shell(ts, args[0]) })
}

func neverCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: never SECONDS COMMAND")
	}
	limit, ok := rundir.ParseSeconds(args[0])
	if !ok {
		ts.Fatalf("never: %s seconds?", args[0])
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if shell(ts, args[1]) {
			ts.Fatalf("became true: %s", args[1])
		}
	}
}

func loggedCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] logged REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	read := func() bool {
		data, err := os.ReadFile(ts.Getenv("LOG"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		return re.Match(data)
	}
	if neg {
		if read() {
			ts.Fatalf("the log has %q:\n%s", args[0], ts.ReadFile(ts.Getenv("LOG")))
		}
		return
	}
	poll(ts, strings.TrimSpace("a log line like "+args[0]), read)
}
