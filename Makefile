# sysmgr: build, test, install.
#
#   make                 build the four programs into bin/
#   make run             run them on example services, as an ordinary user
#   make test            run all tests
#   make check           everything that has to hold before a commit
#   make test-daemons    run real daemons under it: dbus, redis, postgres, nginx
#   make torture         try to break it, for a long time; SHORT=1 for two minutes
#   make bench           measure, each beside a bare loop that does the same
#   make test-vm         boot a kernel in QEMU, with sysmgr under its init
#   make test-services   run the scripts of contrib/services, as root
#   make test-container  sysmgr as process 1 of containers, as root
#   make cross           build and vet for other systems and machines
#   make dist            make a source archive of HEAD
#   make deb             make a Debian package
#   make install         install programs, manuals and completions
#
# Everything below can be set on the command line, as in: make PREFIX=/usr
# For make torture: SEED=N repeats one as far as that is possible, MINUTES=N is
# how long chaos lasts, FAULT=PATTERN picks tests by their names.

PREFIX   = /usr/local
BINDIR   = $(PREFIX)/bin
SBINDIR  = $(PREFIX)/sbin
MANDIR   = $(PREFIX)/share/man
BASHDIR  = $(PREFIX)/share/bash-completion/completions
ZSHDIR   = $(PREFIX)/share/zsh/site-functions
FISHDIR  = $(PREFIX)/share/fish/vendor_completions.d
SYSDIR   = /var/sysmgr
RUNDIR   = /run/sysmgr
DESTDIR  =
BIN      = bin
GO       = go

VERSION  = 0.8.0
PROGRAMS = sysmgr svctl runsyssv sysmgr-depends
TARGETS  = linux/arm64 linux/386 freebsd/amd64 openbsd/amd64 netbsd/amd64 darwin/arm64
LDFLAGS  = -s -w -X sysmgr/internal/cli.defaultSysdir=$(SYSDIR) -X sysmgr/internal/cli.defaultRundir=$(RUNDIR)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

all: $(BIN)/sysmgr

# Built anew when a source is newer or the flags are others than last time, so
# that 'make install', as root, needs no Go after 'make'.
$(BIN)/sysmgr: $(BIN)/.flags go.mod go.sum $(shell find cmd actor reaper scanner control internal -name '*.go')
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/...
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

# A kernel is downloaded for it, not installed; KERNEL is another one to take.
test-vm:
	kernel=$$(internal/vm/kernel '$(BIN)/vm') && SYSMGR_VM_KERNEL=$${kernel:+$$(realpath "$$kernel")} \
		$(GO) test -count=1 -v -timeout 600s ./internal/vm

test-services:
	SYSMGR_TEST_SERVICES=1 $(GO) test -count=1 -v -timeout 600s ./internal/services

test-container:
	SYSMGR_TEST_CONTAINER=1 $(GO) test -count=1 -v -timeout 600s ./internal/container

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
	shellcheck -s sh contrib/try/run.sh contrib/try/services/* contrib/services/* contrib/migrate/* contrib/container/root contrib/container/services/* contrib/init/run contrib/user/profile contrib/user/sysmgr.openrc contrib/screen/record contrib/screen/session contrib/debian/build internal/vm/kernel internal/vm/testdata/rc internal/vm/testdata/console internal/vm/testdata/services/*
	shellcheck -s bash .ci/run contrib/completions/svctl.bash

# Other systems and machines: builds and vets for each of them.
cross:
	@for target in $(TARGETS); do \
		echo "cross $$target"; \
		export GOOS=$${target%/*} GOARCH=$${target#*/} CGO_ENABLED=0; \
		$(GO) build -o /dev/null ./... && $(GO) vet ./... || exit 1; \
	done

# Prints one table: each measure beside its floor, the bare loop that does the
# same work in the same run. ROUNDS=N repeats it so often; PEERS=1 measures
# runit, s6 and daemontools too, where they are installed; SVG=FILE draws it;
# BENCH=one, many or scale measures only what is about so many services. Then
# the Go benchmarks, with allocations.
ROUNDS = 3
PEERS  =
SVG    =
BENCH  =
bench:
	SYSMGR_BENCH='$(ROUNDS)' SYSMGR_BENCH_PEERS='$(PEERS)' SYSMGR_BENCH_SVG='$(abspath $(SVG))' SYSMGR_BENCH_ONLY='$(BENCH)' \
		$(GO) test -count=1 -v -run TestTable -timeout 30m ./internal/bench
	$(GO) test -run '^$$' -bench . -benchmem ./actor ./scanner ./internal/rundir

# Kills the daemon at each of its system calls, lets them fail, attacks and
# floods it, sets its clock, and brings chaos over it; best as root. It ends with
# a table of faults, tries and violations of the laws, and fails if there is a
# violation. With SHORT=1 it does not go through all calls, but draws some.
SHORT   =
SEED    =
MINUTES =
FAULT   = .
# So many inputs, and not so many seconds: the deadline of go test makes a failure
# of an input that is just being tried.
FUZZTIME = $(if $(SHORT),500x,20000x)
FUZZ = ./internal/rundir:FuzzParseStatus ./internal/rundir:FuzzParsePid ./internal/rundir:FuzzReadHold \
	./internal/rundir:FuzzReadManner ./internal/rundir:FuzzParseSignal ./internal/rundir:FuzzParseSeconds \
	./internal/rundir:FuzzCheckName ./internal/rundir:FuzzParseRecord ./control:FuzzParseRequest ./control:FuzzLook \
	./internal/watch:FuzzDecode ./internal/program:FuzzInterpreter ./actor:FuzzStepKeepsItsLaws

