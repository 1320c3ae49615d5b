//go:build !linux

package rundir

import "golang.org/x/sys/unix"

func replaceDescriptor(from, to int) error {
	err := unix.Dup2(from, to)
	unix.CloseOnExec(to)
	return err
}
