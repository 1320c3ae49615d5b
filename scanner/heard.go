package scanner

import (
	"sync"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// heard is the names that the watch told of since the last look.
type heard struct {
	mu    sync.Mutex // between the watcher's goroutine and Run
	names []string
}

// few is how many names are worth a look at each before the directory is read.
const few = 16

// hear takes a name from the watcher. There is no use in knowing all of many.
func (h *heard) hear(name string, _ watch.Change) watch.Mark {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.names) <= few {
		h.names = append(h.names, name)
	}
	return watch.Rings
}

// take returns the names and forgets them.
func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := h.names
	h.names = nil
	return names
}

// glance looks at entries that were heard of before anything else is looked at,
// and tells early of them. It tells whether the directory need not be read at
// once: nothing has happened but that services have come that nobody knew. As
// soon as anything else is among them, none is told of: what it means that
// one has come may be known only together with what has gone.
func (s *Scanner) glance(names []string) bool {
	if s.config.Early == nil || s.lost || len(names) == 0 || len(names) > few {
		return false
	}
	for _, name := range names {
		if s.known.has(name) || rundir.Ignored(name) || rundir.CheckName(name) != nil {
			return false
		}
	}
	entries := s.look(names, s.entry)
	for _, e := range entries {
		if e.Name == "" || e.patience() > 0 {
			return false
		}
	}
	for _, e := range entries {
		s.config.Early(e)
		s.known.set(seen{entry: e})
	}
	s.owed = true
	return true
}
