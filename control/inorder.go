package control

import (
	"slices"
	"time"

	"sysmgr/internal/needs"
	"sysmgr/internal/rundir"
)

// outliving is how long after KILL a service may live before nobody waits for
// its end any more.
const outliving = 250 * time.Millisecond

// InOrder lets each target be placed only after those that need it: directly,
// or by way of services that are not among the targets.
func InOrder(dir *rundir.Dir, targets []*Target) {
	byName := make(map[string]*Target, len(targets))
	graph := make(needs.Graph)
	var names []string
	for _, t := range targets {
		byName[t.Name] = t
		names = append(names, t.Name)
	}
	for next := slices.Clone(names); len(next) > 0; next = next[1:] {
		if _, seen := graph[next[0]]; seen {
			continue
		}
		graph[next[0]] = nil
		if v, err := Look(dir, next[0]); err == nil {
			graph[next[0]] = slices.Concat(v.Needs, v.Waiting)
			next = append(next, graph[next[0]]...)
		}
	}
	for name, dependents := range graph.Among(names).Dependents() {
		slices.Sort(dependents)
		for _, dependent := range dependents {
			byName[name].After = append(byName[name].After, byName[dependent])
		}
	}
}

// waits tells whether the time for the request has not come.
func (t *Target) waits() bool {
	return slices.ContainsFunc(t.After, func(first *Target) bool { return !first.yields() })
}

// yields tells whether nobody has to wait for this one any more.
func (t *Target) yields() bool {
	return t.done || t.view.Killed > 0 && rundir.Clock()-t.view.Killed >= outliving
}

// patience is when to look at a target that was sent KILL, if nothing changes;
// 0 if not again.
func (t *Target) patience() time.Duration {
	if t.view.Killed == 0 || t.yields() {
		return 0
	}
	return outliving - (rundir.Clock() - t.view.Killed)
}
