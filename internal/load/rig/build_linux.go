package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// Build is a way to build the programs.
type Build string

// The ways.
const (
	Plain Build = "plain" // static, as make does it
	Race  Build = "race"  // with the race detector
)

// built is where the programs of this test program are.
var built struct {
	sync.Mutex // guards what follows, between parallel tests
	dir        string
	done       map[Build]func() error
}

// Program is the path of one of the four programs, or of the victim and the tracer, which
// exist as Plain only. They are built together, when the first of them is
// asked for.
func Program(t testing.TB, b Build, name string) string {
	t.Helper()
	dir, done, err := place(b)
	if err == nil {
		err = done()
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, string(b), name)
}

// place is where the programs go, and what builds them unless it has been done.
// Whoever needs one build does not wait for the other.
func place(b Build) (dir string, done func() error, err error) {
	built.Lock()
	defer built.Unlock()
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "sysmgr-rig-")
		if err != nil {
			return "", nil, err
		}
		// Services are run from here: everybody may read, nobody else write.
		if err := os.Chmod(dir, 0o755); err != nil {
			return "", nil, err
		}
		built.dir, built.done = dir, make(map[Build]func() error)
	}
	dir = built.dir
	if built.done[b] == nil {
		built.done[b] = sync.OnceValue(func() error { return build(dir, b) })
	}
	return dir, built.done[b], nil
}

func build(dir string, b Build) error {
	out := filepath.Join(dir, string(b)) + "/"
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", out, "sysmgr/cmd/sysmgr", "sysmgr/cmd/svctl", "sysmgr/cmd/sysmgr-depends", "sysmgr/cmd/runsyssv"}
	cgo := "CGO_ENABLED=0"
	if b == Race {
		args = slices.Insert(args, 1, "-race")
		cgo = "CGO_ENABLED=1"
	} else {
		args = append(args, "sysmgr/internal/load/victim", "sysmgr/internal/torture/tracer")
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), cgo)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, text)
	}
	return nil
}
