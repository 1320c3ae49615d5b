# sysmgr: build, test, install.
#
#   make                 build the four programs into bin/
#   make run             run them on example services, as an ordinary user
#   make test            run all tests
#   make check           everything that has to hold before a commit
#   make test-daemons    run real daemons under it: dbus, redis, postgres, nginx
#   make torture         try to break it, for a long time; SHORT=1 for a minute
#   make bench           measure, as ratios to a bare fork
#   make cross           build and vet for the other systems
#   make dist            make a source archive of HEAD
#   make install         install programs and manuals
#
# Everything below can be set on the command line, as in: make PREFIX=/usr
# For make torture: SEED=N repeats one as far as that is possible, MINUTES=N is
# how long chaos lasts, FAULT=PATTERN picks tests by their names.

PREFIX   = /usr/local
BINDIR   = $(PREFIX)/bin
SBINDIR  = $(PREFIX)/sbin
MANDIR   = $(PREFIX)/share/man
SYSDIR   = /var/sysmgr
RUNDIR   = /run/sysmgr
DESTDIR  =
BIN      = bin
GO       = go

VERSION  = 0.1.0
PROGRAMS = sysmgr svctl runsyssv sysmgr-depends
TARGETS  = freebsd openbsd netbsd darwin
LDFLAGS  = -s -w -X sysmgr/internal/cli.defaultSysdir=$(SYSDIR) -X sysmgr/internal/cli.defaultRundir=$(RUNDIR)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

all: $(BIN)/sysmgr

# Built anew when a source is newer or the flags are others than last time, so
# that 'make install', as root, needs no Go after 'make'.
$(BIN)/sysmgr: $(BIN)/.flags go.mod go.sum $(shell find cmd actor reaper scanner control internal -name '*.go')
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/...
	@touch '$@'

$(BIN)/.flags: always
	@mkdir -p '$(BIN)'
	@echo "$(LDFLAGS)" | cmp -s - '$@' || echo "$(LDFLAGS)" >'$@'

run: all
	@sh contrib/try/run.sh '$(BIN)'

# -count=1, because the programs that the tests run are not seen by the cache.
test:
	$(GO) test -race -count=1 -timeout 170s ./...

# Needs root and the daemons; says which are not installed, and skips.
test-daemons:
	SYSMGR_TEST_DAEMONS=1 $(GO) test -count=1 -v -timeout 10m ./internal/daemons

check: format vet staticcheck manuals scripts test

format:
	@out=$$(gofmt -l .); test -z "$$out" || { echo "not formatted (gofmt -w): $$out" >&2; exit 1; }

vet:
	$(GO) vet ./...

staticcheck:
	$(GO) run $(STATICCHECK) ./...

# mandoc prints what it finds and its exit status is what counts.
manuals:
	mandoc -T lint -W warning man/*.[1-8]

scripts:
	shellcheck -s sh contrib/try/run.sh contrib/try/services/* contrib/services/* contrib/container/services/* contrib/init/run
	shellcheck -s bash .ci/run contrib/completions/svctl.bash

# Other systems: builds and vets for each of them.
cross:
	@for os in $(TARGETS); do \
		echo "cross $$os"; \
		GOOS=$$os CGO_ENABLED=0 $(GO) build -o /dev/null ./... && GOOS=$$os CGO_ENABLED=0 $(GO) vet ./... || exit 1; \
	done

# Prints ratios to a bare fork+exec+wait loop, memory, and what a daemon with a
# thousand services does at rest.
bench:
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m ./internal/bench
	$(GO) test -count=1 -v -run DaemonAtRest ./internal/load

# Kills the daemon at each of its system calls, lets them fail, attacks it, and
# brings chaos over it; best as root. It ends with a table of faults, tries and
# violations of the laws, and fails if there is a violation.
SHORT   =
SEED    =
MINUTES =
FAULT   = .
FUZZTIME = $(if $(SHORT),1s,30s)
FUZZ = ./internal/rundir:FuzzParseStatus ./internal/rundir:FuzzParsePid ./internal/rundir:FuzzReadHold \
	./internal/rundir:FuzzReadManner ./internal/rundir:FuzzParseSignal ./internal/rundir:FuzzParseSeconds \
	./internal/rundir:FuzzCheckName ./internal/rundir:FuzzParseRecord ./control:FuzzParseRequest ./control:FuzzLook \
	./internal/watch:FuzzDecode ./internal/program:FuzzInterpreter ./actor:FuzzStepKeepsItsLaws

torture: fuzz
	cd internal/torture && TORTURE=$(if $(SHORT),short,long) TORTURE_SEED='$(SEED)' TORTURE_MINUTES='$(MINUTES)' \
		$(GO) test -count=1 -timeout 0 -run '$(FAULT)'

# Feeds nonsense to every parser.
fuzz:
	@for f in $(FUZZ); do \
		out=$$($(GO) test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) "$${f%%:*}" 2>&1) || \
			{ printf '%s\n' "$$out" >&2; exit 1; }; \
		printf '%s: ' "$$f"; printf '%s\n' "$$out" | sed -n '/elapsed/{s/^fuzz: //;h;};$${x;p;}'; \
	done

install: all
	mkdir -p '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(SBINDIR)' '$(DESTDIR)$(MANDIR)/man1' '$(DESTDIR)$(MANDIR)/man7' '$(DESTDIR)$(MANDIR)/man8' '$(DESTDIR)$(SYSDIR)'
	install -m 755 '$(BIN)/sysmgr' '$(DESTDIR)$(SBINDIR)/'
	install -m 755 '$(BIN)/svctl' '$(BIN)/runsyssv' '$(BIN)/sysmgr-depends' '$(DESTDIR)$(BINDIR)/'
	install -m 644 man/*.1 '$(DESTDIR)$(MANDIR)/man1/'
	install -m 644 man/*.7 '$(DESTDIR)$(MANDIR)/man7/'
	install -m 644 man/*.8 '$(DESTDIR)$(MANDIR)/man8/'

# The service directory stays: it holds what others have put there.
uninstall:
	rm -f '$(DESTDIR)$(SBINDIR)/sysmgr' '$(DESTDIR)$(BINDIR)/svctl' '$(DESTDIR)$(BINDIR)/runsyssv' '$(DESTDIR)$(BINDIR)/sysmgr-depends'
	rm -f '$(DESTDIR)$(MANDIR)/man1/svctl.1' '$(DESTDIR)$(MANDIR)/man1/runsyssv.1' '$(DESTDIR)$(MANDIR)/man1/sysmgr-depends.1'
	rm -f '$(DESTDIR)$(MANDIR)/man7/sysmgr-states.7' '$(DESTDIR)$(MANDIR)/man8/sysmgr.8'

dist:
	mkdir -p dist
	git archive --prefix=sysmgr-$(VERSION)/ -o dist/sysmgr-$(VERSION).tar.gz HEAD

clean:
	rm -rf '$(BIN)' dist

.PHONY: always all run test test-daemons check format vet staticcheck manuals scripts cross bench torture fuzz install uninstall dist clean
