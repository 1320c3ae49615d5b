//go:build linux

package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// folder is that of a service, as the daemon and the tools have it.
func (w *world) folder(name string) *rundir.Folder {
	w.t.Helper()
	f, err := w.dir.MakeFolder(name)
	w.must(err)
	w.t.Cleanup(f.Close)
	return f
}

func TestWhatAServiceSaysOfItselfIsToldAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	f := w.folder("web")
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"ready", func() error { return os.WriteFile(w.path("web", rundir.Ready), nil, 0o644) }},
		{"whom it waits for", func() error { return f.Write(rundir.Waiting, []byte("db\n")) }},
		{"and for others", func() error { return f.Write(rundir.Waiting, []byte("dns\n")) }},
		{"a number moved to its pid file", func() error { return f.Write(rundir.Pid, []byte("4711\n")) }},
		{"a number written into it", func() error { return os.WriteFile(w.path("web", rundir.Pid), []byte("4712\n"), 0o644) }},
	} {
		w.must(step.do())
		w.expect("said web")
		if t.Failed() {
			t.Fatal(step.what)
		}
	}
	// No message is a request.
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.messages {
		if m.Said && m.Request != (Request{}) {
			t.Errorf("got %+v, want no request in it", m)
		}
	}
}

// What the daemon does at each start and stop, and what sysmgr-depends writes
// besides, concerns no actor.
func TestOrdinaryStartsAndStopsRingNobody(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	f := w.folder("web")
	for i := range 3 {
		w.must(errors.Join(
			f.WriteNew(rundir.Pid, rundir.PidLine(100+i)),
			f.WriteNew(rundir.Syspid, rundir.PidLine(100+i)),
			f.Replace(rundir.State, []byte("phase up\n")),
			os.WriteFile(w.path("web", rundir.StopSignal), []byte("INT\n"), 0o644),
			f.WriteWait(rundir.Wait{Calls: 1}),
			f.Write(rundir.Needs, []byte("db\n")),
			f.Remove(rundir.Pid, rundir.Syspid, rundir.StopSignal, rundir.Needs, rundir.Waited),
			f.Replace(rundir.State, []byte("phase down\n"))))
		w.quiet()
	}
}

// Before a folder is watched nobody hears what is written into it.
func TestWhatWasSaidBeforeAnybodyListenedIsTold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, content, want string }{
		{rundir.Ready, "", "said web"},
		{rundir.Waiting, "db\n", "said web"},
		{rundir.Pid, "4711\n", "said web 4711"}, // for whoever knows another number
		{rundir.Pid, "nonsense\n", "said web"},
		{rundir.Needs, "db\n", ""},
	} {
		w := newWorld(t)
		w.must(w.folder("web").Write(c.file, []byte(c.content)))
		w.run().control.Attend("web")
		w.expect("released web")
		if c.want != "" {
			w.expect(c.want)
		}
		w.publish("web")
		w.quiet()
	}
}

// rm -r of the folder takes what is in it one after the other.
func TestWhatIsTakenBackIsToldInAMoment(t *testing.T) {
	t.Parallel()
	w := start(t, "web")
	f := w.folder("web")
	w.must(f.WriteNew(rundir.Pid, rundir.PidLine(101)))
	for _, file := range []string{rundir.Ready, rundir.Waiting} {
		w.must(f.Write(file, []byte("db\n")))
		w.expect("said web")
		began := time.Now()
		w.must(f.Remove(file))
		w.expect("said web 101")
		if took := time.Since(began); took < blink {
			t.Errorf("%s: told after %v, want %v at least", file, took, blink)
		}
	}
	w.must(f.Remove(rundir.Pid))
	w.must(f.Write(rundir.Ready, nil))
	w.expect("said web")
	w.must(f.Remove(rundir.Ready))
	w.expect("said web") // although there is no number to compare

	w.must(f.Write(rundir.Ready, nil))
	w.expect("said web")
	w.must(os.RemoveAll(filepath.Join(w.dir.Path(), "web")))
	// Not before this is known. After it, that ready is gone may be heard late, if
	// the folder was found to be another one by a look that was due: no harm then.
	w.expect("start web lost")
	time.Sleep(2 * blink)
	for m, ok := w.next(""); ok; m, ok = w.next("") {
		if !m.Said {
			t.Errorf("got %q, want nothing but that there may be words", text(m))
		}
	}
	w.quiet()
}

// manual is a Control that does nothing by itself, and what it delivers.
func manual(t *testing.T) (w *world, delivered func() string) {
	w = newWorld(t)
	var err error
	w.control.watcher, err = watch.New(nil)
	w.must(err)
	t.Cleanup(w.control.watcher.Close)
	return w, func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		words := make([]string, len(w.messages))
		for i, m := range w.messages {
			words[i] = text(m)
		}
		w.messages = nil
		return strings.Join(words, ", ")
	}
}

func TestFolderThatIsMadeAnewIsListenedTo(t *testing.T) {
	t.Parallel()
	w, delivered := manual(t)
	w.control.Attend("web")
	w.control.answer()
	if got, want := delivered(), "released web"; got != want {
		t.Fatalf("at first: got %q, want %q", got, want)
	}
	w.must(os.RemoveAll(filepath.Join(w.dir.Path(), "web")))
	w.must(w.folder("web").Write(rundir.Ready, nil)) // its actor and its service have been quick
	w.control.look("web")
	if got, want := delivered(), "start web lost, released web, said web"; got != want {
		t.Errorf("made anew: got %q, want %q", got, want)
	}
	w.control.look("web")
	if got, want := delivered(), "released web"; got != want {
		t.Errorf("looked at once more: got %q, want %q", got, want)
	}

	// So is one in a run directory that is another one, which is no order.
	w.must(os.RemoveAll(filepath.Join(w.dir.Path(), "web")))
	w.must(w.folder("web").Write(rundir.Waiting, []byte("db\n")))
	w.control.Renew()
	w.control.answer()
	w.control.look("web")
	if got, want := delivered(), "released web, said web"; got != want {
		t.Errorf("in another run directory: got %q, want %q", got, want)
	}
}

func TestAfterEventsWereLostEveryServiceIsAsked(t *testing.T) {
	t.Parallel()
	w, delivered := manual(t)
	for i := range 3 {
		w.control.Attend(fmt.Sprint("s", i))
	}
	w.control.answer()
	delivered()
	w.control.rings(watch.News{All: true, Lost: true})
	got := delivered()
	for i := range 3 {
		if want := fmt.Sprint("said s", i); strings.Count(got, want) != 1 {
			t.Errorf("got %q, want %q in it, once", got, want)
		}
	}

	w.control.polls = true // and then that is no news at all
	w.must(w.folder("s0").Write(rundir.Ready, nil))
	k, _ := w.control.own("s0")
	k.unheard = true
	w.control.rings(watch.News{All: true})
	if got := delivered(); strings.Contains(got, "said") {
		t.Errorf("polling: got %q, want nothing said", got)
	}
}
