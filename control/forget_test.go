//go:build linux

package control

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"sysmgr/internal/rundir"
	"sysmgr/internal/watch"
)

// An actor that ends calls Forget and then removes the folder. A look that
// was due already may come between the two, or after both.
func TestFolderOfAForgottenServiceIsNotMadeAgain(t *testing.T) {
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var got []Message
	c := New(Config{
		Rundir:  dir,
		Deliver: func(m Message) { got = append(got, m) },
		Report:  func(Fact) {},
	})
	c.watcher, _ = watch.New(nil)
	defer c.watcher.Close()
	c.Attend("web")
	c.answer()
	got = nil

	c.Forget("web")
	if err := dir.Sweep("web", true); err != nil {
		t.Fatal(err)
	}
	c.look("web")
	if _, err := dir.Folder("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder: got %v, want none", err)
	}
	if len(got) != 0 {
		t.Errorf("messages: got %+v, want none", got)
	}

	// Who comes back with the same name starts anew.
	c.Attend("web")
	c.answer()
	if _, err := dir.Folder("web"); err != nil {
		t.Errorf("folder of the next service of that name: got %v, want it there", err)
	}
}
