package control

import (
	"os"
	"testing"

	"sysmgr/internal/rundir"
)

// settled is a control actor that attends to web, and has no reason to look at it
// again by itself, however long a test takes: its status was there before.
func settled(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	f, err := w.dir.MakeFolder("web")
	w.must(err)
	f.Close()
	w.publish("web")
	w.run().control.Attend("web")
	w.expect("released web")
	w.quiet()
	return w
}

// heeding is the folder of a service, open as its actor has it.
func (w *world) heeding(name string) *rundir.Folder {
	w.t.Helper()
	f, err := w.dir.Folder(name)
	w.must(err)
	w.t.Cleanup(f.Close)
	return f
}

// deaf fails the test if what is written into the folder while it is mute is
// heard all the same: then what a test shows about Heed is worth nothing.
func (w *world) deaf(name string, change func()) {
	w.t.Helper()
	w.control.Mute(name)
	change()
	w.quiet()
}

func TestWhatCameWhileNobodyListenedIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(w *world)
		want   string
	}{
		"a request":        {func(w *world) { w.put("web", rundir.Control, "restart a\n") }, "restart web #a"},
		"one taken before": {func(w *world) { w.put("web", rundir.Taken, "restart a\n") }, "restart web #a"},
		"a lock":           {func(w *world) { w.put("web", rundir.Lock, "TERM\n") }, "stop web lock"},
		"it is ready":      {func(w *world) { w.put("web", rundir.Ready, "") }, "said web"},
		"it waits":         {func(w *world) { w.put("web", rundir.Waiting, "db\n") }, "said web"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := settled(t)
			w.deaf("web", func() { c.change(w) })
			w.control.Heed("web", w.heeding("web"), false)
			w.expect(c.want)
			w.quiet()
		})
	}
}

// A lock that is not there any more does not show in the folder.
func TestALockRemovedWhileNobodyListenedIsMissed(t *testing.T) {
	t.Parallel()
	w := settled(t)
	w.put("web", rundir.Lock, "once\n")
	w.expect("once web lock")
	w.deaf("web", func() { w.must(os.Remove(w.path("web", rundir.Lock))) })
	w.control.Heed("web", w.heeding("web"), false)
	w.expect("released web")
	w.quiet()
}

// The actor has read one that came and went again while nobody listened: for it
// the service is held.
func TestALockThatOnlyTheActorHasSeenIsMissed(t *testing.T) {
	t.Parallel()
	w := settled(t)
	w.deaf("web", func() {})
	w.control.Heed("web", w.heeding("web"), true)
	w.expect("released web")
}

// What rm -r has removed before it met a new file is an order all the same.
func TestAStatusRemovedWhileNobodyListenedIsMissed(t *testing.T) {
	t.Parallel()
	w := settled(t)
	w.deaf("web", func() { w.must(os.Remove(w.path("web", rundir.State))) })
	w.control.Heed("web", w.heeding("web"), false)
	w.expect("released web lost")
}

func TestWithoutAFolderToLookInHeedHasItLookedAt(t *testing.T) {
	t.Parallel()
	w := settled(t)
	w.deaf("web", func() { w.put("web", rundir.Control, "restart a\n") })
	w.control.Heed("web", nil, false)
	w.expect("said web", "restart web #a")
}

// Or every start would cost a look.
func TestHeedWakesNobodyForNothing(t *testing.T) {
	c, f, _ := hearing(t)
	c.Mute("web")
	c.Heed("web", f, false)
	if len(c.calls) != 0 {
		t.Errorf("calls: got %+v, want none", c.calls)
	}
	if err := f.Write(rundir.Lock, []byte("TERM\n")); err != nil {
		t.Fatal(err)
	}
	c.look("web")
	c.Forget("web")
	c.answer()
	if len(c.locked) != 0 {
		t.Errorf("locks known of a service that is forgotten: got %v, want none", c.locked)
	}
}

// A look hears in the middle of it that another is asked for.
func TestAFolderMadeAnewIsAnOrderAlthoughAnotherLookIsDue(t *testing.T) {
	c, dir, got := attending(t)
	for range 2 {
		f, err := dir.MakeFolder("db")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Write(rundir.State, []byte("phase up\n")); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if !c.attended.has("db") {
			c.Attend("db")
			c.answer()
			*got = nil
			if err := os.RemoveAll(f.Path()); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.call(call{name: "db", heard: order})
	c.look("db")
	if len(*got) == 0 || text((*got)[0]) != "start db lost" {
		t.Errorf("got %+v, want an order to start", *got)
	}
}

// What is gone of one folder is not gone of all that are like it.
func TestWhatIsTakenBackIsTakenBackByOneService(t *testing.T) {
	c, dir, _ := attending(t)
	for _, name := range []string{"a", "b"} {
		f, err := dir.MakeFolder(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Write(rundir.State, []byte("phase up\n")); err != nil {
			t.Fatal(err)
		}
		f.Close()
		c.Attend(name)
	}
	c.answer()
	c.hear("a", unsaid)
	if k := c.folders["b"]; k != nil || plain != (folder{status: true}) {
		t.Errorf("got %+v, plain %+v; want neither changed", k, plain)
	}
	if k := c.folders["a"]; k.pending == nil || !k.more {
		t.Errorf("got %+v, want it to know", *k)
	}
}
