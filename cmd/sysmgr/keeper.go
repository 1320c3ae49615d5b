package main

import (
	"context"
	"errors"
	"runtime/metrics"

	"sysmgr/internal/rundir"
)

// keeper is the actor that looks after the run directory and after our memory,
// every five seconds and when somebody knocks: what is gone of the directory
// is made anew, and what could not be published is tried again.
type keeper struct {
	claim   *rundir.Claim
	collect func(thoroughly bool) bool
	publish func(lost bool)
	renew   func()
	log     *journal

	told    bool   // the directory cannot be kept, and that was said
	garbage uint64 // bytes on the heap after the last collection
}

// run keeps until ctx is done.
func (k *keeper) run(ctx context.Context, look <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look:
			k.keep()
			k.tidy(true)
		case <-k.log.busy:
			k.tidy(false)
		}
	}
}

func (k *keeper) keep() {
	lost, err := k.claim.Keep()
	switch {
	case err != nil && !k.told:
		if errors.Is(err, rundir.ErrRunning) {
			err = errors.New("another sysmgr serves the directory that is there now")
		}
		k.log.report(adrift{err})
	case err == nil && (lost || k.told):
		k.log.report(rebuilt{})
		lost = true
	}
	k.told = err != nil
	if err == nil && lost {
		k.publish(true)
		k.renew()
	} else {
		k.publish(false)
	}
}

// tidy collects the garbage when there is enough of it: while there is much to
// do, as much again as was left the last time; every five seconds, less, and
// then what is free is given back to the kernel. At rest there is none. The
// runtime must not do that by itself: see Reaper.Collect.
func (k *keeper) tidy(rest bool) {
	enough := k.garbage + k.garbage/2 + 1<<20
	if rest {
		enough = k.garbage + k.garbage/8 + 512<<10
	}
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Uint64() < enough || !k.collect(rest) {
		return
	}
	metrics.Read(sample)
	k.garbage = sample[0].Value.Uint64()
}
