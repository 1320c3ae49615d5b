//go:build !linux

package main

import "os"

// block would block signals; there is no way to do that here.
func block([]os.Signal) (undo func()) { return func() {} }
