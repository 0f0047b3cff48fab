#compdef threadbare
# zsh completion for threadbare. Made by `make docs-update`.
_threadbare_words() {
	compadd -S '' -- '127.0.0.1:' '0.0.0.0:' '[::]:' 'unix:'
}
_threadbare_handlers() {
	local -a handlers=(
		'greet:answers each line with "Thank you for your message <line>" (default)'
		'once:prints the first message that any client sends, answers it, and exits'
		'echo:sends the bytes back as they come'
		'chat:sends each line to all other clients as NAME\: line'
		'http:serves the files beneath DIR; without DIR, a plain "hello"'
		'proxy:forwards each client to the server at ADDR (written as for -l)'
	)
	_describe handler handlers
}
_threadbare_argument() {
	case ${(M)words:#(http|proxy)} in
	http) _files -/;;
	proxy) _threadbare_words;;
	esac
}
_arguments -s -S \
	'*-l[HOST\:PORT, \[V6\]\:PORT, unix\:PATH, fd\:N; may be repeated (127.0.0.1\:1234; once\: 127.0.0.1\:9999)]:address:_threadbare_words' \
	'*--listen[HOST\:PORT, \[V6\]\:PORT, unix\:PATH, fd\:N; may be repeated (127.0.0.1\:1234; once\: 127.0.0.1\:9999)]:address:_threadbare_words' \
	'--framing[a message is a line, or what one recv returned (line)]:line or chunk:(line chunk)' \
	'--max-line[the longest line (64K)]:BYTES: ' \
	'--access-log[log each answer on stderr, in the Common Log Format]' \
	'--connect-timeout[wait at most S seconds for a connection (10)]:S: ' \
	'--send-proxy[name the client to the server at ADDR (PROXY v2)]' \
	'--proxy-protocol[expect a PROXY header (v1, v2) from each connection]' \
	'--max-connections[clients served at once; more wait in the queue (10000)]:N: ' \
	'--max-per-ip[clients served at once per address (0\: no limit)]:N: ' \
	'--give-way[when full, close a crowded IP'\''s clients idle for S (1)]:S: ' \
	'--backlog[clients that may wait in the queue (4096)]:N: ' \
	'--idle-timeout[close a client after S seconds of silence (300)]:S: ' \
	'--message-timeout[close a client whose message takes longer than S (30)]:S: ' \
	'--write-timeout[close a client that reads nothing for S (60)]:S: ' \
	'--drain-timeout[at a stop, wait at most S for clients to finish (10)]:S: ' \
	'--stop-delay[serve on for S after the first signal to stop (0)]:S: ' \
	'--reuse-port[share the port with a successor, which gets new clients]' \
	'--high-water[stop reading a client with this much unsent (256K)]:BYTES: ' \
	'--max-output[close a client with this much unsent (4M)]:BYTES: ' \
	'--max-memory[limit on waiting bytes, all clients together (256M)]:BYTES: ' \
	'--unix-mode[permissions of unix\:PATH (0600)]:MODE: ' \
	'--narrate[show every system call, and client data, on stderr]' \
	'--explain[print what docs/ says about it\: accept4, EMFILE]:CALL or ERRNO:(accept4 bind chmod clock_gettime clock_nanosleep close connect epoll_create1 epoll_ctl epoll_wait eventfd2 fchmod fcntl fcntl_inherit fcntl_nonblock flock fstat getsockname getsockopt getsockopt_listens getsockopt_error ioctl ioctl_outq listen lstat newfstatat openat2 openat2_as pread pread64 prlimit prlimit64 read read_diag read_counter read_signal recv recvfrom rt_sigaction rt_sigprocmask send sendto send_more sendfile sendmsg setsockopt shutdown signalfd4 socket socket_datagram socket_diag stat timerfd_create timerfd_settime unlink write write_diag write_counter EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNABORTED ECONNREFUSED ECONNRESET EDESTADDRREQ EEXIST EFAULT EHOSTDOWN EHOSTUNREACH EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR ELOOP EMFILE EMSGSIZE ENETDOWN ENETUNREACH ENFILE ENOBUFS ENOENT ENOLCK ENOMEM ENONET ENOPROTOOPT ENOSPC ENOSR ENOSYS ENOTCONN ENOTSOCK ENOTTY EOPNOTSUPP EOVERFLOW EPERM EPIPE EPROTO EPROTONOSUPPORT ESOCKTNOSUPPORT ESPIPE ETIMEDOUT EXDEV)' \
	'-v[log more]' \
	'--verbose[log more]' \
	'-q[log errors only]' \
	'--quiet[log errors only]' \
	'-h[print this page; after HANDLER, the options of that one]' \
	'--help[print this page; after HANDLER, the options of that one]' \
	'-V[print the version]' \
	'--version[print the version]' \
	'1:handler:_threadbare_handlers' \
	'2:argument:_threadbare_argument'
