# fish completion for svctl(1), sysmgr-depends(1), runsyssv(1) and sysmgr(8).
# Put it into a directory of $fish_complete_path, with links to it under the
# names of the other three.

# The services in the run directory, each with its phase.
function __sysmgr_names
    set -l dir $RUNDIR
    if test -z "$dir"
        if test (id -u) -eq 0
            set dir /run/sysmgr
        else
            set dir $XDG_RUNTIME_DIR/sysmgr
        end
    end
    for path in $dir/*/status
        test -f $path; and read -l word phase <$path; or continue # its first line
        set -l folder (string replace -r '/status$' '' -- $path)
        test "$phase" = up; and test -f $folder/waiting; and set phase waiting
        printf '%s\t%s\n' (string replace -r '.*/' '' -- $folder) $phase
    end
end

# The words behind svctl that are no options: the verb first.
function __svctl_words
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip -eq 1
            set skip 0
            continue
        end
        switch $word
            case -w
                set skip 1
            case '-*'
            case '*'
                echo -- $word
        end
    end
end

function __svctl_wants_verb
    test (count (__svctl_words)) -eq 0
end

# Whether the verb is one of those given, and nothing is behind it yet.
function __svctl_behind
    set -l words (__svctl_words)
    test (count $words) -eq 1; and contains -- $words[1] $argv
end

function __svctl_wants_name
    set -l words (__svctl_words)
    test (count $words) -gt 0; or return
    contains -- $words[1] signal wait; and test (count $words) -eq 1; and return 1
    return 0
end

complete -c svctl -f
complete -c svctl -n __svctl_wants_verb -s w -x -d 'Wait this many seconds at most'
complete -c svctl -n __svctl_wants_verb -s q -d 'Print nothing'
complete -c svctl -n __svctl_wants_verb -s j -d 'status, watch: print JSON'
complete -c svctl -n __svctl_wants_verb -s t -d 'status: print who needs whom'
complete -c svctl -n __svctl_wants_verb -s h -d 'Print help'
complete -c svctl -n __svctl_wants_verb -s V -d 'Print the version'
complete -c svctl -n __svctl_wants_verb -a 'start up' -d 'Keep alive from now on'
complete -c svctl -n __svctl_wants_verb -a 'stop down' -d 'Stop and hold'
complete -c svctl -n __svctl_wants_verb -a restart -d 'Stop, then start'
complete -c svctl -n __svctl_wants_verb -a once -d 'Start, and do not restart when it ends'
complete -c svctl -n __svctl_wants_verb -a kill -d 'Stop with KILL, and hold'
complete -c svctl -n __svctl_wants_verb -a reload -d 'Send HUP'
complete -c svctl -n __svctl_wants_verb -a signal -d 'Send any other signal'
complete -c svctl -n __svctl_wants_verb -a 'status stat' -d 'Show how services are'
complete -c svctl -n __svctl_wants_verb -a wait -d 'Wait until up, down or ready'
complete -c svctl -n __svctl_wants_verb -a watch -d 'Show every change as it happens'
complete -c svctl -n '__svctl_behind signal' -a 'HUP INT QUIT ABRT KILL USR1 USR2 ALRM TERM CONT STOP TSTP WINCH'
complete -c svctl -n '__svctl_behind wait' -a 'up down ready'
complete -c svctl -n __svctl_wants_name -a '(__sysmgr_names)'

complete -c sysmgr-depends -f -a '(__sysmgr_names)'
complete -c sysmgr-depends -s r -d 'Wait until ready, not only up'
complete -c sysmgr-depends -s w -x -d 'Wait this many seconds at most'
complete -c sysmgr-depends -s h -d 'Print help'
complete -c sysmgr-depends -s V -d 'Print the version'

complete -c runsyssv -s h -d 'Print help'
complete -c runsyssv -s V -d 'Print the version'

complete -c sysmgr -f
complete -c sysmgr -s v -d 'Log every decision'
complete -c sysmgr -s l -x -a 'console json' -d 'Encoding of the log'
complete -c sysmgr -s t -x -d 'Seconds from the stop signal to KILL'
complete -c sysmgr -s e -x -a '(__sysmgr_names)' -d 'End with this service'
complete -c sysmgr -s h -d 'Print help'
complete -c sysmgr -s V -d 'Print the version'
