package program

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// place is a directory that not everybody may write to, whatever the umask.
func place(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// put makes a file with exactly this mode.
func put(t testing.TB, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

const script = "#!/bin/sh\nexit 0\n"

func TestWhatCanBeRun(t *testing.T) {
	dir := place(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := func(target, name string) string {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	put(t, at("script"), script, 0o755)
	for what, path := range map[string]string{
		"a script":                   at("script"),
		"a link":                     link("script", "link"),
		"a link to a link":           link("link", "links"),
		"a program":                  self,
		"a link to a program":        link(self, "program"),
		"no #!":                      put(t, at("plain"), "exit 0\n", 0o755),
		"an interpreter's argument":  put(t, at("argument"), "#!/bin/sh -e\nexit\n", 0o755),
		"spaces before it":           put(t, at("spaces"), "#! \t/bin/sh\nexit\n", 0o755),
		"a tab behind it":            put(t, at("tab"), "#!/bin/sh\t-e\nexit\n", 0o755),
		"no end of line":             put(t, at("short"), "#!/bin/sh", 0o755),
		"one byte":                   put(t, at("byte"), "x", 0o755),
		"a name with a space":        put(t, at("a b"), script, 0o755),
		"executable for some":        put(t, at("some"), script, 0o744),
		"writable for a group":       put(t, at("group"), script, 0o775),
		"what cannot be read":        put(t, at("unreadable"), script, 0o711),
		"garbage, which execve says": put(t, at("garbage"), "\x00\x01\x02", 0o755),
	} {
		if err := Check(path); err != nil {
			t.Errorf("%s: got %v, want nil", what, err)
		}
	}
}

func TestWhatCannotBeRun(t *testing.T) {
	dir := place(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	link := func(target, name string) string {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	fifo := at("fifo")
	if err := unix.Mkfifo(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, at("file"), script, 0o644)
	for what, c := range map[string]struct{ path, why string }{
		"missing":              {at("missing"), "no such file"},
		"dangling":             {link("missing", "dangling"), `link to "missing", which does not exist`},
		"far dangling":         {link("dangling", "far"), `link to "dangling", which does not exist`},
		"dangling, odd name":   {link("new\nline", "odd"), `link to "new\nline", which does not exist`},
		"loop":                 {link("loop", "loop"), "its links lead in a circle"},
		"directory":            {dir, "a directory, not a file"},
		"link to a directory":  {link(".", "here"), "a directory, not a file"},
		"fifo":                 {fifo, "not a regular file"},
		"device":               {"/dev/null", "not a regular file"},
		"mode":                 {at("file"), "not executable (chmod +x it)"},
		"below a file":         {at("file") + "/x", "not a directory"},
		"empty":                {put(t, at("empty"), "", 0o755), "an empty file"},
		"#! alone":             {put(t, at("alone"), "#!", 0o755), "#! without an interpreter"},
		"#! and spaces":        {put(t, at("blank"), "#! \t \nexit\n", 0o755), "#! without an interpreter"},
		"missing interpreter":  {put(t, at("nosh"), "#!/nonexistent/sh -e\n", 0o755), `interpreter "/nonexistent/sh": no such file or directory`},
		"half an interpreter":  {put(t, at("half"), "#!/bi", 0o755), `interpreter "/bi": no such file or directory`},
		"DOS line ends":        {put(t, at("dos"), "#!/bin/sh\r\nexit\r\n", 0o755), `interpreter "/bin/sh\r": no such file or directory (the file has DOS line ends)`},
		"odd interpreter":      {put(t, at("null"), "#!/dev/null\n", 0o755), `interpreter "/dev/null": not an executable file`},
		"plain interpreter":    {put(t, at("text"), "#!"+at("file")+"\n", 0o755), "not an executable file"},
		"interpreter a folder": {put(t, at("folder"), "#!/bin\n", 0o755), `interpreter "/bin": not an executable file`},
		"binary interpreter":   {put(t, at("binary"), "#!\x01\x02\xff\n", 0o755), `interpreter "\x01\x02\xff"`},
	} {
		err := Check(c.path)
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: got %v, want %q", what, err, c.why)
			continue
		}
		// The service's name stands before it; the path would say it twice.
		if strings.Contains(err.Error(), c.path) || strings.ContainsAny(err.Error(), "\n\r\x01") {
			t.Errorf("%s: not fit to print behind a name: %q", what, err)
		}
	}
}

// What anybody could have put there, root does not run.
func TestRootRunsNothingThatAnybodyCouldHaveWritten(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root minds")
	}
	safe, open, sticky := place(t), place(t), place(t)
	for dir, mode := range map[string]os.FileMode{open: 0o777, sticky: 0o777 | os.ModeSticky} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join
	for _, dir := range []string{safe, open, sticky} {
		put(t, at(dir, "file"), script, 0o755)
		put(t, at(dir, "shared"), script, 0o757)
	}
	link := func(target, path string) string {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for what, c := range map[string]struct{ path, why string }{
		"a file":                        {at(safe, "file"), ""},
		"writable":                      {at(safe, "shared"), "writable by everyone (chmod o-w it)"},
		"in an open folder":             {at(open, "file"), "in a folder writable by everyone (chmod o-w " + open + ")"},
		"in a sticky one":               {at(sticky, "file"), ""},
		"writable in a sticky one":      {at(sticky, "shared"), "writable by everyone"},
		"a link to a writable one":      {link(at(safe, "shared"), at(safe, "one")), "writable by everyone"},
		"a link into an open folder":    {link(at(open, "file"), at(safe, "two")), "in a folder writable by everyone"},
		"a link out of an open folder":  {link(at(safe, "file"), at(open, "three")), "in a folder writable by everyone"},
		"a link into a sticky folder":   {link(at(sticky, "file"), at(safe, "four")), ""},
		"a link through an open folder": {link(link(at(safe, "file"), at(open, "hop")), at(safe, "six")), "in a folder writable by everyone (chmod o-w " + open + ")"},
		"a link to a link to a bad one": {link("two", at(safe, "five")), "in a folder writable by everyone"},
	} {
		err := Check(c.path)
		if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: got %v, want %q", what, err, c.why)
		}
	}
}

// What the shell runs and what it must not be given: execve(2) says ENOEXEC
// to both.
func TestScriptsWithoutInterpreter(t *testing.T) {
	dir := place(t)
	for content, want := range map[string]bool{
		"exit 0\n":                   true,
		"exit 0":                     true,
		"\nexit 0\n":                 true,
		"# a comment\n":              true,
		"echo ünïcødé\n":             true,
		"exit\n\x00\x01\x02":         true, // an archive that unpacks itself
		strings.Repeat("x", 10_000):  true,
		"":                           false,
		"\x7fELF\x02\x01\x01\n":      false,
		"\x7fELF":                    false,
		"\x00":                       false,
		"MZ\x90\x00\x03\n":           false,
		"exit\x00\n":                 false,
		"\xca\xfe\xba\xbe\x00\x00\n": false,
	} {
		path := put(t, filepath.Join(dir, "file"), content, 0o755)
		if got := Script(path); got != want {
			t.Errorf("Script of %.20q: got %v, want %v", content, got, want)
		}
	}
	for what, path := range map[string]string{"missing": filepath.Join(dir, "missing"), "a directory": dir} {
		if Script(path) {
			t.Errorf("%s: got true", what)
		}
	}
}

func FuzzInterpreter(f *testing.F) {
	for _, seed := range []string{"/bin/sh\n", " /bin/sh -e", "\t\n", "", "/bin/sh\r\n", "\x00\x01", "/nonexistent\x1b[2J\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if len(line) > head {
			return
		}
		err := interpreter(line)
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
			t.Errorf("not fit to print: %q", err)
		}
	})
}
