//go:build !(linux && amd64)

// Command tracer meddles with system calls, but only on Linux and x86_64.
package main

import (
	"os"
)

func main() {
	os.Stderr.WriteString("tracer: not on this platform\n")
	os.Exit(125)
}
