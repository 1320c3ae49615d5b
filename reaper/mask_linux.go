//go:build !(amd64 || arm64)

package reaper

import "golang.org/x/sys/unix"

// unblockSignals unblocks all signals in this thread. Most threads have none
// blocked: the runtime gives them the mask that the program was started with.
func unblockSignals() {
	var none, now unix.Sigset_t
	if unix.PthreadSigmask(unix.SIG_SETMASK, nil, &now) == nil && now != none {
		unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil)
	}
}
