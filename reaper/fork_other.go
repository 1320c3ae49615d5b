//go:build !linux || !(amd64 || arm64)

package reaper

import (
	"os"
	"runtime"
	"syscall"
)

// forksAtATime: a child has copies of all our descriptors until it has executed,
// among them the pipe by which another fork, begun a moment before, learns of
// the success of its own. If it hung, so would that one.
const forksAtATime = 1

// keepsProcessor says that a fork keeps its processor of the runtime until the
// child has executed, also if it hangs.
const keepsProcessor = true

// Enough is how many processors of the runtime a program needs that has a
// Reaper: one for each fork that hangs, and more.
func Enough() int { return mostForks + 2 }

// execute is fork(2) and execve(2). With a pid and an error it is that of a
// child that could not execute; here it has been waited for already, or been
// reaped.
func (r *Reaper) execute(path string, argv []string, command Command) (pid int, err error) {
	attr := &syscall.ProcAttr{
		Env:   command.Env,
		Files: []uintptr{r.null.Fd(), os.Stdout.Fd(), os.Stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if command.Mute {
		attr.Files[1], attr.Files[2] = r.null.Fd(), r.null.Fd()
	}
	if attr.Env == nil {
		attr.Env = []string{}
	}
	// A signal that is blocked in this thread would stay blocked in the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unblockSignals()
	pid, err = syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, err
	}
	return pid, nil
}

func replace(path string, argv, env []string) error { return syscall.Exec(path, argv, env) }

// learnLimits: syscall.ForkExec knows them.
func learnLimits() {}
