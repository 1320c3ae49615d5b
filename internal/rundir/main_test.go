//go:build linux

package rundir

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// soon is how long a test waits for what must come. It is long because
// machines are slow; nothing that passes waits this long.
const soon = 30 * time.Second

// part names what the test binary is to be instead of a test, when a test
// has started it as another process.
const part = "RUNDIR_TEST_PART"

func TestMain(m *testing.M) {
	switch os.Getenv(part) {
	case "":
		goleak.VerifyTestMain(m)
	case "daemon":
		claimAndHang(os.Getenv("DIR"))
	case "lock without descriptors":
		readHoldWithFullTable(os.Getenv("DIR"))
	case "records":
		countRecords(os.Getenv("DIR"))
	}
}

// claimAndHang is a daemon that does nothing but hold its claim.
func claimAndHang(path string) {
	dir, err := Create(path)
	if err == nil {
		_, err = dir.Claim()
	}
	fmt.Println(err)
	io.Copy(io.Discard, os.Stdin) // until the test goes, at the latest
}

// child starts the test binary in another part and returns the first line it
// prints. It is killed at the end of the test.
func child(t *testing.T, role, dir string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), part+"="+role, "DIR="+dir, "GORACE=atexit_sleep_ms=0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("child %q: %v", role, err)
	}
	return cmd, strings.TrimSuffix(line, "\n")
}

// kill ends a child the hard way and waits for it.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

// newDir makes a run directory in a place of its own.
func newDir(t testing.TB) *Dir {
	t.Helper()
	dir, err := Create(t.TempDir() + "/run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

// newFolder makes the folder of a service.
func newFolder(t testing.TB) *Folder {
	t.Helper()
	f, err := newDir(t).MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// odd puts things that are no regular file of reasonable size under a path,
// one for each name.
var odd = map[string]func(path string) error{
	"directory":       func(path string) error { return os.Mkdir(path, 0o755) },
	"fifo":            func(path string) error { return unix.Mkfifo(path, 0o644) },
	"dangling link":   func(path string) error { return os.Symlink("/nonexistent", path) },
	"link to a file":  func(path string) error { return os.Symlink("/etc/passwd", path) },
	"link to itself":  func(path string) error { return os.Symlink(path, path) },
	"link to a fifo":  func(path string) error { unix.Mkfifo(path+"-", 0o644); return os.Symlink(path+"-", path) },
	"socket":          socket,
	"a gigabyte":      func(path string) error { return sparse(path, 1<<30) },
	"a byte too much": func(path string) error { return sparse(path, MaxFile+1) },
}

func sparse(path string, size int64) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// socket binds through a descriptor, because sun_path is short.
func socket(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	slash := strings.LastIndexByte(path, '/')
	dir, err := os.Open(path[:slash])
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d%s", dir.Fd(), path[slash:])})
}

// within fails the test if f does not return in time: it blocks where it
// must not.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s: still blocked after %v", what, limit)
	}
}
