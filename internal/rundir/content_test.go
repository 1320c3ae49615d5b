package rundir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestContentNamesWhatIsThere(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := d.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c := f.Content(); runtime.GOOS == "linux" && c != 0 {
		t.Errorf("empty folder: got %b, want nothing", c)
	}
	for i, file := range listed {
		if err := f.Write(file, []byte("x\n")); err != nil {
			t.Fatal(err)
		}
		c := f.Content()
		for _, written := range listed[:i+1] {
			if !c.Has(written) {
				t.Errorf("%s: got absent, want it there", written)
			}
		}
		if runtime.GOOS == "linux" && c.others() {
			t.Errorf("after %s: got a file of others, want none", file)
		}
	}
	for i := range 500 {
		name := filepath.Join(f.Path(), fmt.Sprintf("of-somebody-else-%d", i))
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if i == 0 && !f.Content().others() {
			t.Error("a file of somebody else: got none, want it told of")
		}
	}
	if got := f.Content(); got != Everything {
		t.Errorf("a folder that is too full: got %b, want everything", got)
	}
}
