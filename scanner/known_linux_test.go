package scanner

import (
	"cmp"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"sysmgr/internal/watch"
)

// What is known of an entry is what was said of it last, wherever that is kept.
func TestWhatIsKnownIsWhatWasSaidLast(t *testing.T) {
	k, model := known{odd: make(map[string]seen)}, make(map[string]seen)
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		s := seen{entry: Entry{Name: strconv.Itoa(r.IntN(300)), Stamp: Stamp{Version: r.Uint64()}}}
		switch r.IntN(6) {
		case 0:
			s.missing = time.Unix(r.Int64N(1000), 0)
		case 1:
			s.entry.Bar = "is a directory"
		case 2:
			s.kept = true
		}
		k.set(s)
		model[s.entry.Name] = s
	}
	count := 0
	for s := range k.all() {
		count++
		if s != model[s.entry.Name] || s != k.get(s.entry.Name) {
			t.Fatalf("got %+v and %+v, want %+v", s, k.get(s.entry.Name), model[s.entry.Name])
		}
	}
	if count != len(model) || k.len() != len(model) {
		t.Errorf("got %d entries of %d, want %d", count, k.len(), len(model))
	}
	if !slices.IsSortedFunc(k.plain, func(a, b memory) int { return cmp.Compare(a.name, b.name) }) {
		t.Error("the plain ones are not sorted")
	}
	if k.has("nobody") || !k.has("7") {
		t.Error("it is not known who is known")
	}
}

// Others have the name of an entry too. However often the directory is read, it
// is the same bytes in memory, and not a copy that only the scanner has.
func TestANameIsNotReadASecondTime(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "web"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var sent []Entry
	s, err := New(Config{Dir: dir, Send: func(e []Entry) { sent = append(sent, e...) }, Report: func(Fact) {}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.first = true
		if s.watcher, err = watch.New(nil); err != nil {
			t.Fatal(err)
		}
		s.scan()
		s.watcher.Close()
	}
	if len(sent) != 2 || unsafe.StringData(sent[0].Name) != unsafe.StringData(sent[1].Name) {
		t.Errorf("got %v, want the same name twice", sent)
	}
}
