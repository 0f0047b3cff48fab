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
	--explain)
		choices='accept4 bind chmod clock_gettime clock_nanosleep close connect epoll_create1 epoll_ctl epoll_wait eventfd2 fchmod fcntl fcntl_inherit fcntl_nonblock flock fstat getsockname getsockopt getsockopt_listens getsockopt_error ioctl ioctl_outq listen lstat newfstatat openat2 openat2_as pread pread64 prlimit prlimit64 read read_diag read_counter read_signal recv recvfrom rt_sigaction rt_sigprocmask send sendto send_more sendfile sendmsg setsockopt shutdown signalfd4 socket socket_datagram socket_diag stat timerfd_create timerfd_settime unlink write write_diag write_counter EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNABORTED ECONNREFUSED ECONNRESET EDESTADDRREQ EEXIST EFAULT EHOSTDOWN EHOSTUNREACH EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR ELOOP EMFILE EMSGSIZE ENETDOWN ENETUNREACH ENFILE ENOBUFS ENOENT ENOLCK ENOMEM ENONET ENOPROTOOPT ENOSPC ENOSR ENOSYS ENOTCONN ENOTSOCK ENOTTY EOPNOTSUPP EOVERFLOW EPERM EPIPE EPROTO EPROTONOSUPPORT ESOCKTNOSUPPORT ESPIPE ETIMEDOUT EXDEV';;
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
		case $current in -*) choices='-l --listen --framing --max-line --access-log --connect-timeout --send-proxy --proxy-protocol --max-connections --max-per-ip --give-way --backlog --idle-timeout --message-timeout --write-timeout --drain-timeout --stop-delay --reuse-port --high-water --max-output --max-memory --unix-mode --narrate --explain -v --verbose -q --quiet -h --help -V --version';; esac;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
	[[ ${COMPREPLY[0]-} != *: ]] || compopt -o nospace 2>/dev/null
	! declare -F __ltrim_colon_completions >/dev/null || __ltrim_colon_completions "$current"
}
complete -F _threadbare threadbare
