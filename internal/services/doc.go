// Package services runs the scripts of contrib/services as they are, with the
// daemons that Debian has for them: each is started, asked something, and
// stopped. It is nothing but a test, which "make test-services" runs, as root
// and in mount, network and PID namespaces of its own, where /etc, /run, /dev
// and whatever else they write to is private and no port is taken.
package services
