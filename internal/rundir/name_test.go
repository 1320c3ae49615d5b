//go:build linux

package rundir

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestNamesOfServices(t *testing.T) {
	for _, name := range []string{
		"web", "a b", " ", "-f", "--", "a..b", "...", "ünïcødé", "日本", "web@1", "*", "$(id)", "'", `\`, "pid2", "Pid",
		"lock", "status", ".hidden", strings.Repeat("x", 255), strings.Repeat("é", 127),
	} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%.30q): got %v, want nil", name, err)
		}
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	for _, c := range []struct{ name, why string }{
		{"", "empty"},
		{".", "own name"},
		{"..", "own name"},
		{"pid", "daemon's own file"},
		{strings.Repeat("x", 256), "255 bytes"},
		{strings.Repeat("é", 128), "255 bytes"},
		{strings.Repeat("x", 5000), "255 bytes"},
		{"a/b", "slash"},
		{"/", "slash"},
		{"../../x", "slash"},
		{"a\nb", "control character"},
		{"a\tb", "control character"},
		{"\x00", "control character"},
		{"\x7f", "control character"},
		{"\x1b[2J", "control character"},
		{"\u0085", "control character"},
		{"a\xffb", "UTF-8"},
		{"\xc0\xaf", "UTF-8"}, // a slash in disguise
	} {
		err := CheckName(c.name)
		if !errors.Is(err, ErrName) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("CheckName(%.30q): got %v, want %v that speaks of %q", c.name, err, ErrName, c.why)
		}
	}
}

// Whatever passes the validator is one path component that is safe to print.
func TestNameThatPassesIsOnePrintableComponent(t *testing.T) {
	names := rapid.OneOf(
		rapid.String(),
		rapid.StringMatching(`[./\x00-\x20a\x7f-\xff]{0,300}`),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		name := names.Draw(t, "name")
		if CheckName(name) != nil {
			return
		}
		switch {
		case name == "", name == ".", name == "..", name == "pid":
			t.Fatalf("%q passed", name)
		case len(name) > 255, strings.ContainsAny(name, "/\x00\n\r\x1b"), !utf8.ValidString(name):
			t.Fatalf("%q passed", name)
		case strings.IndexFunc(name, unicode.IsControl) >= 0:
			t.Fatalf("%q passed", name)
		}
	})
}

func TestLitterIsIgnored(t *testing.T) {
	for _, name := range []string{
		".", "..", ".hidden", ".web.swp", "web~", "~", "#web#", "##", "4913",
		"web.swp", "web.bak", "web.orig", "web.rej", "web.tmp", "web.new", "web.old",
		"web.dpkg-new", "web.dpkg-old", "web.dpkg-dist", "web.dpkg-",
		"web.rpmsave", "web.rpmnew", "web.rpmorig", ".sysmgr", ".new.12.3",
	} {
		if !Ignored(name) {
			t.Errorf("Ignored(%q): got false, want true", name)
		}
	}
	for _, name := range []string{
		"web", "web.sh", "#", "#web", "web#", "~web", "a~b", "49130", "4913a", "bak", "web.bak.sh", "swp",
		"web.dpkg", "dpkg-new", "web.dpkg-new.sh", "new", "web-new", "web.d", "web.Bak", "",
	} {
		if Ignored(name) {
			t.Errorf("Ignored(%q): got true, want false", name)
		}
	}
}
