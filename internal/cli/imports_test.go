package cli

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// allowed says which of our packages each may import. Imports point one way:
// scanner, control and actor do not know each other, cmd/sysmgr ties them.
var allowed = map[string][]string{
	"internal/rundir":    {},
	"internal/watch":     {},
	"internal/program":   {},
	"internal/cli":       {},
	"internal/needs":     {},
	"reaper":             {"internal/program"},
	"actor":              {"internal/needs", "internal/rundir", "reaper"},
	"scanner":            {"internal/program", "internal/rundir", "internal/watch"},
	"control":            {"internal/needs", "internal/rundir", "internal/watch"},
	"cmd/sysmgr":         {"actor", "control", "internal/cli", "internal/program", "internal/rundir", "reaper", "scanner"},
	"cmd/svctl":          {"control", "internal/cli", "internal/rundir"},
	"cmd/runsyssv":       {"actor", "internal/cli", "internal/program", "internal/rundir", "reaper"},
	"cmd/sysmgr-depends": {"control", "internal/cli", "internal/rundir"},
}

// imports lists what the programs' files import, by the folder of the file.
func imports(t *testing.T) map[string][]string {
	found := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, _ := filepath.Rel(root, filepath.Dir(path))
		for _, spec := range file.Imports {
			found[dir] = append(found[dir], strings.Trim(spec.Path.Value, `"`))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestImportsPointOneWay(t *testing.T) {
	found := imports(t)
	for dir, may := range allowed {
		if len(found[dir]) == 0 {
			t.Errorf("%s: no files; is this list old?", dir)
		}
		for _, path := range found[dir] {
			if ours, ok := strings.CutPrefix(path, "sysmgr/"); ok && !slices.Contains(may, ours) {
				t.Errorf("%s imports %s", dir, ours)
			}
		}
	}
}

// zap is for the daemon's log alone, and only the part of it that does not bring
// net/http along; processes are the reaper's alone.
func TestForeignImportsHaveOnePlace(t *testing.T) {
	only := map[string][]string{
		"go.uber.org/zap":         {},
		"go.uber.org/zap/zapcore": {"cmd/sysmgr"},
		"github.com/oklog/run":    {"cmd/sysmgr"},
		"os/exec":                 {},
	}
	for dir, paths := range imports(t) {
		if _, ours := allowed[dir]; !ours {
			continue // only for tests
		}
		for _, path := range paths {
			if places, ok := only[path]; ok && !slices.Contains(places, dir) {
				t.Errorf("%s imports %s", dir, path)
			}
		}
	}
}

// wait4 has one caller.
func TestOnlyTheReaperWaits(t *testing.T) {
	for dir := range allowed {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			calls := strings.Count(string(data), ".Wait4(")
			if want := 0; dir == "reaper" && filepath.Base(file) == "reaper.go" {
				want = 1
				if calls != want {
					t.Errorf("%s: got %d calls of wait4, want %d", file, calls, want)
				}
			} else if calls != 0 && !strings.HasSuffix(file, "_test.go") {
				t.Errorf("%s calls wait4", file)
			}
		}
	}
}
