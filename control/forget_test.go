//go:build linux

package control

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// attending is a control actor that attends to web, without its goroutine, and
// what it has delivered.
func attending(t *testing.T) (*Control, *rundir.Dir, *[]Message) {
	t.Helper()
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	got := new([]Message)
	c := New(Config{
		Rundir:  dir,
		Deliver: func(m Message) { *got = append(*got, m) },
		Report:  func(Fact) {},
	})
	c.watcher, _ = watch.New(nil)
	t.Cleanup(func() { c.watcher.Close(); dir.Close() })
	c.Attend("web")
	c.answer()
	*got = nil
	return c, dir, got
}

// Its watch is gone then, as it is when somebody has removed the folder.
func TestServiceThatIsForgottenWasNotOrderedToStart(t *testing.T) {
	c, _, got := attending(t)
	c.Forget("web")
	c.look("web")
	if len(*got) != 0 {
		t.Errorf("messages: got %+v, want none", *got)
	}
}

func TestFolderThatControlMadeGoesWithItsService(t *testing.T) {
	c, dir, _ := attending(t)
	// Its actor does this after Forget, and control has not heard of it yet.
	if err := dir.Sweep("web", true); err != nil {
		t.Fatal(err)
	}
	c.look("web")
	if f, err := dir.Folder("web"); err != nil {
		t.Fatalf("after a look: got %v, want a folder", err)
	} else {
		f.Close()
	}
	c.Forget("web")
	c.answer()
	if _, err := dir.Folder("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder: got %v, want none", err)
	}
}

// An actor that ends calls Forget and then removes the folder. A look that
// was due already may come between the two, or after both.
func TestFolderOfAForgottenServiceIsNotMadeAgain(t *testing.T) {
	c, dir, got := attending(t)
	c.Forget("web")
	if err := dir.Sweep("web", true); err != nil {
		t.Fatal(err)
	}
	c.look("web")
	if _, err := dir.Folder("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder: got %v, want none", err)
	}
	if len(*got) != 0 {
		t.Errorf("messages: got %+v, want none", *got)
	}

	// Who comes back with the same name starts anew.
	c.Attend("web")
	c.answer()
	if _, err := dir.Folder("web"); err != nil {
		t.Errorf("folder of the next service of that name: got %v, want it there", err)
	}
}

// What is called for while something else is being answered comes after all
// that was called for before.
func TestCallsAreAnsweredInTheirOrder(t *testing.T) {
	c, dir, _ := attending(t)
	held, err := dir.MakeFolder("held")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := held.Write(rundir.Lock, []byte("TERM\n")); err != nil {
		t.Fatal(err)
	}
	c.config.Deliver = func(m Message) {
		if m.Service == "held" {
			c.Forget("last")
		}
	}
	for _, name := range []string{"held", "missing", "last"} { // held is told, missing is looked for again
		c.Attend(name)
	}
	c.answer()
	if c.attended.has("last") {
		t.Error("a service that was attended to and then forgotten: got it attended to, want not")
	}
}

// Of folders that are like most nothing is kept. What is known of one that is not
// is kept as long as it is not, and is not known of any other.
func TestAFolderOfWhichThereIsNothingToKnowTakesNoRoom(t *testing.T) {
	c, dir, got := attending(t)
	for _, name := range []string{"web", "db"} {
		f, err := dir.MakeFolder(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Write(rundir.State, []byte("phase up\n")); err != nil {
			t.Fatal(err)
		}
		c.Attend(name)
	}
	kept := func(when string, web bool) {
		t.Helper()
		if c.folders["db"] != nil || (c.folders["web"] != nil) != web {
			t.Errorf("%s: got %+v and %+v, want web to be kept: %v, and db not", when, c.folders["web"], c.folders["db"], web)
		}
		if plain != (folder{status: true}) {
			t.Fatalf("%s: what is plain is %+v", when, plain)
		}
	}
	c.answer()
	kept("attended to", false)

	f, err := dir.Folder("web")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Write(rundir.Lock, []byte("TERM\n")); err != nil {
		t.Fatal(err)
	}
	*got = nil
	c.look("web")
	c.look("db")
	kept("held", true)
	if len(*got) != 2 || (*got)[0].Request.Verb != Stop || (*got)[1].Request.Verb != Released {
		t.Errorf("got %+v, want web held and db not", *got)
	}
	if err := f.Remove(rundir.Lock); err != nil {
		t.Fatal(err)
	}
	c.look("web")
	time.Sleep(blink)
	c.look("web")
	kept("released", false)

	c.Renew()
	c.answer()
	if plain != (folder{status: true}) || !c.folders["web"].fresh || !c.folders["db"].fresh {
		t.Errorf("renewed: got %+v and %+v, want both fresh", *c.folders["web"], *c.folders["db"])
	}
	c.look("web")
	c.look("db")
	kept("looked at again", false)
	c.Forget("db")
	c.look("db") // which hears in the middle of it that it is forgotten
	if len(c.attended) != 1 || len(c.folders) != 0 {
		t.Errorf("got %v, %v; want only web, and nothing kept", c.attended, c.folders)
	}
}

// When events were lost every folder is looked at, also if one of them is found to
// be forgotten meanwhile.
func TestALookAtAllMissesNobodyWhenOneIsForgotten(t *testing.T) {
	c, dir, got := attending(t)
	for _, name := range []string{"a", "b", "c"} {
		c.Attend(name)
	}
	c.answer()
	if err := dir.Sweep("a", true); err != nil {
		t.Fatal(err)
	}
	c.Forget("a") // of which the look at it hears, because there is no folder
	*got = nil
	c.rings(watch.News{All: true, Lost: true})
	var released []string
	for _, m := range *got {
		if !m.Said {
			released = append(released, m.Service)
		}
	}
	if want := []string{"b", "c", "web"}; !slices.Equal(released, want) {
		t.Errorf("got %v told of, want %v", released, want)
	}
}

// The watcher may have heard of it before.
func TestWhatHappensToAForgottenServiceIsNoNews(t *testing.T) {
	c, dir, got := attending(t)
	c.Forget("web")
	c.answer()
	if err := dir.Sweep("web", true); err != nil {
		t.Fatal(err)
	}
	c.ring("web", order|said|unsaid)
	if _, err := dir.Folder("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder: got %v, want none", err)
	}
	if len(*got) != 0 || len(c.folders) != 0 || len(c.again) != 0 {
		t.Errorf("got messages %+v, folders %v, to be looked at again %v; want none", *got, c.folders, c.again)
	}
}

// Its folder is another one, and so is the service by now: what the next one has
// found in it is known.
func TestALookAtAForgottenServiceLeavesTheNextOfItsNameAlone(t *testing.T) {
	c, dir, _ := attending(t)
	for _, lock := range []string{"", "TERM\n"} {
		f, err := dir.MakeFolder("db")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Write(rundir.State, []byte("phase up\n")); err != nil {
			t.Fatal(err)
		}
		if lock == "" {
			c.Attend("db")
			c.answer()
			if err := dir.Sweep("db", true); err != nil {
				t.Fatal(err)
			}
		} else if err := f.Write(rundir.Lock, []byte(lock)); err != nil {
			t.Fatal(err)
		}
	}
	c.Forget("db")
	c.Attend("db")
	c.look("db") // in which both are answered
	if k := c.folders["db"]; k == nil || k.lock == 0 {
		t.Errorf("got %+v, want it to know of the lock", k)
	}
}
