package rundir

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the longest service name, in bytes: the NAME_MAX of the file
// systems in use (limits.h(0P)).
const MaxName = 255

// ErrName is wrapped by every error of CheckName.
var ErrName = errors.New("not a service name")

// CheckName tells whether name can name a service at all. It is the one
// validator: the scanner, the daemon and every tool call it before a name
// comes near a file. The error wraps ErrName and says which rule was broken.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrName)
	case name == "." || name == "..":
		return fmt.Errorf("%w: it is a directory's own name", ErrName)
	case len(name) > MaxName:
		return fmt.Errorf("%w: longer than %d bytes", ErrName, MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: not valid UTF-8", ErrName)
	case strings.Contains(name, "/"):
		return fmt.Errorf("%w: it holds a slash", ErrName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: it holds a control character", ErrName)
	case name == Pid:
		return fmt.Errorf("%w: %q is the daemon's own file", ErrName, Pid)
	}
	return nil
}

// litter is what editors and package tools leave beside the files they
// work on: never a service.
var litter = []string{
	".swp", ".bak", ".orig", ".rej", ".tmp", ".new", ".old",
	".rpmsave", ".rpmnew", ".rpmorig",
}

// Ignored tells whether an entry of the service directory is silently no
// service: a dot file, an editor's backup or a package tool's left-over.
func Ignored(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || name == "4913" {
		return true
	}
	if len(name) > 1 && strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#") {
		return true
	}
	for _, end := range litter {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	dot := strings.LastIndexByte(name, '.')
	return dot >= 0 && strings.HasPrefix(name[dot:], ".dpkg-")
}
