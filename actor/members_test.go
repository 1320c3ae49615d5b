package actor

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// A service is found by its name as long as it is one of the members, and they
// are in the order of their names.
func TestAMemberIsFoundByItsName(t *testing.T) {
	var all members
	model := make(map[string]*Service)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		name := strconv.Itoa(r.IntN(300))
		if model[name] != nil {
			all.remove(name)
			delete(model, name)
			continue
		}
		model[name] = &Service{name: name}
		all.add(model[name])
	}
	all.remove("nobody")
	for n := range 300 {
		name := strconv.Itoa(n)
		if m, ok := all.get(name); m.service != model[name] || ok != (model[name] != nil) {
			t.Fatalf("%s: got %v %v, want %v", name, m.service, ok, model[name])
		}
	}
	if sorted := slices.IsSortedFunc(all, func(a, b member) int { return cmp.Compare(a.service.name, b.service.name) }); !sorted || len(all) != len(model) {
		t.Errorf("got %d members, sorted: %v; want %d, sorted", len(all), sorted, len(model))
	}
}
