//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// A floor is a process that does the bare work of a supervisor. It is this
// program again, executed with asFloor set in the environment; it does what it
// reads from its standard input:
//
//	loop      spawn the program, wait4 for it, and again, for ever
//	watch     for each file that appears in a directory: spawn the program
//	spawn N   spawn it N times in a row
//	end       signal all that were spawned and reap them; then say how long that took
const asFloor = "SYSMGR_BENCH_FLOOR"

type floor struct {
	y    *yard
	cmd  *exec.Cmd
	in   io.WriteCloser
	says *bufio.Reader
}

// floor starts one. What it runs writes its stamps where services do.
func (y *yard) floor() *floor {
	y.Helper()
	f := &floor{y: y, cmd: exec.Command("/proc/self/exe")}
	f.cmd.Env = append(y.env, asFloor+"="+y.path)
	f.cmd.Stdout = y.out
	f.cmd.Stderr = os.Stderr
	in, err := f.cmd.StdinPipe()
	if err != nil {
		y.Fatal(err)
	}
	answers, theirs, err := os.Pipe()
	if err != nil {
		y.Fatal(err)
	}
	f.cmd.ExtraFiles = []*os.File{theirs}
	if err := f.cmd.Start(); err != nil {
		y.Fatal(err)
	}
	theirs.Close()
	f.in, f.says = in, bufio.NewReader(answers)
	y.Cleanup(func() { answers.Close() })
	f.answer() // it is there
	return f
}

func (f *floor) tell(format string, args ...any) { fmt.Fprintf(f.in, format+"\n", args...) }

func (f *floor) answer() (took time.Duration) {
	f.y.Helper()
	if _, err := fmt.Fscanln(f.says, &took); err != nil {
		f.y.Fatalf("the floor's answer: %v", err)
	}
	return took
}

// close ends it and, after that, what it has run last.
func (f *floor) close(pids ...int) {
	f.cmd.Process.Kill()
	f.cmd.Wait()
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// beFloor is the floor's end of it.
func beFloor(program string) {
	answers := os.NewFile(3, "answers")
	unix.CloseOnExec(3)
	spawn := func() int {
		pid, err := syscall.ForkExec(program, []string{program}, &syscall.ProcAttr{
			Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			fmt.Fprintf(os.Stderr, "floor: %v\n", err)
			os.Exit(1)
		}
		return pid
	}
	wait := func(pid int) {
		for {
			if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
				return
			}
		}
	}
	fmt.Fprintln(answers, 0)
	var pids []int
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "loop":
			for {
				wait(spawn())
			}
		case "watch":
			watched, err := unix.InotifyInit1(unix.IN_CLOEXEC)
			if err == nil {
				_, err = unix.InotifyAddWatch(watched, rest, unix.IN_MOVED_TO)
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "floor: %v\n", err)
				os.Exit(1)
			}
			fmt.Fprintln(answers, 0)
			for buf := make([]byte, 4096); ; {
				unix.Read(watched, buf)
				spawn()
			}
		case "spawn":
			var count int
			fmt.Sscan(rest, &count)
			for range count {
				pids = append(pids, spawn())
			}
		case "end":
			begin := rundir.Clock()
			for _, pid := range pids {
				unix.Kill(pid, unix.SIGTERM)
			}
			for _, pid := range pids {
				wait(pid)
			}
			pids = nil
			fmt.Fprintln(answers, int64(rundir.Clock()-begin))
		}
	}
}

// spawns starts as many in a row and returns how long it took until the last
// one ran.
func (f *floor) spawns(count int) time.Duration {
	begin := rundir.Clock()
	f.tell("spawn %d", count)
	last, _ := f.y.next(count)
	return last - begin
}

// ends signals and reaps them and returns how long that took.
func (f *floor) ends() time.Duration {
	f.tell("end")
	return f.answer()
}
