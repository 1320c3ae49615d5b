package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// commands are the shell commands among the examples of a manual page: what
// stands behind a $ sign.
func commands(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../man", page))
	if err != nil {
		t.Fatal(err)
	}
	_, examples, ok := strings.Cut(string(text), "\n.Sh EXAMPLES\n")
	if !ok {
		t.Fatalf("%s has no examples", page)
	}
	examples, _, _ = strings.Cut(examples, "\n.Sh ")
	plain := strings.NewReplacer(`\(dq`, `"`, `\e`, `\`)
	var lines []string
	for line := range strings.Lines(examples) {
		line = strings.TrimPrefix(strings.TrimSuffix(line, "\n"), ".Dl ")
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			lines = append(lines, plain.Replace(command))
		}
	}
	if len(lines) == 0 {
		t.Fatalf("%s has no commands among its examples", page)
	}
	return lines
}

// run runs a shell script with the programs in PATH, in a process group of its
// own, and returns what it printed.
func run(t *testing.T, dir, script string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", "-exc", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(env, "PATH="+bin+":"+os.Getenv("PATH"))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(deadline, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer late.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// at removes what a test may have left running with its RUNDIR.
func at(t *testing.T, rundir string) {
	t.Cleanup(func() {
		for _, pid := range processes(rundir) {
			t.Errorf("left over: process %d", pid)
			unix.Kill(pid, unix.SIGKILL)
		}
	})
}

func TestExamplesOfSysmgr8Work(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// The examples make a place of their own, below TMPDIR, and end the
	// daemon; then there is nothing left to publish.
	script := strings.Join(commands(t, "sysmgr.8"), "\n") + "\nwait\ntest ! -e \"$RUNDIR\"\necho all done"
	out, err := run(t, dir, script, "TMPDIR="+dir)
	if err != nil || !strings.HasSuffix(out, "\nall done\n") {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestExamplesOfSvctl1Work(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	services := map[string]string{
		"web":    "#!/bin/sh\ntrap '' HUP\nwhile :; do sleep 0.1; done\n",
		"db":     "#!/bin/sh\necho yes >\"$SYSMGR_DIR/ready\"\nexec sleep 1000\n",
		"backup": "#!/bin/sh\nexit 0\n",
	}
	if err := os.Mkdir(filepath.Join(dir, "sys"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range services {
		if err := os.WriteFile(filepath.Join(dir, "sys", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rundir := filepath.Join(dir, "run")
	at(t, rundir)
	var script strings.Builder
	script.WriteString("sysmgr 2>log & daemon=$!\nuntil svctl -q wait up web db; do sleep 0.1; done\n")
	for _, command := range commands(t, "svctl.1") {
		switch {
		case command == "svctl status":
			command += " || test $? = 1" // backup is not up
		case strings.Contains(command, "| jq"):
			if _, err := exec.LookPath("jq"); err != nil {
				t.Log("without jq: not run:", command)
				continue
			}
		}
		script.WriteString(command + "\n")
	}
	script.WriteString("kill $daemon\nwait $daemon\necho all done\n")
	out, err := run(t, dir, script.String(), "SYSDIR="+filepath.Join(dir, "sys"), "RUNDIR="+rundir)
	if err != nil || !strings.HasSuffix(out, "\nall done\n") {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Errorf("got %v\n%s\n%s", err, out, log)
	}
}

// What make run does, as an ordinary user if we can be one.
func TestTryOutRunsAndCleansUp(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sysmgr-try")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	// Others may not look into this source tree.
	if out, err := exec.Command("cp", "-R", "../../contrib/try", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	args := []string{"sh", filepath.Join(dir, "try/run.sh"), bin}
	if os.Geteuid() == 0 {
		args = append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer unix.Kill(-cmd.Process.Pid, unix.SIGKILL)

	var place string
	for end := time.Now().Add(deadline); place == ""; time.Sleep(20 * time.Millisecond) {
		places, _ := filepath.Glob(filepath.Join(dir, "sysmgr-try.*"))
		if len(places) == 1 {
			place = places[0]
		}
		if time.Now().After(end) {
			t.Fatal("it made no place")
		}
	}
	at(t, place+"/run")
	// The commands it tells people to say.
	env := []string{"SYSDIR=" + place + "/services", "RUNDIR=" + place + "/run"}
	out, err := run(t, dir, `
		until svctl -q wait up db web; do sleep 0.1; done
		svctl status || test $? = 1
		svctl stop web
		svctl start web
		svctl restart db web
		chmod +x "$SYSDIR/draft"
		svctl wait up draft
	`, env...)
	if err != nil {
		log, _ := os.ReadFile(output.Name())
		t.Fatalf("got %v\n%s\n%s", err, out, log)
	}
	if !strings.Contains(out, "\ndraft: BLOCKED") {
		t.Errorf("status: got no blocked draft in\n%s", out)
	}
	unix.Kill(-cmd.Process.Pid, unix.SIGINT) // ^C goes to all of the terminal's group
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("its end: got %v, want exit status 0", err)
		}
	case <-time.After(deadline):
		t.Fatal("it does not end after ^C")
	}
	if _, err := os.Stat(place); err == nil {
		t.Errorf("%s is still there", place)
	}
}
