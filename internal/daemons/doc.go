// Package daemons runs real daemons (dbus-daemon, redis-server, postgres,
// nginx) under the real programs, with the scripts that sysmgr(8) shows. It
// holds tests only, which "make test-daemons" runs: they need root, and those
// daemons installed.
package daemons
