package rig

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inside is set in the environment of a test program that has been put into a
// namespace.
const inside = "SYSMGR_RIG_INSIDE"

// Main is for TestMain. It runs the tests in a PID namespace of their own, if
// we are root and the kernel lets us, and removes what was built for them.
// Then it calls what is to be done after the tests.
func Main(m *testing.M, after ...func()) {
	enter()
	code := m.Run()
	for _, do := range after {
		do()
	}
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// enter executes this program again as process 2 of a namespace. Process 1 is
// a shell, because somebody has to reap orphans. When the outermost process
// dies, by a time-out of go test for example, so does everything inside.
func enter() {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		return
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return
	}
	args := []string{unshare, "--pid", "--fork", "--mount-proc", "--kill-child", "--"}
	if err := exec.Command(unshare, append(args[1:], "true")...).Run(); err != nil {
		fmt.Fprintf(os.Stderr, "no PID namespace for the tests: unshare: %v\n", err)
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	args = append(args, "sh", "-c", `"$@"; exit $?`, "sh", self)
	err = syscall.Exec(unshare, append(args, os.Args[1:]...), append(os.Environ(), inside+"=1"))
	fmt.Fprintf(os.Stderr, "no PID namespace for the tests: %v\n", err)
}
