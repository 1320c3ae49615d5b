package main

import (
	"slices"

	"sysmgr/control"
	"sysmgr/internal/rundir"
)

// grow makes of rows those of a tree: below each service those that it needs
// or waits for, deeper by one. Those that rows names stand at the top; when
// they are all there are, only those that nobody needs. A service whose needs
// are shown already is shown without them.
func (s *session) grow(rows []row, all, running bool) []row {
	known := make(map[string]row, len(rows))
	for _, r := range rows {
		known[r.name] = r
	}
	needs := func(r row) []string {
		return slices.Concat(r.view.Waiting, slices.DeleteFunc(slices.Clone(r.view.Needs), func(need string) bool {
			return slices.Contains(r.view.Waiting, need)
		}))
	}
	needed := make(map[string]bool)
	for _, r := range rows {
		for _, need := range needs(r) {
			needed[need] = need != r.name || needed[need]
		}
	}
	var tree []row
	shown := make(map[string]bool)
	var show func(name string, depth int)
	show = func(name string, depth int) {
		r, ok := known[name]
		if !ok {
			r = s.needed(name, running)
			known[name] = r
		}
		r.depth = depth
		again := shown[name]
		shown[name] = true
		if s.json && again {
			return
		}
		r.above = again && len(needs(r)) > 0
		tree = append(tree, r)
		if again {
			return
		}
		for _, need := range needs(r) {
			show(need, depth+1)
		}
	}
	for _, r := range rows {
		if !all || !needed[r.name] {
			show(r.name, 0)
		}
	}
	for _, r := range rows { // circles have no top
		if !shown[r.name] {
			show(r.name, 0)
		}
	}
	return tree
}

// needed is the row of a service that only others have named.
func (s *session) needed(name string, running bool) row {
	r := s.row(name, running, make([]byte, rundir.MaxFile+1))
	if r.err != nil {
		cause := r.err.Error()
		r = row{name: name, pending: true, stale: !running}
		r.view = control.View{Status: rundir.Status{Phase: rundir.Down, Wanted: rundir.Down, Cause: cause, Clock: rundir.Clock()}}
	}
	return r
}