torture: fuzz
	cd internal/torture && TORTURE=$(if $(SHORT),short,long) TORTURE_SEED='$(SEED)' TORTURE_MINUTES='$(MINUTES)' \
		$(GO) test -count=1 -timeout 0 -run '$(FAULT)'

# Feeds nonsense to every parser, two at a time.
fuzz:
	@printf '%s\n' $(FUZZ) | xargs -P 2 -I '{}' $(MAKE) --no-print-directory fuzz-one ONE='{}'

fuzz-one:
	@f='$(ONE)'; out=$$($(GO) test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) -parallel 1 "$${f%%:*}" 2>&1) || \
		{ printf '%s\n' "$$out" >&2; exit 1; }; \
	printf '%s: %s\n' "$$f" "$$(printf '%s\n' "$$out" | sed -n '/elapsed/{s/^fuzz: //;h;};$${x;p;}')"

# The picture of the README, anew.
screen: all
	contrib/screen/record '$(BIN)' >'$(BIN)/session.svg'
	mv '$(BIN)/session.svg' contrib/screen/session.svg

install: all
	mkdir -p '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(SBINDIR)' '$(DESTDIR)$(MANDIR)/man1' '$(DESTDIR)$(MANDIR)/man7' '$(DESTDIR)$(MANDIR)/man8' '$(DESTDIR)$(SYSDIR)'
	install -m 755 '$(BIN)/sysmgr' '$(DESTDIR)$(SBINDIR)/'
	install -m 755 '$(BIN)/svctl' '$(BIN)/runsyssv' '$(BIN)/sysmgr-depends' '$(DESTDIR)$(BINDIR)/'
	install -m 644 man/*.1 '$(DESTDIR)$(MANDIR)/man1/'
	install -m 644 man/*.7 '$(DESTDIR)$(MANDIR)/man7/'
	install -m 644 man/*.8 '$(DESTDIR)$(MANDIR)/man8/'
	mkdir -p '$(DESTDIR)$(BASHDIR)' '$(DESTDIR)$(ZSHDIR)' '$(DESTDIR)$(FISHDIR)'
	sed 's|/run/sysmgr|$(RUNDIR)|' contrib/completions/svctl.bash >'$(DESTDIR)$(BASHDIR)/svctl'
	sed 's|/run/sysmgr|$(RUNDIR)|' contrib/completions/_svctl >'$(DESTDIR)$(ZSHDIR)/_svctl'
	sed 's|/run/sysmgr|$(RUNDIR)|' contrib/completions/svctl.fish >'$(DESTDIR)$(FISHDIR)/svctl.fish'
	chmod 644 '$(DESTDIR)$(BASHDIR)/svctl' '$(DESTDIR)$(ZSHDIR)/_svctl' '$(DESTDIR)$(FISHDIR)/svctl.fish'
	for p in sysmgr runsyssv sysmgr-depends; do \
		ln -sf svctl '$(DESTDIR)$(BASHDIR)/'$$p && ln -sf svctl.fish '$(DESTDIR)$(FISHDIR)/'$$p.fish || exit 1; \
	done

# The service directory stays: it holds what others have put there.
uninstall:
	rm -f '$(DESTDIR)$(SBINDIR)/sysmgr' '$(DESTDIR)$(BINDIR)/svctl' '$(DESTDIR)$(BINDIR)/runsyssv' '$(DESTDIR)$(BINDIR)/sysmgr-depends'
	rm -f '$(DESTDIR)$(MANDIR)/man1/svctl.1' '$(DESTDIR)$(MANDIR)/man1/runsyssv.1' '$(DESTDIR)$(MANDIR)/man1/sysmgr-depends.1'
	rm -f '$(DESTDIR)$(MANDIR)/man7/sysmgr-states.7' '$(DESTDIR)$(MANDIR)/man8/sysmgr.8' '$(DESTDIR)$(ZSHDIR)/_svctl'
	for p in $(PROGRAMS); do rm -f '$(DESTDIR)$(BASHDIR)/'$$p '$(DESTDIR)$(FISHDIR)/'$$p.fish; done

# The same commit makes the same bytes, here and elsewhere.
dist:
	mkdir -p dist
	git -c tar.umask=0022 archive --format=tar --prefix=sysmgr-$(VERSION)/ HEAD | gzip -9n >dist/sysmgr-$(VERSION).tar.gz

deb:
	GO='$(GO)' MAKE='$(MAKE)' contrib/debian/build '$(VERSION)' dist

clean:
	rm -rf '$(BIN)' dist

.PHONY: always all run test test-daemons test-vm test-services test-container check format vet staticcheck manuals scripts cross bench torture fuzz fuzz-one install uninstall dist deb screen clean
