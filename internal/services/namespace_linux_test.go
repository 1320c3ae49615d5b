package services

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sysmgr/internal/have"
)

// asked is set by make test-services, inside by enter.
const (
	asked  = "SYSMGR_TEST_SERVICES"
	inside = "SYSMGR_TEST_SERVICES_INSIDE"
)

// place is where the private parts of the file system are.
var place string

func TestMain(m *testing.M) {
	code := 0
	if os.Getenv(asked) != "" && os.Getenv(inside) == "" && os.Geteuid() == 0 {
		if err := enter(); err != nil {
			fmt.Fprintln(os.Stderr, "no namespaces:", err)
			code = 1
		}
	}
	if os.Getenv(inside) != "" {
		var err error
		if place, err = os.MkdirTemp("", "sysmgr-services-"); err == nil {
			defer os.RemoveAll(place)
			err = private()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "private folders:", err)
			os.Exit(1)
		}
	}
	if code == 0 {
		code = m.Run()
	}
	if place != "" {
		unix.Unmount(place, unix.MNT_DETACH)
		os.RemoveAll(place)
	}
	os.Exit(code)
}

// enter executes this program again in namespaces. Process 1 is a shell,
// because somebody has to reap orphans.
func enter() error {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{unshare, "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "--",
		"sh", "-c", `"$@"; exit $?`, "sh", self}
	return syscall.Exec(unshare, append(args, os.Args[1:]...), append(os.Environ(), inside+"=1"))
}

// copies are folders that daemons find as they are, and may write to; empty
// are those that they find empty, but for the folders in /var/log.
var (
	copies = []string{"/etc", "/var/spool/cron", "/var/lib/chrony", "/var/lib/redis", "/var/lib/postgresql"}
	empty  = []string{"/run", "/var/log", "/srv", "/var/lib/containerd", "/var/lib/dhcpcd", "/var/lib/docker"}
)

// private puts copies and empty folders over those of the machine, for this
// mount namespace only.
func private() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", place, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range copies {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		own := filepath.Join(place, "copy"+dir)
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if out, err := exec.Command("cp", "-a", dir, own).CombinedOutput(); err != nil {
			return fmt.Errorf("cp %s: %w: %s", dir, err, out)
		}
		if err := unix.Mount(own, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	for _, dir := range empty {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		own := filepath.Join(place, "empty"+dir)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if dir == "/var/log" {
			folders := exec.Command("sh", "-c", `find . -type d -print0 | tar --null --no-recursion -cf - -T - | tar -C "$1" -xpf -`, "sh", own)
			folders.Dir = dir
			if out, err := folders.CombinedOutput(); err != nil {
				return fmt.Errorf("folders of %s: %w: %s", dir, err, out)
			}
		}
		if err := unix.Mount(own, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := os.Mkdir("/run/lock", 0o1777); err != nil {
		return err
	}
	return devices()
}

// devices makes a /dev of our own, for sockets and names that daemons make
// there.
func devices() error {
	dev := filepath.Join(place, "dev")
	if err := os.Mkdir(dev, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		own := filepath.Join(dev, name)
		if err := os.WriteFile(own, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, own, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	for _, name := range []string{"pts", "shm"} {
		own := filepath.Join(dev, name)
		if err := os.Mkdir(own, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", 0, "newinstance,ptmxmode=666,mode=620"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", 0, "mode=1777"); err != nil {
		return err
	}
	for name, target := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return unix.Mount(dev, "/dev", "", unix.MS_BIND|unix.MS_REC, "")
}

// needed tells whether the tests of this package are to run.
func needed(t *testing.T) {
	t.Helper()
	if os.Getenv(asked) == "" {
		t.Skip("make test-services runs this")
	}
	have.Root(t)
}
