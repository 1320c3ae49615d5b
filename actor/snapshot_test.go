package actor

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Entries come, go, come back and are renamed, all at any time: also while the
// services they had are still being stopped. In the end what is there runs, and
// nothing else, and no service ran twice at any time. What waited has not been
// forgotten, nor is it remembered for ever.
func TestWhateverComesAndGoesTheLastSnapshotHolds(t *testing.T) {
	for round := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(round, 1))
			b := newBench(t)
			v, stop := b.supervise()
			names, files := []string{"a", "b", "c", "d"}, []string{"1", "2", "3", "4"}
			var missing []string
			for range 12 {
				b.kernel.mu.Lock()
				b.kernel.stopTime = time.Duration(r.IntN(3)) * time.Second
				b.kernel.mu.Unlock()
				r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
				var now, gone []string
				for i, name := range names {
					if r.IntN(2) == 0 {
						now = append(now, name+":"+files[i])
					}
				}
				snapshot := entries(now...)
				// As the scanner does, what has just gone may be told of as missing.
				for _, e := range missing {
					if name := e[:1]; r.IntN(2) == 0 && !slices.ContainsFunc(now, func(s string) bool { return s[:1] == name }) {
						gone = append(gone, e)
					}
				}
				for _, e := range entries(gone...) {
					e.Gone = true
					snapshot = append(snapshot, e)
				}
				missing = now
				v.Found(snapshot)
				time.Sleep(time.Duration(r.IntN(4)) * 500 * time.Millisecond)
			}
			v.Found(entries(missing...))
			time.Sleep(time.Minute)
			synctest.Wait()

			var want, got []string
			for _, e := range missing {
				want = append(want, e[:1])
			}
			for _, p := range b.kernel.running {
				got = append(got, p.name)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("round %d: got %v, want %v", round, got, want)
			}
			if b.kernel.twins > 0 {
				t.Errorf("round %d: %d starts beside another", round, b.kernel.twins)
			}
			if len(v.waiting) > 0 || v.renamed > 0 || len(v.services) != len(want) {
				t.Errorf("round %d: %d wait, %d renamed, %d services; want none, none, %d", round, len(v.waiting), v.renamed, len(v.services), len(want))
			}
			stop()
		})
	}
}
