// Package needs is the little arithmetic there is about who needs whom: in
// which order services are stopped, and who waits for himself in the end.
//
// It is no dependency manager. It knows names and nothing of services, starts
// nothing and reads no files: the actor (for a shutdown), svctl (for a stop)
// and sysmgr-depends (for circles) ask it.
package needs

import (
	"maps"
	"slices"
)

// Graph says whom each service needs. Names that are needed but are no keys
// belong to services that are not part of it; they are passed over.
type Graph map[string][]string

// Dependents maps each service to those that have to be stopped before it,
// because they need it: directly, for the others come before these. Services
// that need each other in a circle have no order among them, and are needed by
// whoever needs one of them.
func (g Graph) Dependents() map[string][]string {
	rings := g.rings()
	members := make(map[int][]string)
	for name := range g {
		members[rings[name]] = append(members[rings[name]], name)
	}
	before := make(map[string][]string)
	for name, needs := range g {
		told := map[int]bool{rings[name]: true}
		for _, need := range needs {
			if _, ok := g[need]; !ok || told[rings[need]] {
				continue
			}
			told[rings[need]] = true
			for _, member := range members[rings[need]] {
				before[member] = append(before[member], name)
			}
		}
	}
	return before
}

// Among is the graph of some of its services: one needs another there if it
// does so here, directly or by way of services that are not among them.
func (g Graph) Among(names []string) Graph {
	among := make(Graph, len(names))
	for _, name := range names {
		among[name] = nil
	}
	for _, name := range names {
		seen := map[string]bool{name: true}
		for next := slices.Clone(g[name]); len(next) > 0; next = next[1:] {
			if seen[next[0]] {
				continue
			}
			seen[next[0]] = true
			if _, ok := among[next[0]]; ok {
				among[name] = append(among[name], next[0])
			} else {
				next = append(next, g[next[0]]...)
			}
		}
	}
	return among
}

// Circle returns the shortest way from a service back to itself, which stands
// at both ends of it; nil if there is none.
func (g Graph) Circle(name string) []string {
	from := make(map[string]string) // the way here, breadth first
	for next := []string{name}; len(next) > 0; next = next[1:] {
		for _, need := range g[next[0]] {
			if need == name {
				circle := []string{name}
				for at := next[0]; at != name; at = from[at] {
					circle = append(circle, at)
				}
				circle = append(circle, name)
				slices.Reverse(circle)
				return circle
			}
			if _, seen := from[need]; !seen {
				from[need] = next[0]
				next = append(next, need)
			}
		}
	}
	return nil
}

// Ring is the part of the graph that a service shares circles with: itself and
// all that it needs and that need it, by whatever way. It is empty if the
// service is in no circle.
func (g Graph) Ring(name string) Graph {
	if g.Circle(name) == nil {
		return nil
	}
	rings := g.rings()
	ring := make(Graph)
	for other := range g {
		if rings[other] == rings[name] {
			ring[other] = slices.DeleteFunc(slices.Clone(g[other]), func(need string) bool {
				_, ok := g[need]
				return !ok || rings[need] != rings[name]
			})
		}
	}
	return ring
}

// rings gives services the same number exactly if each needs the other, by
// whatever way (Tarjan, 1972: strongly connected components).
func (g Graph) rings() map[string]int {
	t := tarjan{graph: g, index: make(map[string]int), low: make(map[string]int), ring: make(map[string]int)}
	for _, name := range slices.Sorted(maps.Keys(g)) {
		if t.index[name] == 0 {
			t.visit(name)
		}
	}
	return t.ring
}

// tarjan is one run of the algorithm, in the words of its author.
type tarjan struct {
	graph Graph
	index map[string]int // the order of the visits, from 1
	low   map[string]int // the earliest still open that can be reached
	stack []string       // visited, but not yet in a ring
	ring  map[string]int
}

func (t *tarjan) visit(name string) {
	number := len(t.index) + 1
	t.index[name], t.low[name] = number, number
	t.stack = append(t.stack, name)
	for _, need := range t.graph[name] {
		if _, ok := t.graph[need]; !ok {
			continue
		}
		if t.index[need] == 0 {
			t.visit(need)
			t.low[name] = min(t.low[name], t.low[need])
		} else if t.ring[need] == 0 {
			t.low[name] = min(t.low[name], t.index[need])
		}
	}
	if t.low[name] != number {
		return
	}
	for last := ""; last != name; {
		end := len(t.stack) - 1
		last, t.stack = t.stack[end], t.stack[:end]
		t.ring[last] = number
	}
}
