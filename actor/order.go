package actor

import (
	"slices"

	"sysmgr/internal/needs"
	"sysmgr/internal/rundir"
)

// A shutdown stops a service when those that need it are gone. Until its turn
// comes a service runs on, so that the others can still use it while they
// stop; but nothing is started any more, and what does not run ends at once.

// farewell is the order of a shutdown. It belongs to the supervisor.
type farewell struct {
	left  map[string]int      // how many that need this one are still there
	after map[string][]string // whom this one needs
	told  map[string]bool     // services whose turn has come
	past  map[string]bool     // services that nobody waits for any more
}

func newFarewell(graph needs.Graph) *farewell {
	f := &farewell{
		left:  make(map[string]int, len(graph)),
		after: make(map[string][]string),
		told:  make(map[string]bool, len(graph)),
		past:  make(map[string]bool, len(graph)),
	}
	for name, dependents := range graph.Dependents() {
		f.left[name] = len(dependents)
		for _, dependent := range dependents {
			f.after[dependent] = append(f.after[dependent], name)
		}
	}
	return f
}

// turn tells whether the turn of a service has come, and then remembers it.
func (f *farewell) turn(name string) bool {
	if f.left[name] > 0 {
		return false
	}
	f.told[name] = true
	return true
}

// gone is called when a service has ended, or has outlived its KILL, and
// returns those whose turn has come by that.
func (f *farewell) gone(name string) (next []string) {
	if f.past[name] {
		return nil
	}
	f.past[name] = true
	for _, need := range f.after[name] {
		f.left[need]--
		if f.turn(need) {
			next = append(next, need)
		}
	}
	return next
}

// outlived says that a service was sent KILL and is still there.
type outlived struct{ name string }

// close begins the shutdown.
func (v *Supervisor) close() {
	v.closing = true
	for name := range v.past { // there was no snapshot yet
		v.add(Entry{Name: name}, "")
	}
	v.config.ending.Store(int64(len(v.services)))
	v.farewell = newFarewell(v.graph())
	for _, m := range v.services {
		if v.farewell.turn(m.service.name) {
			m.service.Shutdown()
		} else {
			m.service.part()
		}
	}
}

// onward goes on with the shutdown: nobody has to wait for this service any
// more.
func (v *Supervisor) onward(name string) {
	if !v.closing {
		return
	}
	for _, next := range v.farewell.gone(name) {
		if m, ok := v.services.get(next); ok {
			m.service.Shutdown()
		}
	}
}

// graph reads from the run directory whom each service needs or waits for. A
// service whose folder cannot be read has no order.
func (v *Supervisor) graph() needs.Graph {
	graph := make(needs.Graph, len(v.services))
	for _, m := range v.services {
		name := m.service.name
		graph[name] = nil
		if !v.config.Rundir.Holds(name, rundir.Needs) && !v.config.Rundir.Holds(name, rundir.Waiting) {
			continue
		}
		if f, err := v.config.Rundir.Folder(name); err == nil {
			graph[name] = slices.Concat(f.ReadNames(rundir.Needs), f.ReadNames(rundir.Waiting))
			f.Close()
		}
	}
	return graph
}

// parting is the message that a shutdown has begun and that this service's
// turn will come.
type parting struct{}

// part tells the service that. It does not block.
func (s *Service) part() { s.post(parting{}) }

// leave does not wait for the turn if there is nothing to wait for: the
// service does not run, or is being stopped already.
func (s *Service) leave() {
	if s.parting && !s.retired && s.state.Phase != Up && s.state.Want != WantGone {
		s.handle(Event{Kind: Shutdown}, false)
	}
}

// starts tells whether an order may begin a run.
func (o Order) starts() bool {
	switch o.Event.Kind {
	case Start, Once, Restart, Released:
		return true
	}
	return false
}
