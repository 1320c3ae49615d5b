// Package vm boots a Debian kernel in QEMU, with a root file system of busybox
// and our four programs, and looks at sysmgr under a real init: at boot, when
// services and sysmgr itself are killed, and when the machine is switched off.
// It is nothing but a test, which "make test-vm" runs.
package vm
