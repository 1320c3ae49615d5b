// Package container runs sysmgr as process 1 of PID namespaces, which is what
// a container is, and the files of contrib/container as far as that goes
// without a container engine. It is nothing but tests, which "make
// test-container" runs, as root.
package container
