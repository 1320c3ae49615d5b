package watch

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// A key has one watch and a watch has one key, whatever came and went before;
// what went leaves nothing behind, however long that goes on.
func TestAWatchAndItsKeyFindEachOther(t *testing.T) {
	var w watches
	keys, wds := make(map[int32]string), make(map[string]int32)
	r := rand.New(rand.NewPCG(1, 2))
	next := int32(0)
	for range 20000 {
		wd, key := r.Int32N(next+2), strconv.Itoa(r.IntN(100))
		switch r.IntN(3) {
		case 0:
			w.drop(wd)
			delete(wds, keys[wd])
			delete(keys, wd)
			continue
		case 1:
			next++
			wd = next
		}
		w.set(wd, key)
		delete(keys, wds[key])
		delete(wds, keys[wd])
		keys[wd], wds[key] = key, wd
	}
	for wd := range next + 2 {
		got, ok := w.key(wd)
		if want, known := keys[wd]; got != want || ok != known {
			t.Fatalf("watch %d: got %q %v, want %q %v", wd, got, ok, want, known)
		}
	}
	for key, want := range wds {
		if got, ok := w.wd(key); got != want || !ok {
			t.Fatalf("key %s: got %d %v, want %d", key, got, ok, want)
		}
	}
	if _, ok := w.wd("nobody"); ok {
		t.Error("a key that was never given has a watch")
	}
	if w.len() != len(keys) || len(w.byWd) != len(keys) || len(w.byKey) != len(keys) || cap(w.all) > 200 {
		t.Errorf("got %d, %d and %d of %d, want %d of no more than 200", w.len(), len(w.byWd), len(w.byKey), cap(w.all), len(keys))
	}
}
