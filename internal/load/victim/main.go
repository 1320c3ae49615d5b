// Command victim is a service that tests supervise. It misbehaves as a plan
// tells it, and it is the witness of the first law of a supervisor: it holds
// an exclusive lock for as long as anything of it lives, and writes DUP into
// the journal when it finds that somebody has that lock already.
//
// All its files are in the folder $VICTIM_DIR:
//
//	NAME.live   the lock; children inherit it
//	NAME.plan   words like life=200 code=3; see plan
//	journal     lines of a word, the name, the process and the time by rundir.Clock
//	            in nanoseconds; the words are start, DUP, child, escaped
//	calm        while it is there, no victim ends by itself
//
// With $VICTIM_STAMP set it does nothing but write to its standard output when
// its first instruction ran, and its process, three words of 64 bits: seconds
// and nanoseconds of CLOCK_MONOTONIC, and the number. Then it sleeps.
//
// With $VICTIM_CANARY set it is no service at all but a stranger, which must
// never get a signal: it writes each one that it gets as a line "NAME PID
// SIGNAL" to that file, and lives on.
package main

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// born is the first instruction of this program, behind those of the runtime.
var born = rundir.Clock()

var (
	folder = os.Getenv("VICTIM_DIR")
	name   = os.Getenv("SYSMGR_NAME")
)

func main() {
	if os.Getenv("VICTIM_STAMP") != "" {
		var stamp []byte
		for _, word := range []time.Duration{born / time.Second, born % time.Second, time.Duration(os.Getpid())} {
			stamp = binary.NativeEndian.AppendUint64(stamp, uint64(word))
		}
		os.Stdout.Write(stamp)
		sleep()
	}
	if file := os.Getenv("VICTIM_CANARY"); file != "" {
		sing(file)
	}
	if deaf := os.Getenv("VICTIM_CHILD"); deaf != "" {
		obey(number(deaf))
		sleep()
	}
	lock, err := os.OpenFile(folder+"/"+name+".live", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		fail(err)
	}
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		journal("DUP", os.Getpid())
		os.Exit(99)
	}
	journal("start", os.Getpid())
	act(readPlan(), lock)
}

// plan is what one life of a victim is like.
type plan struct {
	life   int    // milliseconds until it ends by itself; 0: never
	code   int    // with which exit status; above 128: by that signal
	deaf   int    // milliseconds from TERM to its end; -1: it never obeys
	grace  string // what it writes to stop-timeout
	ready  bool   // it says that it is ready
	child  bool   // it leaves a child behind in its process group, as deaf as itself
	escape bool   // it leaves a child behind in a session of its own
	claim  bool   // it writes the number of its child into its pid file
	freeze bool   // it stops itself (SIGSTOP) instead of ending
}

// readPlan reads the plan of this life. The word seed=N draws one at random
// and leaves the seed of the next life; that needs no care, because whoever
// holds the lock is alone. The word wild=N does the same, and draws from more.
func readPlan() (p plan) {
	path := folder + "/" + name + ".plan"
	data, err := os.ReadFile(path)
	if err != nil {
		return p
	}
	for word := range strings.FieldsSeq(string(data)) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "seed", "wild":
			seed, _ := strconv.ParseUint(value, 10, 64)
			draw := rand.New(rand.NewPCG(seed, 0))
			replace(path, key+"="+strconv.FormatUint(draw.Uint64(), 10))
			p = drawPlan(draw)
			if key == "wild" {
				p.claim = p.child && draw.IntN(2) == 0
				p.freeze = p.life > 0 && draw.IntN(8) == 0
			}
			return p
		case "life":
			p.life = number(value)
		case "code":
			p.code = number(value)
		case "deaf":
			p.deaf = number(value)
		case "grace":
			p.grace = value
		case "ready":
			p.ready = true
		case "child":
			p.child = true
		case "escape":
			p.escape = true
		case "claim":
			p.claim, p.child = true, true
		case "freeze":
			p.freeze = true
		}
	}
	return p
}

