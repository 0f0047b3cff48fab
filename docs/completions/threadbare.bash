# bash completion for threadbare. Made by `make docs-update`.
_threadbare() {
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} choices word
	# 127.0.0.1:80 is one word; bash breaks words at colons.
	if declare -F _get_comp_words_by_ref >/dev/null; then
		_get_comp_words_by_ref -n : -c current -p previous
	fi
	COMPREPLY=()
	case $previous in
	-l | --listen)
		choices='127.0.0.1: 0.0.0.0: [::]: unix:';;
	--framing)
		choices='line chunk';;
	--max-line | --connect-timeout | --max-connections | --max-per-ip | --give-way | --backlog | --idle-timeout | --message-timeout | --write-timeout | --drain-timeout | --stop-delay | --high-water | --max-output | --max-memory | --unix-mode)
		return;;
	http)
		mapfile -t COMPREPLY < <(compgen -d -- "$current")
		return;;
	proxy)
		choices='127.0.0.1: [::1]: unix:';;
	*)
		choices='greet once echo chat http proxy'
		for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
			case $word in greet | once | echo | chat | http | proxy) choices='';; esac
		done
		case $current in -*) choices='-l --listen --framing --max-line --access-log --connect-timeout --send-proxy --proxy-protocol --max-connections --max-per-ip --give-way --backlog --idle-timeout --message-timeout --write-timeout --drain-timeout --stop-delay --reuse-port --high-water --max-output --max-memory --unix-mode --narrate -v --verbose -q --quiet -h --help -V --version';; esac;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
	[[ ${COMPREPLY[0]-} != *: ]] || compopt -o nospace 2>/dev/null
	! declare -F __ltrim_colon_completions >/dev/null || __ltrim_colon_completions "$current"
}
complete -F _threadbare threadbare
