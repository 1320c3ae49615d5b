package actor

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// transitions calls do with each event in each state that Step may meet.
func transitions(do func(what string, s State, e Event)) {
	at := Moment(1000 * time.Second)
	for _, p := range Phases {
		for _, w := range Wants {
			s := State{Phase: p, Want: w, Since: at.Add(-2 * time.Second), Due: at}
			if p == Up || p == Stopping {
				s.Pid, s.Group, s.KillAt = 7, 7, at.Add(time.Second)
			}
			for _, k := range Kinds {
				e := Event{Kind: k, At: at, Pid: 7, Signal: unix.SIGHUP, Cause: "why", Waited: 2 * time.Second,
					Manner: rundir.Manner{Signal: unix.SIGTERM, Grace: time.Second}}
				for _, status := range []syscall.WaitStatus{1 << 8, syscall.WaitStatus(unix.SIGKILL), syscall.WaitStatus(unix.SIGSEGV) | 0x80} {
					e.Exit = status
					do(fmt.Sprintf("%s/%s %s", p, w, k), s, e)
				}
				for _, e.Refusal = range Refusals {
					do(fmt.Sprintf("%s/%s %s", p, w, k), s, e)
				}
			}
		}
	}
}

// Each transition, the end of a process with its words among them.
func TestStepAllocatesNothing(t *testing.T) {
	transitions(func(what string, s State, e Event) {
		if n := testing.AllocsPerRun(10, func() { Step(s, e) }); n != 0 {
			t.Errorf("%s: got %v allocations, want none", what, n)
		}
	})
}

func BenchmarkStep(b *testing.B) {
	type transition struct {
		s State
		e Event
	}
	var all []transition
	transitions(func(_ string, s State, e Event) { all = append(all, transition{s, e}) })
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		Step(all[i].s, all[i].e)
		i = (i + 1) % len(all)
	}
}

// BenchmarkSnapshot is what the supervisor does with a snapshot of a thousand
// entries, one of which has changed.
func BenchmarkSnapshot(b *testing.B) {
	dir, err := rundir.Create(filepath.Join(b.TempDir(), "run"))
	if err != nil {
		b.Fatal(err)
	}
	config := &Config{Rundir: dir, Report: func(Fact) {}, Debug: func() bool { return false }}
	v := NewSupervisor(config)
	entries := make([]Entry, 1000)
	for i := range entries {
		entries[i] = Entry{Name: fmt.Sprintf("s%04d", i), Stamp: uint64(i), File: File{Ino: uint64(i + 1)}}
		// Nobody is at work for them.
		s := NewService(config, entries[i].Name, "")
		s.told, s.file = entries[i].told(""), entries[i].File.file()
		v.services.add(s)
	}
	b.ReportAllocs()
	for stamp := 0; b.Loop(); stamp++ {
		entries[0].Stamp = uint64(stamp)
		v.found(entries)
		if changed := v.services[0].service; len(changed.mail.take()) > 0 {
			<-changed.news
		}
	}
}
