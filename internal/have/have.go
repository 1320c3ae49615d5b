// Package have is for tests that need what not every machine has. Where it is
// missing they are skipped, and say what to install; with SYSMGR_TEST_ALL set,
// as .ci/run does after it has installed everything, they fail instead, so
// that nothing is left out unseen.
package have

import (
	"os"
	"os/exec"
	"testing"
)

// All tells whether nothing may be skipped.
func All() bool { return os.Getenv("SYSMGR_TEST_ALL") != "" }

// Not skips the test, or fails it if nothing may be skipped.
func Not(t testing.TB, format string, args ...any) {
	t.Helper()
	if All() {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Program returns the path of a program. Otherwise the test needs the Debian
// package that is named.
func Program(t testing.TB, name, from string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Not(t, "%s is not installed (apt-get install %s)", name, from)
	}
	return path
}

// Root needs a test that runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Not(t, "only root can do this")
	}
}
