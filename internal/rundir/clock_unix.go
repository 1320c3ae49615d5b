//go:build !netbsd

package rundir

import "golang.org/x/sys/unix"

const clockMonotonic = unix.CLOCK_MONOTONIC
