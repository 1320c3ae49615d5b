package rundir

import (
	"testing"
	"time"
)

func BenchmarkStatusEncode(b *testing.B) {
	s := Status{Phase: Up, Wanted: Up, Pid: 4711, Since: time.Now(), Clock: Clock(), Starts: 2, Restarts: 1, LastExit: "exit 1", Calls: -1}
	b.ReportAllocs()
	for b.Loop() {
		s.Encode()
	}
}

// Thousands are read for one list.
func BenchmarkParseStatus(b *testing.B) {
	s := Status{Phase: Up, Wanted: Up, Pid: 4711, Since: time.Now(), Clock: Clock(), Starts: 2, Restarts: 1, Calls: -1, Said: Said{Heard: true}}
	data := s.Encode()
	b.ReportAllocs()
	for b.Loop() {
		ParseStatus(data)
	}
}

func TestAnOrdinaryStatusIsReadWithoutGarbage(t *testing.T) {
	s := Status{Phase: Up, Wanted: Up, Pid: 4711, Since: time.Now(), Clock: Clock(), Starts: 2, Restarts: 1, Calls: 2, Said: Said{Heard: true}}
	data := s.Encode()
	if n := testing.AllocsPerRun(100, func() { ParseStatus(data) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func BenchmarkRecordEncode(b *testing.B) {
	r := Record{Name: "web", Phase: Up, Wanted: Up, Pid: 4711, Group: 4711, From: Clock(), To: Clock(), Since: Clock(), Starts: 1}
	var line [recordSize]byte
	b.ReportAllocs()
	for b.Loop() {
		r.encode(line[:0])
	}
}
