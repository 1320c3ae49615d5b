package control

import (
	"os"
	"path/filepath"
	"testing"

	"sysmgr/internal/rundir"
)

// Whatever a service writes into its folder, what is read from there can be
// shown: names are names, and nothing in them moves a cursor.
func FuzzLook(f *testing.F) {
	f.Add([]byte("phase up\nwanted up\ncause \x1b[2J\nlast-exit \x07\n"), []byte("db\nweb\n"))
	f.Add([]byte("phase up\nwanted \x1b]0;x\x07\nrefused x \x9b31m\nrequest \x1b \x01\n"), []byte("\x1b[31m\n../x\n\n"))
	f.Add([]byte("phase up\r\n"), []byte("a\x00b\n"))
	top := f.TempDir()
	dir, err := rundir.Open(top)
	if err != nil {
		f.Fatal(err)
	}
	folder := filepath.Join(top, "web")
	if err := os.Mkdir(folder, 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status, waiting []byte) {
		for file, data := range map[string][]byte{rundir.State: status, rundir.Waiting: waiting} {
			if err := os.WriteFile(filepath.Join(folder, file), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		v, err := Look(dir, "web")
		if err != nil {
			return
		}
		for _, name := range v.Waiting {
			if err := rundir.CheckName(name); err != nil {
				t.Errorf("waits for %q: %v", name, err)
			}
		}
		for _, word := range append([]string{v.Wanted, v.Cause, v.LastExit, v.Refused}, v.Requests...) {
			for _, r := range word {
				if r < ' ' || r >= 0x7f && r < 0xa0 {
					t.Errorf("%q would be shown as it is", word)
				}
			}
		}
	})
}
