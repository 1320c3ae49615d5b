package cli

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// part names what the test binary is to be instead of a test, when a test
// has started it as another process.
const part = "CLI_TEST_PART"

func TestMain(m *testing.M) {
	if os.Getenv(part) != "user" {
		os.Exit(m.Run())
	}
	if err := becomeUser(); err != nil {
		fmt.Println(err)
		os.Exit(0)
	}
	sysdir, err := Sysdir()
	fmt.Println(sysdir, err)
	rundir, err := Rundir()
	fmt.Println(rundir, err)
	os.Exit(0)
}

func TestDirectoriesOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has them")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(name, "/elsewhere") // which are for users
	}
	for given, want := range map[string]string{
		"":             "default",
		"/a/b":         "/a/b",
		"/a/../b//":    "/b",
		"relative/dir": filepath.Join(here, "relative/dir"),
		".":            here,
	} {
		t.Setenv("SYSDIR", given)
		t.Setenv("RUNDIR", given)
		sysdir, rundir := want, want
		if want == "default" {
			sysdir, rundir = defaultSysdir, defaultRundir
		}
		if got, err := Sysdir(); err != nil || got != sysdir {
			t.Errorf("SYSDIR=%q: got %q, %v, want %q", given, got, err, sysdir)
		}
		if got, err := Rundir(); err != nil || got != rundir {
			t.Errorf("RUNDIR=%q: got %q, %v, want %q", given, got, err, rundir)
		}
	}
}

func TestDirectoriesOfAUser(t *testing.T) {
	for what, c := range map[string]struct {
		env            []string
		sysdir, rundir string
	}{
		"a home and a session": {[]string{"HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/7"}, "/home/u/.config/sysmgr <nil>", "/run/user/7/sysmgr <nil>"},
		"a place for settings": {[]string{"HOME=/home/u", "XDG_CONFIG_HOME=/cfg", "XDG_RUNTIME_DIR=/r"}, "/cfg/sysmgr <nil>", "/r/sysmgr <nil>"},
		"told":                 {[]string{"SYSDIR=/s", "RUNDIR=/r"}, "/s <nil>", "/r <nil>"},
		"nothing": {nil,
			" neither SYSDIR nor HOME is set; set SYSDIR to the service directory",
			" neither RUNDIR nor XDG_RUNTIME_DIR is set; set RUNDIR to the run directory"},
		"empty is unset": {[]string{"SYSDIR=", "RUNDIR=", "HOME=", "XDG_CONFIG_HOME=", "XDG_RUNTIME_DIR="},
			" neither SYSDIR nor HOME is set; set SYSDIR to the service directory",
			" neither RUNDIR nor XDG_RUNTIME_DIR is set; set RUNDIR to the run directory"},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(c.env, part+"=user", "GORACE=atexit_sleep_ms=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := c.sysdir + "\n" + c.rundir + "\n"; string(out) != want {
			t.Errorf("%s: got\n%swant\n%s", what, out, want)
		}
	}
}

// capture runs f and returns what it writes to standard output and error.
func capture(t *testing.T, f func()) (stdout, stderr string) {
	t.Helper()
	read := func(file **os.File) func() string {
		before := *file
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		*file = w
		text := make(chan string)
		go func() { data, _ := io.ReadAll(r); r.Close(); text <- string(data) }()
		return func() string { *file = before; w.Close(); return <-text }
	}
	out, err := read(&os.Stdout), read(&os.Stderr)
	f()
	return out(), err()
}

var program = Program{Name: "prog", Usage: "usage: prog [-n SEC] NAME...\n\n  -n SEC  how long\n"}

func TestCommandLines(t *testing.T) {
	version := "prog (sysmgr) " + Version + "\n"
	misused := func(what string) string {
		return "prog: " + what + "\nusage: prog [-n SEC] NAME...\nTry 'prog -h'.\n"
	}
	for line, want := range map[string]struct {
		code           int
		done           bool
		stdout, stderr string
		n              string
		q              bool
		rest           string
	}{
		"":                {rest: "[]"},
		"a b":             {rest: "[a b]"},
		"-n 3 a":          {n: "3", rest: "[a]"},
		"-n3 a":           {n: "3", rest: "[a]"},
		"-qn3 a":          {n: "3", q: true, rest: "[a]"},
		"-qn 3 a":         {n: "3", q: true, rest: "[a]"},
		"-q -- -q":        {q: true, rest: "[-q]"},
		"-n -q a":         {n: "-q", rest: "[a]"},
		"-n -- a":         {n: "--", rest: "[a]"},
		"-":               {rest: "[-]"},
		"-q -":            {q: true, rest: "[-]"},
		"-qh":             {done: true, stdout: program.Usage},
		"-Vq":             {done: true, stdout: version},
		"a -n 3":          {rest: "[a -n 3]"},
		"-- -n 3":         {rest: "[-n 3]"},
		"-n 3 -- -h":      {n: "3", rest: "[-h]"},
		"-h":              {done: true, stdout: program.Usage},
		"--help":          {done: true, stdout: program.Usage},
		"-n 3 -h a":       {done: true, stdout: program.Usage},
		"-V":              {done: true, stdout: version},
		"-V a":            {done: true, stdout: version},
		"-qx":             {code: Usage, done: true, stderr: misused("unknown option -x")},
		"-x":              {code: Usage, done: true, stderr: misused("unknown option -x")},
		"-n":              {code: Usage, done: true, stderr: misused("flag needs an argument: -n")},
		"-n 3 --colour a": {code: Usage, done: true, stderr: misused("unknown option -colour")},
	} {
		var set flag.FlagSet
		n, q := set.String("n", "", ""), set.Bool("q", false, "")
		var code int
		var done bool
		stdout, stderr := capture(t, func() { code, done = program.Parse(&set, strings.Fields(line)) })
		if code != want.code || done != want.done || stdout != want.stdout || stderr != want.stderr {
			t.Errorf("%q: got %d, %v, %q, %q\nwant %+v", line, code, done, stdout, stderr, want)
		}
		if rest := fmt.Sprint(set.Args()); !done && (rest != want.rest || *n != want.n || *q != want.q) {
			t.Errorf("%q: got n %q, q %v, rest %s, want %q, %v, %s", line, *n, *q, rest, want.n, want.q, want.rest)
		}
	}
}

func TestErrorsStandBehindTheProgramsName(t *testing.T) {
	stdout, stderr := capture(t, func() { program.Errorf("%s: %v", "web", io.EOF) })
	if want := "prog: web: EOF\n"; stdout != "" || stderr != want {
		t.Errorf("got %q, %q, want %q on standard error", stdout, stderr, want)
	}
	var code int
	_, stderr = capture(t, func() { code = program.Misused("unexpected %q", "x\ny") })
	if want := "prog: unexpected \"x\\ny\"\nusage: prog [-n SEC] NAME...\nTry 'prog -h'.\n"; code != Usage || stderr != want {
		t.Errorf("got %d, %q, want %d, %q", code, stderr, Usage, want)
	}
}

// becomeUser makes this process an ordinary user's.
func becomeUser() error {
	if os.Geteuid() != 0 {
		return nil
	}
	const nobody = 65534
	return syscall.Setreuid(nobody, nobody)
}
