package main

import (
	"context"
	"errors"
	"runtime/metrics"

	"sysmgr/internal/rundir"
)

// keeper is the actor that looks after the run directory and after our memory,
// when somebody knocks: at each slow check of the scanner, and at once when
// something is removed there. What is gone of the directory is made anew, and
// what could not be published is tried again. As long as anything is left to do
// it stirs, so that the next knock comes within five seconds.
type keeper struct {
	claim   *rundir.Claim
	collect func(thoroughly bool) bool
	publish func(lost bool) (silent bool)
	renew   func()
	hold    func() // lets no folder be looked at
	resume  func() // until then
	stir    func()
	log     *journal

	told    bool   // the directory cannot be kept, and that was said
	garbage uint64 // what was occupied after the last collection
}

// run keeps until ctx is done.
func (k *keeper) run(ctx context.Context, look <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look:
			kept, tidy := k.keep(), k.tidy(true)
			if !kept || !tidy {
				k.stir()
			}
		case <-k.log.busy:
			k.tidy(false)
		}
	}
}

// keep tells whether all is there, and published. No folder is looked at from
// the moment that another directory is in the place of the one that was lost
// until it is said that its folders are others: one that is another is an order.
func (k *keeper) keep() bool {
	k.hold()
	defer k.resume()
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
		return false // until it has been looked at once more
	}
	return !k.publish(false) && err == nil
}

// tidy collects the garbage when there is enough of it: while there is much to
// do, an eighth of what was left the last time, because what the runtime needs to
// keep account of its memory never becomes less again, but nothing as long as all
// is small, because it needs more with each of the first few collections; at a
// knock, less, and then what is free is given back to the kernel. At rest there is
// none. The runtime must not do that by itself: see Reaper.Collect. It tells whether
// it is done with: while a process is made, nothing can be collected.
func (k *keeper) tidy(rest bool) bool {
	enough := max(k.garbage+k.garbage/8+1<<20, small)
	if rest {
		enough = k.garbage + k.garbage/64 + 128<<10
	}
	if occupied() < enough && !(rest && spare() > 2<<20) {
		return true
	}
	before := occupied()
	if !k.collect(rest) {
		return false
	}
	k.garbage = occupied()
	if rest && before > k.garbage+512<<10 {
		// Some of it goes only with the next: what is in a sync.Pool, and half
		// of what was half of a stack that is too large (the runtime's shrinkstack).
		k.collect(rest)
		k.garbage = occupied()
	}
	return true
}

// small is how much may be occupied before there is a collection in a busy time.
const small = 16 << 20

// spare is how many bytes are free and not given back to the kernel: what a
// collection in a busy time has left.
func spare() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// occupied is how many bytes the heap and the stacks of goroutines take up. A
// stack that grew while its service was started shrinks in a collection.
func occupied() (bytes uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	for _, sample := range samples {
		bytes += sample.Value.Uint64()
	}
	return bytes
}
