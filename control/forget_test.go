//go:build linux

package control

import (
	"errors"
	"io/fs"
	"path/filepath"
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
	if c.folders["last"] != nil {
		t.Error("a service that was attended to and then forgotten: got it attended to, want not")
	}
}

// Folders that are like most share what is known of them. One that is not has its
// own, as long as it is not; what happens in it is not known of any other.
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
	shares := func(when string, web bool) {
		t.Helper()
		if c.folders["db"] != plain || (c.folders["web"] == plain) != web {
			t.Errorf("%s: got %+v and %+v, want web to share: %v, and db to", when, *c.folders["web"], *c.folders["db"], web)
		}
		if *plain != (folder{status: true}) {
			t.Fatalf("%s: what they share is %+v", when, *plain)
		}
	}
	c.answer()
	shares("attended to", true)

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
	shares("held", false)
	if len(*got) != 2 || (*got)[0].Request.Verb != Stop || (*got)[1].Request.Verb != Released {
		t.Errorf("got %+v, want web held and db not", *got)
	}
	if err := f.Remove(rundir.Lock); err != nil {
		t.Fatal(err)
	}
	c.look("web")
	time.Sleep(blink)
	c.look("web")
	shares("released", true)

	c.Renew()
	c.answer()
	if *plain != (folder{status: true}) || !c.folders["web"].fresh || !c.folders["db"].fresh {
		t.Errorf("renewed: got %+v and %+v, want both fresh", *c.folders["web"], *c.folders["db"])
	}
	c.look("web")
	c.look("db")
	shares("looked at again", true)
	c.Forget("db")
	c.look("db") // which hears in the middle of it that it is forgotten
	if len(c.folders) != 1 {
		t.Errorf("got %v, want only web", c.folders)
	}
}
