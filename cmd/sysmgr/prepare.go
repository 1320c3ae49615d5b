package main

import (
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
)

// prepare sets up the runtime for a program that forks, and that lives when
// its machine is short of everything.
func prepare() {
	runtime.GOMAXPROCS(min(runtime.NumCPU(), fewProcessors)) // until something is started: see reaper
	// The garbage is collected by the keeper, which knows when: between forks,
	// where that matters. Should one hang for so long that the memory grows to
	// this, it is time for a collection all the same.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(256 << 20)
	makeThreads()
}

// fewest is how many descriptors we have to be allowed: some twenty of our own,
// and two for each start that is under way where that takes a pipe.
const fewest = 64

// tooFew tells whether we are not, and how many we are. The Go runtime has
// raised the soft limit to the hard one already.
func tooFew() (uint64, bool) {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0, false
	}
	return uint64(limit.Cur), uint64(limit.Cur) < fewest
}

// fewProcessors is how many processors of the runtime there are as long as
// nothing has been started; each costs memory.
const fewProcessors = 2

// spareThreads is how many threads there are from the beginning. The runtime
// makes threads when it needs them, and when it cannot (RLIMIT_NPROC, a
// cgroup's pids.max) it ends the program: it must not need more.
const spareThreads = 12

// makeThreads makes them: a goroutine that has locked its thread keeps it while
// it waits, and the next one needs another. The runtime keeps them afterwards.
func makeThreads() {
	var ready, done sync.WaitGroup
	enough := make(chan struct{})
	for range spareThreads {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			<-enough
		})
	}
	ready.Wait()
	close(enough)
	done.Wait()
}
