package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/have"
)

// terminal is a program on a pseudo-terminal.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	news   chan struct{}

	mu  sync.Mutex // guards what follows, which the reader adds to
	out bytes.Buffer
}

// onTerminal starts a program on a terminal of its own, 80 columns wide.
func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	term := &terminal{t: t, master: os.NewFile(uintptr(fd), "ptmx"), cmd: cmd, news: make(chan struct{}, 1)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := term.master.Read(buf)
			if err != nil {
				return // EIO: nobody has the other end any more
			}
			term.mu.Lock()
			term.out.Write(buf[:n])
			term.mu.Unlock()
			select {
			case term.news <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
		term.master.Close()
		<-read
	})
	return term
}

// say types.
func (term *terminal) say(keys string) {
	if _, err := term.master.WriteString(keys); err != nil {
		term.t.Fatal(err)
	}
}

// hear waits until the terminal shows a text, and forgets all up to its end.
func (term *terminal) hear(pattern string) {
	term.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(deadline)
	for {
		term.mu.Lock()
		text := term.out.String()
		at := re.FindStringIndex(text)
		if at != nil {
			term.out.Next(at[1])
		}
		term.mu.Unlock()
		if at != nil {
			return
		}
		select {
		case <-term.news:
		case <-late:
			term.t.Fatalf("waited in vain for %q; got %q", pattern, text)
		}
	}
}

// shells are how each shell is told of the completions, and to print what
// words a program would get.
var shells = map[string]struct {
	args  []string
	begin string // %[1]s is the folder of the completions, %[2]s a program
	stub  string
}{
	"bash": {
		[]string{"--norc", "--noprofile", "-i"},
		"bind 'set bell-style none'; source %[1]s/svctl.bash; PS1='READ''Y> '\n",
		`%[1]s() { printf '<%%s>' %[1]s "$@"; echo; }`,
	},
	"zsh": {
		[]string{"-f", "-i"},
		"unsetopt beep; fpath=(%[1]s $fpath); autoload -Uz compinit; compinit -u -D; bindkey '^I' complete-word; PS1='READ''Y> '\n",
		`%[1]s() { printf '<%%s>' %[1]s "$@"; echo; }`,
	},
	"fish": {
		[]string{"--no-config", "-i", "--private"},
		"source %[1]s/svctl.fish; function fish_prompt; printf 'READ''Y> '; end\n",
		`function %[1]s; printf '<%%s>' %[1]s $argv; echo; end`,
	},
}

// What is typed, and the words that the program gets.
var completions = [][2]string{
	{"svctl sto\tw\t", "<svctl><stop><web>"},
	{"svctl stop a\t", "<svctl><stop><a b>"},
	{"svctl -w 5 resta\tb\t", "<svctl><-w><5><restart><bad>"},
	{"svctl signal USR1 w\t", "<svctl><signal><USR1><web>"},
	{"svctl signal WIN\tw\t", "<svctl><signal><WINCH><web>"},
	{"svctl wait rea\tw\t", "<svctl><wait><ready><web>"},
	{"svctl watc\tw\t", "<svctl><watch><web>"},
	{"svctl status db w\t", "<svctl><status><db><web>"},
	{"sysmgr-depends -r w\t", "<sysmgr-depends><-r><web>"},
	{"sysmgr -l j\t-e w\t", "<sysmgr><-l><json><-e><web>"},
}

// served starts a daemon with services in several phases, and returns the
// environment in which it is found.
func served(t *testing.T, rundir string) []string {
	t.Helper()
	sysdir := filepath.Join(t.TempDir(), "sys")
	if err := os.Mkdir(sysdir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"web":  "#!/bin/sh\nexec sysmgr-depends db\n",
		"a b":  "#!/bin/sh\nexec sleep 1000\n",
		"db":   "#!/bin/sh\nexec sleep 1000\n",
		"bad":  "#!/bin/sh\nexit 1\n",
		"weg":  "#!/bin/sh\nexec sleep 1000\n",
		"text": "",
	} {
		if err := os.WriteFile(filepath.Join(sysdir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at(t, rundir)
	env := append(os.Environ(), "SYSDIR="+sysdir, "RUNDIR="+rundir, "PATH="+bin+":"+os.Getenv("PATH"))
	cmd := exec.Command(filepath.Join(bin, "sysmgr"))
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		late := time.AfterFunc(deadline, func() { cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("sysmgr: %v", err)
		}
	})
	out, err := run(t, sysdir, `
		until svctl -q wait up 'a b'; do sleep 0.1; done
		svctl stop db weg
		rm "$SYSDIR/weg" # a removed one that is held has a folder without a status
		until grep backoff "$RUNDIR/bad/status" && test -s "$RUNDIR/web/waiting" && ! test -e "$RUNDIR/weg/status"; do sleep 0.1; done
		test -d "$RUNDIR/weg"
	`, "SYSDIR="+sysdir, "RUNDIR="+rundir)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return env
}

func TestShellsCompleteWords(t *testing.T) {
	t.Parallel()
	env := served(t, filepath.Join(t.TempDir(), "run"))
	folder, err := filepath.Abs("../../contrib/completions")
	if err != nil {
		t.Fatal(err)
	}
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			path := have.Program(t, name, name)
			cmd := exec.Command(path, shell.args...)
			cmd.Env = append(env, "TERM=dumb", "HOME="+t.TempDir(), "INPUTRC=/dev/null", "ENV=", "LC_ALL=C.UTF-8")
			term := onTerminal(t, cmd)
			for _, program := range []string{"svctl", "sysmgr", "sysmgr-depends"} {
				term.say(fmt.Sprintf(shell.stub, program) + "\n")
			}
			term.say(fmt.Sprintf(shell.begin, folder))
			for _, c := range completions {
				term.hear("READY> ")
				term.say(c[0] + "\n")
				term.hear(regexp.QuoteMeta(c[1]) + "\r")
			}
		})
	}
}

// Where a shell shows what a word is, a service has its phase.
func TestShellsShowPhases(t *testing.T) {
	t.Parallel()
	env := served(t, filepath.Join(t.TempDir(), "run"))
	folder, err := filepath.Abs("../../contrib/completions")
	if err != nil {
		t.Fatal(err)
	}
	phases := [][2]string{{"a b", "up"}, {"bad", "backoff"}, {"db", "down"}, {"text", "blocked"}, {"web", "waiting"}}
	t.Run("fish", func(t *testing.T) {
		have.Program(t, "fish", "fish")
		cmd := exec.Command("fish", "--no-config", "-c", "source "+folder+`/svctl.fish; complete -C 'svctl stop '`)
		cmd.Env = append(env, "HOME="+t.TempDir())
		out, err := cmd.Output()
		var want strings.Builder
		for _, p := range phases {
			fmt.Fprintf(&want, "%s\t%s\n", p[0], p[1])
		}
		if err != nil || string(out) != want.String() {
			t.Errorf("got %q, %v, want %q", out, err, want.String())
		}
	})
	t.Run("zsh", func(t *testing.T) {
		path := have.Program(t, "zsh", "zsh")
		cmd := exec.Command(path, "-f", "-i")
		cmd.Env = append(env, "TERM=dumb", "HOME="+t.TempDir())
		term := onTerminal(t, cmd)
		term.say(fmt.Sprintf(shells["zsh"].begin, folder))
		term.hear("READY> ")
		term.say("svctl stop \t")
		for _, p := range phases {
			term.hear(regexp.QuoteMeta(p[0]) + " +-- " + p[1])
		}
	})
}
