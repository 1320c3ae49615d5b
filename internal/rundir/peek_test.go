package rundir

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever is there, Peek finds what the long way finds, and what is no regular
// file of reasonable size is not read, waited for or followed.
func TestPeekFindsWhatReadFinds(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("n", 255)
	for _, name := range []string{"web", long} {
		f, err := d.MakeFolder(name)
		must(err)
		at := func(file string) string { return filepath.Join(f.Path(), file) }
		must(
			f.Write("short", []byte("x\n")),
			f.Write("empty", nil),
			f.Write("longest", bytes.Repeat([]byte("x"), MaxFile)),
			f.Write("too-long", bytes.Repeat([]byte("x"), MaxFile+1)),
			os.Mkdir(at("directory"), 0o755),
			unix.Mkfifo(at("fifo"), 0o644),
			os.Symlink("short", at("link")),
			os.Symlink("/etc/hostname", at("link-out")))
		f.Close()
	}
	must(os.Symlink("web", filepath.Join(d.Path(), "linked")))
	buf := make([]byte, MaxFile+1)
	for _, name := range []string{"web", long, "linked", "none", "..", ".", "a/b", ""} {
		for _, file := range []string{"short", "empty", "longest", "too-long", "directory", "fifo", "link", "link-out", "none"} {
			var want []byte
			f, wantErr := d.Folder(name)
			if wantErr == nil {
				want, wantErr = f.Read(file)
				f.Close()
			}
			got, err := d.Peek(name, file, buf)
			if file == "fifo" && err == nil && len(got) == 0 {
				continue // nobody writes to it, and that is all there is to see
			}
			if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) || errors.Is(err, fs.ErrNotExist) != errors.Is(wantErr, fs.ErrNotExist) {
				t.Errorf("%.9q/%s: got %d bytes, %v; want %d, %v", name, file, len(got), err, len(want), wantErr)
			}
		}
	}
}

// Thousands are read one after the other.
func TestPeekLeavesNothingOpenAndNoGarbage(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := d.MakeFolder("web")
	if err == nil {
		err = errors.Join(f.Write(State, []byte("phase up\n")), os.Mkdir(filepath.Join(f.Path(), "directory"), 0o755))
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	next := func() int {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		return fd
	}
	buf := make([]byte, MaxFile+1)
	before := next()
	for range 100 {
		d.Peek("web", State, buf)
		d.Peek("web", "directory", buf)
	}
	if after := next(); after > before+9 { // the runtime may have taken some
		t.Errorf("the next descriptor: got %d, want %d", after, before)
	}
	if _, _, ok := peek(d.fd(), "web", State, buf); !ok {
		t.Skip("the long way is gone")
	}
	if n := testing.AllocsPerRun(100, func() { d.Peek("web", State, buf) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
