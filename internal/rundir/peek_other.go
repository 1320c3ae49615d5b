//go:build !linux

package rundir

import "golang.org/x/sys/unix"

func openBeneath(int, string) (fd int, err error, ok bool) { return -1, unix.ENOSYS, false }
