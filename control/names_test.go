package control

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// A name is on the list from when it is added until it is removed, once, however
// often it was added.
func TestANameIsOnTheListUntilItIsRemoved(t *testing.T) {
	var all names
	model := make(map[string]bool)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		name := strconv.Itoa(r.IntN(300))
		if r.IntN(3) == 0 {
			all.remove(name)
			delete(model, name)
		} else {
			all.add(name)
			model[name] = true
		}
	}
	for n := range 300 {
		if name := strconv.Itoa(n); all.has(name) != model[name] {
			t.Errorf("%s: got %v, want %v", name, all.has(name), model[name])
		}
	}
	if !slices.IsSorted(all) || len(all) != len(model) {
		t.Errorf("got %d, sorted: %v; want %d, sorted", len(all), slices.IsSorted(all), len(model))
	}
}