func drawPlan(draw *rand.Rand) (p plan) {
	if draw.IntN(10) < 7 {
		p.life = 1 + draw.IntN(1+draw.IntN(800))
		p.code = []int{0, 0, 1, 7, 128 + int(unix.SIGKILL), 128 + int(unix.SIGHUP)}[draw.IntN(6)]
	}
	switch draw.IntN(10) {
	case 0:
		p.deaf, p.grace = -1, "0.2"
	case 1, 2, 3:
		p.deaf = 5 + draw.IntN(200)
	}
	p.child = draw.IntN(4) == 0
	p.ready = draw.IntN(2) == 0
	return p
}

// act lives by a plan.
func act(p plan, lock *os.File) {
	own := os.Getenv("SYSMGR_DIR")
	if p.grace != "" {
		// Before it grows deaf, or it would be killed only after the usual time.
		replace(own+"/stop-timeout", p.grace)
	}
	obey(p.deaf)
	if p.child {
		child := fork(lock, p.deaf, false)
		journal("child", child)
		if p.claim {
			replace(own+"/pid", strconv.Itoa(child))
		}
	}
	if p.escape {
		journal("escaped", fork(nil, 0, true))
	}
	if p.ready {
		replace(own+"/ready", "yes")
	}
	if p.life == 0 {
		sleep()
	}
	time.Sleep(time.Duration(p.life) * time.Millisecond)
	if _, err := os.Stat(folder + "/calm"); err == nil {
		sleep()
	}
	if p.freeze {
		unix.Kill(os.Getpid(), unix.SIGSTOP)
		sleep()
	}
	if p.code > 128 {
		signal.Reset()
		unix.Kill(os.Getpid(), syscall.Signal(p.code-128))
		time.Sleep(time.Second)
	}
	os.Exit(p.code)
}

// obey settles what TERM does. Zero: what it always does.
func obey(deaf int) {
	if deaf == 0 {
		return
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	if deaf < 0 {
		return
	}
	go func() {
		<-term
		time.Sleep(time.Duration(deaf) * time.Millisecond)
		os.Exit(0)
	}()
}

// fork starts a child that stays. With a lock it holds that too: it is a part
// of this copy of the service.
func fork(lock *os.File, deaf int, session bool) int {
	files := []uintptr{0, 1, 2}
	if lock != nil {
		files = append(files, lock.Fd())
	}
	path, err := os.Executable()
	if err != nil {
		fail(err)
	}
	env := append(os.Environ(), "VICTIM_CHILD="+strconv.Itoa(deaf))
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{
		Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: session},
	})
	if err != nil {
		fail(err)
	}
	return pid
}

func journal(word string, pid int) {
	write(folder+"/journal", word+" "+name+" "+strconv.Itoa(pid)+" "+strconv.FormatInt(int64(rundir.Clock()), 10))
}

// sing is the life of a canary. Its first line, with the signal 0, says that
// it listens.
func sing(file string) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	note := func(number int) {
		write(file, os.Getenv("VICTIM_NAME")+" "+strconv.Itoa(os.Getpid())+" "+strconv.Itoa(number))
	}
	note(0)
	for s := range signals {
		if s != unix.SIGURG { // the runtime's own (runtime/preempt.go)
			note(int(s.(syscall.Signal)))
		}
	}
}

// write appends a line with one write(2), which makes it whole.
func write(path, line string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		_, err = f.WriteString(line + "\n")
		f.Close()
	}
	if err != nil {
		fail(err)
	}
}

// replace puts a file there that nobody can see half written. If we die on
// the way, the daemon knows by its name what is left as unfinished. A folder
// that is full or gone is not what a victim dies of.
func replace(path, content string) {
	fresh := filepath.Join(filepath.Dir(path), ".new."+strconv.Itoa(os.Getpid()))
	err := os.WriteFile(fresh, []byte(content+"\n"), 0o644)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
		os.Stderr.WriteString("victim " + name + ": " + err.Error() + "\n")
	}
}

func number(word string) int {
	n, _ := strconv.Atoi(word)
	return n
}

func sleep() {
	for {
		time.Sleep(time.Hour)
	}
}

func fail(err error) {
	os.Stderr.WriteString("victim " + name + ": " + err.Error() + "\n")
	os.Exit(98)
}
