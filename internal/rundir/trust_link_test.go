package rundir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whoever may replace a link on the way to the run directory may lead it
// elsewhere, however many links there are.
func TestNobodyElseMayReplaceALinkOnTheWay(t *testing.T) {
	top := t.TempDir()
	make := func(name string, mode os.FileMode) string {
		path := filepath.Join(top, name)
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, dir string) string {
		path := filepath.Join(dir, "link")
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	create := func(parent string) error {
		d, err := Create(filepath.Join(parent, "run"))
		if err == nil {
			d.Close()
		}
		return err
	}
	real := make("real", 0o755)
	open, sticky, ours := make("open", 0o777), make("sticky", 0o777|os.ModeSticky), make("ours", 0o755)
	inOpen, inSticky := link(real, open), link(real, sticky)
	if err := create(link(inSticky, ours)); err != nil {
		t.Errorf("our link in a sticky folder: got %v, want none", err)
	}
	if err := create(link(inOpen, make("ours2", 0o755))); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a link in a folder that others may write to: got %v, want %v", err, ErrUntrusted)
	}
	if err := create(link("../ours/link", make("ours3", 0o755))); err != nil {
		t.Errorf("links to our links: got %v, want none", err)
	}
	if os.Geteuid() != 0 || os.Lchown(inSticky, 12345, 12345) != nil {
		t.Skip("for the rest it takes root")
	}
	for _, parent := range []string{inSticky, filepath.Join(ours, "link")} {
		if err := create(parent); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s, of another user: got %v, want %v", parent, err, ErrUntrusted)
		}
	}
}
