// Package cli is the manners that the four programs share: where the two
// directories are, how options are read, how errors are said. Nothing else
// imports it.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Version is the version of all four programs.
const Version = "0.8.0"

// Exit statuses that mean the same in every program.
const (
	OK    = 0
	Fail  = 1
	Usage = 2
)

// The defaults for root, which the Makefile sets with -ldflags -X.
var (
	defaultSysdir = "/var/sysmgr"
	defaultRundir = "/run/sysmgr"
)

// Sysdir is the service directory, absolute: $SYSDIR, or the compiled-in
// default for root, or ${XDG_CONFIG_HOME:-~/.config}/sysmgr for a user.
func Sysdir() (string, error) {
	if dir := os.Getenv("SYSDIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return defaultSysdir, nil
	}
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		home := os.Getenv("HOME")
		if home == "" {
			return "", errors.New("neither SYSDIR nor HOME is set; set SYSDIR to the service directory")
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Abs(filepath.Join(config, "sysmgr"))
}

// Rundir is the run directory, absolute: $RUNDIR, or the compiled-in default
// for root, or $XDG_RUNTIME_DIR/sysmgr for a user.
func Rundir() (string, error) {
	if dir := os.Getenv("RUNDIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return defaultRundir, nil
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return "", errors.New("neither RUNDIR nor XDG_RUNTIME_DIR is set; set RUNDIR to the run directory")
	}
	return filepath.Abs(filepath.Join(dir, "sysmgr"))
}

// Environment is what services inherit of env: all but the marks of a service
// that we may be ourselves, and both directories, absolute.
func Environment(env []string, sysdir, rundir string) []string {
	out := make([]string, 0, len(env)+2)
	for _, entry := range env {
		switch key, _, _ := strings.Cut(entry, "="); key {
		case "SYSDIR", "RUNDIR", "SYSMGR_NAME", "SYSMGR_DIR", "SYSMGR_CLAIM":
		default:
			out = append(out, entry)
		}
	}
	return append(out, "SYSDIR="+sysdir, "RUNDIR="+rundir)
}

// spread takes options apart that were written together, -qj for -q -j and
// -w5 for -w 5, which package flag does not.
func spread(set *flag.FlagSet, args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' || arg == "--" {
			return append(out, args[i:]...)
		}
		if arg[1] == '-' {
			out = append(out, arg) // --help, or what we do not have
			continue
		}
		for rest := arg[1:]; rest != ""; {
			option := set.Lookup(rest[:1])
			out = append(out, "-"+rest[:1])
			rest = rest[1:]
			if option == nil {
				continue // -h, or an error that Parse finds
			}
			if b, ok := option.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
				continue
			}
			// The value of the option is what follows.
			if rest != "" {
				out = append(out, rest)
			} else if i+1 < len(args) {
				i++
				out = append(out, args[i])
			}
			break
		}
	}
	return out
}

// Program is a program's name and its usage, as -h prints it.
type Program struct {
	Name  string
	Usage string
}

// Parse reads the options of args into set, which the caller has defined, and
// answers -h and -V. If done is true the program exits with the code given.
func (p Program) Parse(set *flag.FlagSet, args []string) (code int, done bool) {
	set.Init(p.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	version := set.Bool("V", false, "")
	err := set.Parse(spread(set, args))
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(p.Usage)
		return OK, true
	case err != nil:
		return p.Misused("%s", strings.Replace(err.Error(), "flag provided but not defined:", "unknown option", 1)), true
	case *version:
		fmt.Printf("%s (sysmgr) %s\n", p.Name, Version)
		return OK, true
	}
	return OK, false
}

// Misused says what is wrong with the command line and how it should be, and
// returns the exit status for that.
func (p Program) Misused(format string, args ...any) int {
	p.Errorf(format, args...)
	first, _, _ := strings.Cut(p.Usage, "\n")
	fmt.Fprintf(os.Stderr, "%s\nTry '%s -h'.\n", first, p.Name)
	return Usage
}

// Errorf says something on standard error, after the program's name.
func (p Program) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", p.Name, fmt.Sprintf(format, args...))
}
