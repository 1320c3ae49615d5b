package watch

import (
	"cmp"
	"slices"
)

// watches is which watch is whose. There may be very many: one list of them and
// two of their places in it, each sorted in its own way, take a third of what two
// maps do. The kernel numbers watches upwards, so that most are added at the end.
type watches struct {
	all   []watched
	byWd  []int32
	byKey []int32
}

type watched struct {
	key string
	wd  int32
}

func (w *watches) len() int { return len(w.all) }

// findWd is where in byWd a watch is, or would be, and findKey where in byKey.
func (w *watches) findWd(wd int32) (at int, found bool) {
	return slices.BinarySearchFunc(w.byWd, wd, func(i, wd int32) int { return cmp.Compare(w.all[i].wd, wd) })
}

func (w *watches) findKey(key string) (at int, found bool) {
	return slices.BinarySearchFunc(w.byKey, key, func(i int32, key string) int { return cmp.Compare(w.all[i].key, key) })
}

// key is whose a watch is.
func (w *watches) key(wd int32) (key string, ok bool) {
	at, ok := w.findWd(wd)
	if !ok {
		return "", false
	}
	return w.all[w.byWd[at]].key, true
}

// wd is the watch that a key has.
func (w *watches) wd(key string) (wd int32, ok bool) {
	at, ok := w.findKey(key)
	if !ok {
		return 0, false
	}
	return w.all[w.byKey[at]].wd, true
}

// set gives a watch to a key. What either had before is forgotten.
func (w *watches) set(wd int32, key string) {
	w.drop(wd)
	if old, ok := w.wd(key); ok {
		w.drop(old)
	}
	atWd, _ := w.findWd(wd)
	atKey, _ := w.findKey(key)
	w.byWd = slices.Insert(w.byWd, atWd, int32(len(w.all)))
	w.byKey = slices.Insert(w.byKey, atKey, int32(len(w.all)))
	w.all = append(w.all, watched{key, wd})
}

// drop forgets a watch. The last one takes its place.
func (w *watches) drop(wd int32) {
	atWd, ok := w.findWd(wd)
	if !ok {
		return
	}
	i, last := w.byWd[atWd], w.all[len(w.all)-1]
	atKey, _ := w.findKey(w.all[i].key)
	lastWd, _ := w.findWd(last.wd)
	lastKey, _ := w.findKey(last.key)
	w.byWd[lastWd], w.byKey[lastKey], w.all[i] = i, i, last
	w.byWd = slices.Delete(w.byWd, atWd, atWd+1)
	w.byKey = slices.Delete(w.byKey, atKey, atKey+1)
	w.all = slices.Delete(w.all, len(w.all)-1, len(w.all))
}
