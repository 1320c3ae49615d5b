# bash completion for svctl(1), sysmgr-depends(1), runsyssv(1) and sysmgr(8).
# Source it, or put it where bash-completion looks, under the name svctl, with
# links to it under the names of the others.

# _sysmgr_names WORD: the services in the run directory that begin with WORD,
# which is what was typed so far, quotes included.
_sysmgr_names() {
	local dir=$RUNDIR path name word=$1 before
	if [[ -z $dir ]]; then
		if ((EUID == 0)); then
			dir=/run/sysmgr
		else
			dir=$XDG_RUNTIME_DIR/sysmgr
		fi
	fi
	# readline replaces only what stands behind the last of these.
	before=${word%"${word##*[@:=]}"}
	for path in "$dir"/*/; do
		[[ -f $path/status ]] || continue
		name=${path%/}
		printf -v name %q "${name##*/}"
		[[ $name == "$word"* ]] && COMPREPLY+=("${name#"$before"}")
	done
}

# _sysmgr_word: the word under the cursor in $word, which COMP_WORDS may have
# in pieces, and the words before it in $words.
_sysmgr_word() {
	local line=${COMP_LINE:0:COMP_POINT} pattern='^[[:space:]]*(([^[:space:]\\]|\\.)*\\?)(.*)$'
	words=()
	while [[ $line =~ $pattern && -n ${BASH_REMATCH[3]} ]]; do
		words+=("${BASH_REMATCH[1]}")
		line=${BASH_REMATCH[3]}
	done
	word=${BASH_REMATCH[1]}
}

_svctl() {
	local word words=() verb='' first='' i
	_sysmgr_word
	COMPREPLY=()
	for ((i = 1; i < ${#words[@]}; i++)); do
		case ${words[i]} in
		-w) [[ -z $verb ]] && ((i++)) ;;
		-*) [[ -n $verb && -z $first ]] && first=${words[i]} ;;
		*)
			if [[ -z $verb ]]; then
				verb=${words[i]}
			elif [[ -z $first ]]; then
				first=${words[i]}
			fi
			;;
		esac
	done
	case $verb in
	'')
		[[ ${words[-1]} == -w ]] && return
		mapfile -t COMPREPLY < <(compgen -W "start stop restart once kill reload signal status wait watch
			up down stat -w -q -j -t -h -V" -- "$word")
		;;
	signal)
		if [[ -z $first ]]; then
			mapfile -t COMPREPLY < <(compgen -W "HUP INT QUIT ABRT KILL USR1 USR2 ALRM TERM CONT STOP TSTP WINCH" -- "$word")
		else
			_sysmgr_names "$word"
		fi
		;;
	wait)
		if [[ -z $first ]]; then
			mapfile -t COMPREPLY < <(compgen -W "up down ready" -- "$word")
		else
			_sysmgr_names "$word"
		fi
		;;
	*) _sysmgr_names "$word" ;;
	esac
}

_sysmgr_depends() {
	local word words=()
	_sysmgr_word
	COMPREPLY=()
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "-r -w -h -V" -- "$word")
	elif [[ ${words[-1]} != -w ]]; then
		_sysmgr_names "$word"
	fi
}

_sysmgr() {
	local word words=()
	_sysmgr_word
	COMPREPLY=()
	case ${words[-1]} in
	-l) mapfile -t COMPREPLY < <(compgen -W "console json" -- "$word") ;;
	-e) _sysmgr_names "$word" ;;
	-t) ;;
	*) mapfile -t COMPREPLY < <(compgen -W "-v -l -t -e -h -V" -- "$word") ;;
	esac
}

complete -F _svctl svctl
complete -F _sysmgr_depends sysmgr-depends
complete -F _sysmgr sysmgr
complete -o default -W "-h -V" runsyssv
