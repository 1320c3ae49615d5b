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
	done       map[Build]error
}

// Program is the path of one of the four programs, or of the victim and the tracer, which
// exist as Plain only. They are built together, when the first of them is
// asked for.
func Program(t testing.TB, b Build, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	err, done := built.done[b]
	if !done {
		err = build(b)
		if built.done == nil {
			built.done = make(map[Build]error)
		}
		built.done[b] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(built.dir, string(b), name)
}

func build(b Build) error {
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "sysmgr-rig-")
		if err != nil {
			return err
		}
		// Services are run from here: everybody may read, nobody else write.
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
		built.dir = dir
	}
	out := filepath.Join(built.dir, string(b)) + "/"
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
