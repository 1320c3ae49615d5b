#!/bin/sh
# run.sh BIN_DIR: run sysmgr on a few example services in a temporary place,
# in the foreground, until ^C. This is what "make run" calls.
set -eu

if [ ! -x "${1:-}/sysmgr" ]; then
	echo "usage: run.sh BIN_DIR, where make has put sysmgr" >&2
	exit 2
fi
bin=$(cd "$1" && pwd)
services=$(cd "$(dirname "$0")/services" && pwd)

umask 022
place=$(mktemp -d "${TMPDIR:-/tmp}/sysmgr-try.XXXXXX")
trap 'rm -rf "$place"' EXIT
mkdir "$place/services"
cp "$services"/* "$place/services"
export SYSDIR="$place/services" RUNDIR="$place/run" PATH="$bin:$PATH"

# quoted WORD: as a shell reads it back.
quoted() {
	case $1 in
	*[!A-Za-z0-9_/.,:@%+=-]*) printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
	*) printf %s "$1" ;;
	esac
}

cat <<END
sysmgr now runs the example services of $services.
From another terminal, say first where it is:

    export SYSDIR=$(quoted "$SYSDIR")
    export RUNDIR=$(quoted "$RUNDIR")
    export PATH=$(quoted "$bin"):"\$PATH"

and then try:

    svctl status                        # how they are
    svctl stop web                      # stop it, and hold it down
    svctl start web
    svctl kill flaky                    # without mercy
    svctl restart db web                # web waits until db is ready
    chmod +x "\$SYSDIR/draft"            # put a blocked one right
    rm "\$SYSDIR/draft"                  # its service is stopped

    cat "\$RUNDIR/db/status"             # the same with plain tools
    kill "\$(cat "\$RUNDIR/db/pid")"      # it is started again
    echo TERM >"\$RUNDIR/db/lock"        # stop
    rm "\$RUNDIR/db/lock"                # start

^C here ends it all. This is the log:

END

# ^C reaches sysmgr too, and it shuts down by itself; a second signal changes
# nothing. The loop is there because a signal ends wait early.
daemon=
trap '[ -z "$daemon" ] || kill -TERM "$daemon" 2>/dev/null || :' INT TERM HUP QUIT
sysmgr &
daemon=$!
code=0
while kill -0 "$daemon" 2>/dev/null; do
	code=0
	wait "$daemon" || code=$?
done
exit "$code"
