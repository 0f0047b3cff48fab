//! What Linux really does: each fact that the server, the simulated kernel or the
//! docs rely on is one small test on real sockets. If one fails on your kernel, the
//! comment above it says what no longer holds. A comment that ends with a full stop stands
//! word for word in docs/.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::fs::{self, File};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{
    ControlMessage, GetSockOpt, MsgFlags, SetSockOpt, getsockopt, send, sendmsg, setsockopt,
    sockopt,
};
use nix::sys::stat::{Mode, umask};
use support::{PATIENCE, Scratch, again, command, in_a_network_of_its_own, needs, outcome, until};
use threadbare::kernel::{
    Address, Clock, ERR, EpollOp, Errno, Event, Fd, FileKind, HUP, IN, IOV_MAX, Kernel, Linux, OUT,
    OpenAs, Peer, Signal, SocketOption, Wait,
};

const RDHUP: u32 = nix::libc::EPOLLRDHUP as u32;
const EDGE: u32 = nix::libc::EPOLLET as u32;
const ONESHOT: u32 = nix::libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = nix::libc::EPOLLEXCLUSIVE as u32;

// ---- instruments -----------------------------------------------------------------

/// Sends this thread a signal.
fn raise(signal: Signal) -> nix::Result<()> {
    nix::sys::signal::raise(support::Signal::try_from(signal as i32)?)
}

/// The descriptor of a std socket, lent to the kernel's calls.
#[allow(unsafe_code)]
fn fd(socket: &impl AsRawFd) -> ManuallyDrop<Fd> {
    // SAFETY: it is open, and stays the socket's: nothing here closes it.
    ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(socket.as_raw_fd()) }.into())
}

/// A descriptor that is closed at the end.
struct Own(Option<Fd>);

impl Own {
    fn fd(&self) -> &Fd {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        Linux.close(self.0.take().unwrap()).unwrap();
    }
}

fn own(made: Result<Fd, Errno>) -> Own {
    Own(Some(made.unwrap()))
}

/// An epoll set.
struct Set(Own);

impl Set {
    fn new() -> Set {
        Set(own(Linux.epoll_create1()))
    }

    /// A set that watches one descriptor.
    fn of(fd: &Fd, mask: u32) -> Set {
        let set = Set::new();
        set.add(fd, mask).unwrap();
        set
    }

    fn add(&self, fd: &Fd, mask: u32) -> Result<(), Errno> {
        Linux.epoll_ctl(self.0.fd(), EpollOp::Add, fd, Event { mask, data: 7 })
    }

    fn modify(&self, fd: &Fd, mask: u32) -> Result<(), Errno> {
        Linux.epoll_ctl(self.0.fd(), EpollOp::Modify, fd, Event { mask, data: 7 })
    }

    /// What the one descriptor that it watches is ready for now.
    fn look(&self) -> u32 {
        let mut events = [Event::default()];
        let count = Linux.epoll_wait(self.0.fd(), &mut events, Wait::No).unwrap();
        if count == 1 { events[0].mask } else { 0 }
    }

    /// Waits until it is ready for just this.
    #[track_caller]
    fn until(&self, mask: u32) {
        until("the event", || self.look() == mask);
    }

    /// It is ready for this, and says so each time it is asked.
    #[track_caller]
    fn fires_for_ever(&self, mask: u32) {
        self.until(mask);
        assert!((0..1_000).all(|_| self.look() == mask));
    }
}

/// A listener of its own address, without options.
fn listen(port: u16, options: &[SocketOption]) -> Result<Own, Errno> {
    let socket = bind(port, options)?;
    Linux.listen(socket.fd(), 16)?;
    Ok(socket)
}

fn bind(port: u16, options: &[SocketOption]) -> Result<Own, Errno> {
    let address = Address::Tcp(local(port));
    let socket = own(Linux.socket(&address));
    options.iter().try_for_each(|&option| Linux.setsockopt(socket.fd(), option))?;
    Linux.bind(socket.fd(), &address)?;
    Ok(socket)
}

/// An address that no other test program binds ports of.
fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 7, 7), port).into()
}

fn address_of(listener: &Own) -> SocketAddr {
    match Linux.getsockname(listener.fd()).unwrap() {
        Address::Tcp(address) => address,
        Address::Unix(_) => unreachable!(),
    }
}

/// Two ends of a connection: the server's, which does not block, and the client's.
fn pair() -> (TcpStream, TcpStream) {
    pair_of(&TcpListener::bind(local(0)).unwrap())
}

fn pair_of(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = listener.accept().unwrap().0;
    server.set_nonblocking(true).unwrap();
    (server, client)
}

fn recv(socket: &impl AsRawFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; 4096];
    Linux.recv(&fd(socket), &mut buffer).map(|count| buffer[..count].to_vec())
}

fn reset(client: TcpStream) {
    Linux.setsockopt(&fd(&client), SocketOption::ResetOnClose).unwrap();
}

/// The server sends until the kernel takes no more: how much.
fn fill(server: &TcpStream) -> usize {
    let piece = [b'x'; 65_536];
    let mut sent = 0;
    while let Ok(count) = Linux.send(&fd(server), &piece) {
        sent += count;
    }
    sent
}

/// All that a client hears, and how it ends.
fn hear(mut client: TcpStream) -> (usize, Result<usize, ErrorKind>) {
    let mut heard = Vec::new();
    let end = client.read_to_end(&mut heard).map_err(|error| error.kind());
    (heard.len(), end)
}

/// The flags of a descriptor, as open(2) names them.
fn flags(fd: &Fd) -> i32 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.number())).unwrap();
    let octal = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(octal.trim(), 8).unwrap()
}

/// Runs a test in a process of its own: it changes what belongs to the process.
fn alone(name: &str, test: impl FnOnce()) {
    let Some(output) = in_a_process(name, test) else { return };
    let (is_true, said) = outcome(&output);
    assert!(is_true, "{said}");
}

/// Runs a test that lets sockets hear nothing: where this process may not, as root in a user
/// namespace of its own, which may.
fn deafening(name: &str, test: impl FnOnce()) {
    in_a_network_of_its_own(name, "ip link set lo up", test);
}

/// Runs a test that may end its process in one of its own: how that ended, but for the process
/// itself.
fn in_a_process(name: &str, test: impl FnOnce()) -> Option<Output> {
    const IN_CHILD: &str = "THREADBARE_FACT";
    if std::env::var(IN_CHILD).is_ok() {
        test();
        return None;
    }
    Some(again(&mut command("env"), name).env(IN_CHILD, "1").output().unwrap())
}

/// Lets a socket hear nothing any more: a filter drops what comes for it. Or undoes a filter.
#[allow(unsafe_code)]
fn deafen(socket: &impl AsRawFd, deaf: bool) {
    use nix::libc;
    let mut nothing = libc::sock_filter { code: libc::BPF_RET as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let option = if deaf { libc::SO_ATTACH_FILTER } else { libc::SO_DETACH_FILTER };
    let (value, length) = ((&raw const program).cast(), size_of_val(&program) as u32);
    // SAFETY: `program` and the instruction that it points to outlive the call.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length) };
    assert_eq!(set, 0);
}

// ---- a door ----------------------------------------------------------------------

/// Sets an option of a listener: does the accepted socket have it?
#[track_caller]
fn is_inherited<O, T>(option: O, value: T)
where
    O: GetSockOpt<Val = T> + SetSockOpt<Val = T> + Copy,
    T: PartialEq + std::fmt::Debug,
{
    let listener = TcpListener::bind(local(0)).unwrap();
    setsockopt(&listener, option, &value).unwrap();
    let (server, client) = pair_of(&listener);
    let set = getsockopt(&listener, option).unwrap();
    assert_ne!(getsockopt(&client, option).unwrap(), set, "the default is another");
    assert_eq!(getsockopt(&server, option).unwrap(), set);
}

#[test] // An accepted socket inherits `TCP_NODELAY`, `SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_USER_TIMEOUT` and `SO_OOBINLINE` from its listener (Linux 6.18).
fn options_are_inherited() {
    is_inherited(sockopt::TcpNoDelay, true);
    is_inherited(sockopt::KeepAlive, true);
    is_inherited(sockopt::TcpKeepIdle, 77);
    is_inherited(sockopt::TcpUserTimeout, 7_777);
    is_inherited(sockopt::ReuseAddr, true);
    is_inherited(sockopt::OobInline, true);
    is_inherited(sockopt::Linger, nix::libc::linger { l_onoff: 1, l_linger: 7 });
    is_inherited(sockopt::RcvBuf, 30_000);
    is_inherited(sockopt::SndBuf, 30_000);
}

#[test] // Without SO_OOBINLINE an urgent byte is taken out of the stream, and `recv` never returns it; with it the byte keeps its place.
fn an_urgent_byte_is_lost_or_inline() {
    let heard = |listener: &TcpListener| {
        let (mut server, client) = pair_of(listener);
        send(client.as_raw_fd(), b"ab!", MsgFlags::MSG_OOB).unwrap();
        send(client.as_raw_fd(), b"cd", MsgFlags::empty()).unwrap();
        drop(client);
        let mut heard = String::new();
        server.read_to_string(&mut heard).unwrap();
        heard
    };
    let listener = TcpListener::bind(local(0)).unwrap();
    assert_eq!(heard(&listener), "abcd");
    Linux.setsockopt(&fd(&listener), SocketOption::UrgentInline).unwrap();
    assert_eq!(heard(&listener), "ab!cd");
}

#[test] // A Unix socket does not inherit SO_OOBINLINE, and its urgent byte is lost.
fn an_urgent_byte_on_a_unix_socket() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.path("s")).unwrap();
    Linux.setsockopt(&fd(&listener), SocketOption::UrgentInline).unwrap();
    let client = UnixStream::connect(scratch.path("s")).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    match send(client.as_raw_fd(), b"ab!", MsgFlags::MSG_OOB) {
        Err(nix::Error::EOPNOTSUPP) => return, // before Linux 5.15, and where it is not built in
        sent => assert_eq!(sent, Ok(3)),
    }
    drop(client);
    let mut heard = String::new();
    let _ = server.read_to_string(&mut heard);
    assert_eq!(heard, "ab");
}

#[test] // TCP_NOTSENT_LOWAT of the listener bounds what the kernel takes for a client that does not read.
fn notsent_lowat_is_inherited() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let (roomy, _client) = pair_of(&listener);
    Linux.setsockopt(&fd(&listener), SocketOption::NotSentLowat(131_072)).unwrap();
    let (tight, _client) = pair_of(&listener);
    let (roomy, tight) = (fill(&roomy), fill(&tight));
    assert!(tight < 800_000 && tight * 2 < roomy, "{tight} {roomy}");
}

#[test] // While TCP_CORK is set the kernel holds back a part of a segment, even with TCP_NODELAY.
fn a_cork_holds_a_part_of_a_segment() {
    let (server, client) = pair();
    let set = |option| Linux.setsockopt(&fd(&server), option).unwrap();
    set(SocketOption::NoDelay);
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let is_held = |_| {
        set(SocketOption::Cork(true));
        Linux.send(&fd(&server), b"x").unwrap();
        let held = (&client).read(&mut [0]).is_err();
        set(SocketOption::Cork(false));
        if held {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!((&client).read(&mut [0]).unwrap(), 1);
        }
        held
    };
    assert!((0..20).any(is_held)); // for 200 ms, which may have passed on a busy machine
}

#[test] // What was sent with MSG_MORE waits for the FIN, and leaves with it.
fn fin_takes_along_what_waits() {
    let is_held_until = |end: fn(TcpStream)| {
        let (server, mut client) = pair();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Linux.send_more(&fd(&server), b"x").unwrap();
        let is_held = client.read(&mut [0]).is_err();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let watch = Instant::now();
        end(server);
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        is_held && all == b"x" && watch.elapsed() < Duration::from_millis(100)
    };
    assert!((0..20).any(|_| is_held_until(|server| server.shutdown(Shutdown::Write).unwrap())));
    assert!((0..20).any(|_| is_held_until(drop))); // without a FIN it would take 200 ms
}

#[test] // O_NONBLOCK is not inherited from the listener (Linux 6.18).
fn nonblocking_is_not_inherited() {
    let listener = TcpListener::bind(local(0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    Set::of(&fd(&listener), IN).until(IN);
    let server = listener.accept().unwrap().0;
    assert_eq!(flags(&fd(&server)) & nix::libc::O_NONBLOCK, 0);
}

#[test] // With SOCK_NONBLOCK and SOCK_CLOEXEC the new descriptor is non-blocking and close-on-exec from the beginning.
fn accept4_sets_both_flags() {
    let listener = listen(0, &[]).unwrap();
    let _client = TcpStream::connect(address_of(&listener)).unwrap();
    let server = own(Linux.accept4(listener.fd()).map(|(fd, _)| fd));
    let both = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    assert_eq!(flags(server.fd()) & both, both);
}

#[test] // With a backlog of 3, four clients are connected, and the fifth gets no answer (Linux 6.18).
fn backlog_is_one_more() {
    let listener = bind(0, &[]).unwrap();
    Linux.listen(listener.fd(), 3).unwrap();
    let address = address_of(&listener);
    let _queued: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
    let fifth = TcpStream::connect_timeout(&address, Duration::from_millis(100));
    assert_eq!(fifth.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test] // A client that resets while it waits in the queue is still accepted: on Linux 6.18 `accept4` succeeds, and the first `recv` fails with ECONNRESET.
fn reset_in_the_queue_is_accepted() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let name = client.local_addr().unwrap();
    reset(client);
    let (server, peer) = listener.accept().unwrap();
    assert_eq!(peer, name);
    assert_eq!(server.peer_addr().unwrap_err().raw_os_error(), Some(Errno::ENOTCONN as i32));
    assert_eq!(recv(&server), Err(Errno::ECONNRESET));
}

#[test] // `getpeername` fails with ENOTCONN after a reset, and once both sides have ended.
fn getpeername_after_an_end() {
    let (server, client) = pair();
    client.shutdown(Shutdown::Write).unwrap();
    Set::of(&fd(&server), IN).until(IN);
    assert!(server.peer_addr().is_ok());
    server.shutdown(Shutdown::Write).unwrap();
    Set::of(&fd(&server), 0).until(HUP);
    assert_eq!(server.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
    let (server, client) = pair();
    reset(client);
    Set::of(&fd(&server), 0).until(ERR | HUP);
    assert_eq!(server.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test] // A handshake that ends while the queue is full leaves the client connected and the server in SYN_RECV; bytes sent by the client arrive when the queue has room.
fn connected_is_not_queued() {
    deafening("connected_is_not_queued", || {
        let listener = bind(0, &[]).unwrap();
        Linux.listen(listener.fd(), 2).unwrap();
        let address = address_of(&listener);
        let late = own(Linux.socket(&Address::Tcp(address)));
        deafen(&late.fd().number(), true); // it does not hear the answer to its SYN
        assert_eq!(Linux.connect(late.fd(), &Address::Tcp(address)), Err(Errno::EINPROGRESS));
        let _queued: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        deafen(&late.fd().number(), false);
        Set::of(late.fd(), OUT).until(OUT);
        assert_eq!(Linux.getsockopt_error(late.fd()), Ok(None));
        assert_eq!(Linux.send(late.fd(), b"hello"), Ok(5));
        // The server's side still is in SYN_RECV, which is state 3.
        let row = format!("{} {} 03", hex(address), hex(address_of(&late)));
        assert!(fs::read_to_string("/proc/net/tcp").unwrap().contains(&row));
        let accept = || Linux.accept4(listener.fd()).map(|(fd, peer)| (Own(Some(fd)), peer));
        let _accepted: Vec<_> = (0..3).map(|_| accept().unwrap()).collect();
        // Its bytes are sent again, and now there is room.
        until("the fourth", || {
            accept().is_ok_and(|(_, peer)| peer == Peer::Tcp(address_of(&late)))
        });
    });
}

#[test] // The SYN queue has the bound of the accept queue, backlog + 1.
fn the_syn_queue_is_as_long() {
    deafening("the_syn_queue_is_as_long", || {
        let listener = bind(0, &[]).unwrap();
        Linux.listen(listener.fd(), 4).unwrap();
        let address = Address::Tcp(address_of(&listener));
        let late = || {
            let socket = own(Linux.socket(&address));
            deafen(&socket.fd().number(), true);
            assert_eq!(Linux.connect(socket.fd(), &address), Err(Errno::EINPROGRESS));
            socket
        };
        let _late: Vec<_> = (0..8).map(|_| late()).collect();
        assert_eq!(count(SYN_RECV), 5);
    });
}

/// The states of a connection that are counted here, as /proc/net/tcp has them.
const SYN_RECV: &str = "03";
const FIN_WAIT_2: &str = "05";
const TIME_WAIT: &str = "06";

/// How many IPv4 sockets of this network are in a state.
fn count(state: &str) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter(|line| line.split_whitespace().nth(3) == Some(state)).count()
}

/// An address as in /proc/net/tcp.
fn hex(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { unreachable!() };
    format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
}

#[test] // Closing a listener resets the clients in its queue, and so does `shutdown`.
fn closing_a_listener_resets_its_queue() {
    let shut_down = |listener: Own| {
        let both = nix::sys::socket::Shutdown::Both;
        nix::sys::socket::shutdown(listener.fd().number(), both).unwrap();
        Some(listener)
    };
    let close = |listener: Own| {
        drop(listener);
        None
    };
    for end in [shut_down, close] {
        let listener = listen(0, &[]).unwrap();
        let client = TcpStream::connect(address_of(&listener)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let _open = end(listener);
        assert_eq!(hear(client), (0, Err(ErrorKind::ConnectionReset)));
    }
}

#[test] // With `net.ipv4.tcp_migrate_req` = 1 the queue of a listener that closes goes to another one of the same port.
fn a_queue_may_migrate() {
    let migrate = "sysctl -qw net.ipv4.tcp_migrate_req=1";
    in_a_network_of_its_own("a_queue_may_migrate", migrate, || {
        let (first, address) = sharing(0);
        let _clients: Vec<_> = (0..9).map(|_| TcpStream::connect(address).unwrap()).collect();
        let (second, _) = sharing(address.port());
        drop(first);
        assert_eq!(queued(&second), 9);
    });
}

#[test] // EMFILE does not even show that a client waits: the kernel looks for a free descriptor before it looks at the queue.
fn emfile_comes_before_eagain() {
    alone("emfile_comes_before_eagain", || {
        let listener = listen(0, &[]).unwrap();
        let spare = File::open("/dev/null").unwrap();
        let next = spare.as_raw_fd() as u64 + 1;
        setrlimit(Resource::RLIMIT_NOFILE, next, next).unwrap();
        assert_eq!(Linux.accept4(listener.fd()), Err(Errno::EMFILE));
        drop(spare);
        assert_eq!(Linux.accept4(listener.fd()), Err(Errno::EAGAIN));
    });
}

#[test] // A listener that was shut down reports EPOLLHUP forever, and `accept4` fails with EINVAL.
fn a_dead_listener_hangs_up() {
    let listener = listen(0, &[]).unwrap();
    let set = Set::of(listener.fd(), 0);
    nix::sys::socket::shutdown(listener.fd().number(), nix::sys::socket::Shutdown::Both).unwrap();
    set.fires_for_ever(HUP);
    assert_eq!(Linux.accept4(listener.fd()), Err(Errno::EINVAL));
}

/// Binds a port in TIME_WAIT, after a listener with and without SO_REUSEADDR.
fn rebinds(old: &[SocketOption], new: &[SocketOption]) -> bool {
    let listener = listen(0, old).unwrap();
    let address = address_of(&listener);
    let mut client = TcpStream::connect(address).unwrap();
    // Who closes first gets TIME_WAIT: the server.
    drop(own(Linux.accept4(listener.fd()).map(|(fd, _)| fd)));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop((client, listener));
    match listen(address.port(), new) {
        Ok(_) => true,
        Err(Errno::EADDRINUSE) => false,
        Err(errno) => panic!("{errno}"),
    }
}

#[test] // With SO_REUSEADDR a port in TIME_WAIT can be bound again, but only if the *old* socket had it too (Linux 6.18).
fn reuseaddr_is_needed_before_and_after() {
    // Elsewhere the kernel may hold as many in TIME_WAIT as it will.
    in_a_network_of_its_own("reuseaddr_is_needed_before_and_after", "", || {
        let with = [SocketOption::ReuseAddr];
        assert!(rebinds(&with, &with));
        assert!(!rebinds(&[], &with));
        assert!(!rebinds(&with, &[]));
        assert!(!rebinds(&[], &[]));
    });
}

#[test] // While neither listens, two sockets with SO_REUSEADDR may bind one port, and the second one's `listen` fails with EADDRINUSE (Linux 6.18).
fn second_listen_fails() {
    let options = [SocketOption::ReuseAddr];
    let first = bind(0, &options).unwrap();
    let second = bind(address_of(&first).port(), &options).unwrap();
    Linux.listen(first.fd(), 1).unwrap();
    assert_eq!(Linux.listen(second.fd(), 1), Err(Errno::EADDRINUSE));
    // And once one listens, binding fails already.
    let third = bind(address_of(&first).port(), &options);
    assert_eq!(third.map(drop), Err(Errno::EADDRINUSE));
}

#[test] // Where another socket listens already, `bind` itself fails with EADDRINUSE, SO_REUSEADDR or not.
fn bind_fails_beside_a_listener() {
    let first = listen(0, &[SocketOption::ReuseAddr]).unwrap();
    let second = bind(address_of(&first).port(), &[SocketOption::ReuseAddr]);
    assert_eq!(second.err(), Some(Errno::EADDRINUSE));
}

/// Runs a test without the capabilities that an ordinary user does not have either.
fn as_an_ordinary_user(name: &str, test: impl FnOnce()) {
    const ORDINARY: &str = "THREADBARE_ORDINARY";
    if std::env::var(ORDINARY).is_ok() || !is_privileged() {
        return test();
    }
    if needs(&["setpriv"]) {
        let mut setpriv = command("setpriv");
        setpriv.args(["--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]);
        let output = again(&mut setpriv, name).env(ORDINARY, "1").output().unwrap();
        let (is_true, said) = outcome(&output);
        assert!(is_true, "{said}");
    }
}

/// Whether it has CAP_NET_ADMIN or CAP_NET_RAW.
fn is_privileged() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(effective, 16).unwrap() & (1 << 12 | 1 << 13) != 0
}

#[test] // A listener that is bound to no device refuses new clients at once, and the clients in its queue are served.
fn a_listener_of_no_device_refuses() {
    as_an_ordinary_user("a_listener_of_no_device_refuses", || {
        let listener = TcpListener::bind(local(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = TcpStream::connect(address).unwrap();
        Linux.setsockopt(&fd(&listener), SocketOption::NoDevice).unwrap();
        let late = TcpStream::connect(address);
        assert_eq!(late.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        queued.write_all(b"question").unwrap();
        let mut server = listener.accept().unwrap().0;
        assert_eq!(recv(&server).unwrap(), b"question");
        server.write_all(b"answer").unwrap();
        drop((server, listener));
        assert_eq!(hear(queued), (6, Ok(6)));
    });
}

#[test] // Once a listener is bound to a device, binding it again needs CAP_NET_RAW.
fn a_listener_of_no_device_stays_so() {
    as_an_ordinary_user("a_listener_of_no_device_stays_so", || {
        let listener = TcpListener::bind(local(0)).unwrap();
        Linux.setsockopt(&fd(&listener), SocketOption::NoDevice).unwrap();
        let again = Linux.setsockopt(&fd(&listener), SocketOption::NoDevice);
        assert_eq!(again, Err(Errno::EPERM));
    });
}

#[test] // sock_diag lists a handshake under way, and it can be completed although the listener has no device.
fn a_handshake_under_way() {
    let drop_the_last = "ip link set lo up
        nft 'table ip t { chain c { type filter hook input priority 0; tcp dport 1234 tcp flags & (fin | syn | rst | psh | ack) == ack drop; }; }'";
    in_a_network_of_its_own("a_handshake_under_way", drop_the_last, || {
        let listener = TcpListener::bind(local(1234)).unwrap();
        let asks = |port| {
            let diag = Linux.socket_diag().unwrap();
            Linux.write_diag(&diag, local(port)).unwrap();
            Linux.read_diag(&diag)
        };
        assert_eq!(asks(1234), Ok(false));
        let mut slow = TcpStream::connect(local(1234)).unwrap();
        assert_eq!((asks(1234), asks(1235)), (Ok(true), Ok(false)));
        Linux.setsockopt(&fd(&listener), SocketOption::NoDevice).unwrap();
        slow.write_all(b"hello").unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!((recv(&server).unwrap(), asks(1234)), (b"hello".to_vec(), Ok(false)));
    });
}

#[test] // A handshake that was answered with a SYN cookie is kept nowhere: without its listener, its ACK is answered with a reset.
fn a_cookie_needs_its_listener() {
    let prepare = "sysctl -qw net.ipv4.tcp_syncookies=2
        nft 'table ip t { chain c { type filter hook input priority 0; tcp dport 1234 tcp flags & (fin | syn | rst | psh | ack) == ack drop; }; }'";
    in_a_network_of_its_own("a_cookie_needs_its_listener", prepare, || {
        let listener = TcpListener::bind(local(1234)).unwrap();
        let mut slow = TcpStream::connect(local(1234)).unwrap();
        assert_eq!(count(SYN_RECV), 0);
        Linux.setsockopt(&fd(&listener), SocketOption::NoDevice).unwrap();
        slow.write_all(b"hello").unwrap();
        assert_eq!(hear(slow), (0, Err(ErrorKind::ConnectionReset)));
    });
}

/// A listener that shares a port of 127.0.0.1.
fn sharing(port: u16) -> (Own, SocketAddr) {
    let socket = own(Linux.socket(&Address::Tcp(local(port))));
    Linux.setsockopt(socket.fd(), SocketOption::ReusePort).unwrap();
    Linux.bind(socket.fd(), &Address::Tcp(local(port))).unwrap();
    Linux.listen(socket.fd(), 100).unwrap();
    let Address::Tcp(address) = Linux.getsockname(socket.fd()).unwrap() else { panic!() };
    (socket, address)
}

/// How many clients wait in its queue; they are taken out of it.
fn queued(listener: &Own) -> usize {
    (0..1_000).take_while(|_| Linux.accept4(listener.fd()).is_ok()).count()
}

#[test] // The program picks the listener for new clients; those in a queue stay there, and a number that no listener has means the hash.
fn a_shared_port_is_steered() {
    let (first, address) = sharing(0);
    let (second, _) = sharing(address.port());
    let crowd = || (0..64).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
    let dealt_out = crowd();
    let steer = |number| Linux.setsockopt(first.fd(), SocketOption::SteerTo(number));
    steer(1).unwrap();
    let before = queued(&second);
    let steered = crowd();
    assert_eq!(queued(&second), 64, "all new ones are the second's");
    assert_eq!(queued(&first) + before, 64, "who was in the queue of the first stays there");
    steer(2).unwrap();
    let nowhere = crowd();
    assert!(queued(&first) > 0 && queued(&second) > 0, "a number that none has: dealt out again");
    steer(1).unwrap();
    drop(first); // the second has number 0 now
    let alone = crowd();
    assert_eq!(queued(&second), 64);
    Linux.setsockopt(second.fd(), SocketOption::StopSteering).unwrap();
    let again = Linux.setsockopt(second.fd(), SocketOption::StopSteering);
    assert_eq!(again, Err(Errno::ENOENT));
    drop((dealt_out, steered, nowhere, alone));
}

#[test] // With two listeners in each process the first new one has number 2 until the last old one is closed, in whatever order they close.
fn a_listener_that_closes_leaves_its_number_to_the_last() {
    for order in [[0, 1], [1, 0]] {
        let (first, address) = sharing(0);
        let mut old = [Some(first), Some(sharing(address.port()).0)];
        let new = [sharing(address.port()).0, sharing(address.port()).0];
        let crowd = || (0..64).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
        Linux.setsockopt(new[0].fd(), SocketOption::SteerTo(2)).unwrap();
        for closes in order {
            let clients = crowd();
            assert_eq!(queued(&new[0]), 64, "{order:?}, before {closes} closes");
            drop((old[closes].take(), clients));
        }
        let clients = crowd();
        assert!(queued(&new[0]) > 0 && queued(&new[1]) > 0, "{order:?}: dealt out");
        drop(clients);
    }
}

#[test] // A filter belongs to the socket, and stays when the process that attached it closes its descriptor.
fn a_filter_outlives_its_owner() {
    deafening("a_filter_outlives_its_owner", || {
        let listener = TcpListener::bind(local(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let detach = || Linux.setsockopt(&fd(&listener), SocketOption::DetachFilter);
        assert_eq!(detach(), Err(Errno::ENOENT));
        let shared = listener.try_clone().unwrap();
        deafen(&shared, true);
        drop(shared);
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert!(connect().is_err());
        detach().unwrap();
        connect().unwrap();
    });
}

#[test] // A descriptor that survived an exec has no close-on-exec flag, and every descriptor that this process opens has it.
fn what_was_passed_is_told_by_its_flag() {
    let opened = TcpListener::bind(local(0)).unwrap();
    assert_eq!(Linux.fcntl_inherit(opened.as_raw_fd()).err(), Some(Errno::EBADF));
    assert_eq!(Linux.fcntl_inherit(1_000_000).err(), Some(Errno::EBADF));
    let passed = nix::unistd::dup(&opened).unwrap().into_raw_fd(); // without the flag
    let taken = own(Linux.fcntl_inherit(passed));
    assert_eq!(Linux.fcntl_inherit(passed).err(), Some(Errno::EBADF), "it is taken");
    assert_eq!(Linux.getsockopt_listens(taken.fd()), Ok(true));
    let client = TcpStream::connect(opened.local_addr().unwrap()).unwrap();
    assert_eq!(Linux.getsockopt_listens(&fd(&client)), Ok(false));
    let file = File::open("/").unwrap();
    assert_eq!(Linux.getsockopt_listens(&fd(&file)), Err(Errno::ENOTSOCK));
}

// ---- Unix sockets ------------------------------------------------------------------

#[test] // `fchmod` on the unbound socket sets the mode with which the file is created, still less the umask: 0666 under umask 027 gives 0640 (Linux 6.18).
fn mode_before_bind_is_masked() {
    alone("mode_before_bind_is_masked", || {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let address = Address::Unix(path.clone());
        umask(Mode::from_bits_truncate(0o027));
        let socket = own(Linux.socket(&address));
        Linux.fchmod(socket.fd(), 0o666).unwrap();
        Linux.bind(socket.fd(), &address).unwrap();
        assert_eq!(Linux.lstat(&path).unwrap().mode, 0o640);
        Linux.chmod(&path, 0o666).unwrap();
        assert_eq!(Linux.lstat(&path).unwrap().mode, 0o666);
    });
}

fn try_unix(path: &Path) -> Result<(), Errno> {
    let address = Address::Unix(path.to_owned());
    let socket = own(Linux.socket(&address));
    Linux.connect(socket.fd(), &address)
}

#[test] // At the file of a closed socket `bind` fails with EADDRINUSE, and `connect` with ECONNREFUSED.
fn a_stale_socket_file() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    scratch.stale_socket("socket");
    let address = Address::Unix(path.clone());
    let socket = own(Linux.socket(&address));
    assert_eq!(Linux.bind(socket.fd(), &address), Err(Errno::EADDRINUSE));
    assert_eq!(try_unix(&path), Err(Errno::ECONNREFUSED));
    fs::remove_file(&path).unwrap();
    assert_eq!(try_unix(&path), Err(Errno::ENOENT));
}

#[test] // A socket file between `bind` and `listen` refuses connections just like a stale one.
fn a_socket_file_that_does_not_listen_yet() {
    let scratch = Scratch::new();
    let address = Address::Unix(scratch.path("s"));
    let server = own(Linux.socket(&address));
    Linux.bind(server.fd(), &address).unwrap();
    let probe = || Linux.connect(own(Linux.socket(&address)).fd(), &address);
    assert_eq!(probe(), Err(Errno::ECONNREFUSED));
    Linux.listen(server.fd(), 1).unwrap();
    assert_eq!(probe(), Ok(()));
}

/// Begins to connect.
fn begin(address: SocketAddr) -> (Own, Result<(), Errno>) {
    let address = Address::Tcp(address);
    let socket = own(Linux.socket(&address));
    let begun = Linux.connect(socket.fd(), &address);
    (socket, begun)
}

#[test] // On a non-blocking socket `connect` starts the handshake and fails with EINPROGRESS.
fn a_connection_outwards() {
    let listener = listen(0, &[]).unwrap();
    let (socket, begun) = begin(address_of(&listener));
    assert_eq!(begun, Err(Errno::EINPROGRESS));
    Set::of(socket.fd(), OUT).until(OUT);
    assert_eq!(Linux.getsockopt_error(socket.fd()), Ok(None));
    assert_eq!(Linux.send(socket.fd(), b"hello"), Ok(5));
}

#[test] // A TCP socket that has not begun to connect reports OUT and HUP.
fn a_socket_before_its_connect() {
    let socket = own(Linux.socket(&Address::Tcp(local(1))));
    Set::of(socket.fd(), OUT).fires_for_ever(OUT | HUP);
}

#[test] // A refused connection is reported as OUT, ERR and HUP, and SO_ERROR returns ECONNREFUSED once.
fn a_refused_connection() {
    let nobody = address_of(&bind(0, &[]).unwrap());
    let (socket, begun) = begin(nobody);
    assert_eq!(begun, Err(Errno::EINPROGRESS));
    let set = Set::of(socket.fd(), OUT);
    set.fires_for_ever(OUT | ERR | HUP);
    assert_eq!(Linux.getsockopt_error(socket.fd()), Ok(Some(Errno::ECONNREFUSED)));
    assert_eq!(Linux.getsockopt_error(socket.fd()), Ok(None));
    set.fires_for_ever(OUT | HUP);
}

#[test] // While the handshake is under way no event is reported.
fn a_connection_that_is_not_answered() {
    let listener = bind(0, &[]).unwrap();
    Linux.listen(listener.fd(), 0).unwrap();
    let _queued = TcpStream::connect(address_of(&listener)).unwrap(); // and the queue is full
    let (socket, begun) = begin(address_of(&listener));
    assert_eq!(begun, Err(Errno::EINPROGRESS));
    let set = Set::of(socket.fd(), OUT);
    thread::sleep(Duration::from_millis(50));
    assert_eq!((set.look(), Linux.getsockopt_error(socket.fd())), (0, Ok(None)));
    assert_eq!(Linux.send(socket.fd(), b"too early"), Err(Errno::EAGAIN));
}

#[test] // A `connect` that is not answered within TCP_USER_TIMEOUT fails with ETIMEDOUT.
fn the_user_timeout_bounds_a_connect() {
    let listener = bind(0, &[]).unwrap();
    Linux.listen(listener.fd(), 0).unwrap();
    let _queued = TcpStream::connect(address_of(&listener)).unwrap(); // and the queue is full
    let address = Address::Tcp(address_of(&listener));
    let socket = own(Linux.socket(&address));
    Linux.setsockopt(socket.fd(), SocketOption::UserTimeout(500)).unwrap();
    assert_eq!(Linux.connect(socket.fd(), &address), Err(Errno::EINPROGRESS));
    Set::of(socket.fd(), OUT).until(OUT | ERR | HUP);
    assert_eq!(Linux.getsockopt_error(socket.fd()), Ok(Some(Errno::ETIMEDOUT)));
}

#[test] // If a connection is established and reset at once, SO_ERROR returns ECONNRESET, and `recv` then 0.
fn a_connection_that_is_reset_at_once() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let (socket, _) = begin(listener.local_addr().unwrap());
    reset(listener.accept().unwrap().0);
    Set::of(socket.fd(), OUT).until(OUT | ERR | HUP);
    assert_eq!(Linux.getsockopt_error(socket.fd()), Ok(Some(Errno::ECONNRESET)));
    assert_eq!(Linux.recv(socket.fd(), &mut [0]), Ok(0));
}

#[test] // A Unix socket has no handshake: it is connected when `connect` returns.
fn a_unix_connection_outwards() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let address = Address::Unix(path);
    let socket = own(Linux.socket(&address));
    assert_eq!(Linux.connect(socket.fd(), &address), Ok(()));
    assert_eq!(Set::of(socket.fd(), IN | OUT).look(), OUT);
}

#[test] // A non-blocking `connect` to a Unix listener fails with EAGAIN when backlog + 1 clients wait in its queue.
fn a_full_unix_queue() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    Linux.listen(&fd(&listener), 1).unwrap();
    let _queued: Vec<_> = (0..2).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(try_unix(&path), Err(Errno::EAGAIN));
}

#[test] // On a Unix socket the peer's `close` alone is a HUP, with its last bytes unread.
fn unix_close_is_a_hang_up() {
    let (server, mut client) = UnixStream::pair().unwrap();
    let set = Set::of(&fd(&server), IN | RDHUP);
    client.write_all(b"last").unwrap();
    drop(client);
    set.fires_for_ever(IN | HUP | RDHUP);
    assert_eq!((recv(&server), recv(&server)), (Ok(b"last".to_vec()), Ok(vec![])));
}

#[test] // If a Unix socket is closed with unread input, its peer reads what was sent to it, then ECONNRESET; without unread input, EOF.
fn unix_close_with_unread_input() {
    for (unread, end) in [(&b""[..], Ok(vec![])), (b"unread", Err(Errno::ECONNRESET))] {
        let (server, mut client) = UnixStream::pair().unwrap();
        client.write_all(unread).unwrap();
        client.set_nonblocking(true).unwrap();
        (&server).write_all(b"answer").unwrap();
        Linux.setsockopt(&fd(&server), SocketOption::ResetOnClose).unwrap(); // which does nothing
        drop(server);
        assert_eq!((recv(&client), recv(&client)), (Ok(b"answer".to_vec()), end));
    }
}

// ---- the loop ----------------------------------------------------------------------

#[test] // *Level-triggered* epoll reports a descriptor as long as something can be read.
fn level_triggered_fires_until_read() {
    let (server, mut client) = pair();
    let set = Set::of(&fd(&server), IN);
    client.write_all(b"hello").unwrap();
    set.fires_for_ever(IN);
    recv(&server).unwrap();
    assert_eq!((set.look(), recv(&server)), (0, Err(Errno::EAGAIN)));
}

#[test] // A connection with more input is reported again, behind the others, because ready descriptors take turns (Linux 6.18).
fn ready_descriptors_take_turns() {
    let pairs: Vec<_> = (0..3).map(|_| pair()).collect();
    let set = Set::new();
    for ((server, client), data) in pairs.iter().zip(0..) {
        (&mut &*client).write_all(b"much").unwrap();
        let event = Event { mask: IN, data };
        Linux.epoll_ctl(set.0.fd(), EpollOp::Add, &fd(server), event).unwrap();
    }
    let first = || {
        let mut events = [Event::default()];
        until("one", || Linux.epoll_wait(set.0.fd(), &mut events, Wait::No) == Ok(1));
        let Event { data, .. } = events[0];
        data
    };
    let turns: Vec<u64> = (0..9).map(|_| first()).collect();
    assert_eq!((&turns[..3], &turns[3..6]), (&turns[3..6], &turns[6..]));
    assert_eq!(turns[..3].iter().sum::<u64>(), 3);
}

#[test] // When data and then a reset have arrived, epoll reports IN, ERR and HUP at once, and `recv` returns the data, then ECONNRESET, then 0 (Linux 6.18).
fn reset_behind_data() {
    let (server, mut client) = pair();
    let set = Set::of(&fd(&server), IN | RDHUP);
    client.write_all(b"data").unwrap();
    reset(client);
    set.fires_for_ever(IN | ERR | HUP | RDHUP);
    assert_eq!(recv(&server), Ok(b"data".to_vec()));
    assert_eq!(recv(&server), Err(Errno::ECONNRESET));
    assert_eq!(recv(&server), Ok(vec![]));
}

#[test] // Asking `getsockopt(SO_ERROR)` for the reason is worse: it clears the error, and the reset then reads like a clean EOF (measured).
fn so_error_eats_the_error() {
    let (server, mut client) = pair();
    let set = Set::of(&fd(&server), IN);
    client.write_all(b"data").unwrap();
    reset(client);
    set.until(IN | ERR | HUP);
    assert_eq!(getsockopt(&server, sockopt::SocketError).unwrap(), Errno::ECONNRESET as i32);
    assert_eq!((recv(&server), recv(&server)), (Ok(b"data".to_vec()), Ok(vec![])));
}

#[test] // EPOLLERR and EPOLLHUP come unasked, even at mask 0.
fn hang_up_comes_unasked() {
    let (server, mut client) = pair();
    let set = Set::of(&fd(&server), IN);
    client.write_all(b"hello").unwrap();
    set.until(IN);
    set.modify(&fd(&server), 0).unwrap();
    assert_eq!(set.look(), 0);
    reset(client);
    set.fires_for_ever(ERR | HUP);
}

#[test] // A FIN is not reported while nothing is watched for (`events=0`); a reset is.
fn an_end_at_interest_0_is_silent() {
    let (server, client) = pair();
    let set = Set::of(&fd(&server), 0);
    drop(client);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(set.look(), 0);
    set.modify(&fd(&server), IN).unwrap();
    set.until(IN); // it had come
    let (server, client) = pair();
    let set = Set::of(&fd(&server), 0);
    reset(client);
    set.until(ERR | HUP);
}

#[test] // When we have shut down our direction and the peer's FIN has arrived, epoll reports HUP, whatever the mask, until the socket is closed.
fn both_ends_are_a_hang_up() {
    let (server, client) = pair();
    let set = Set::of(&fd(&server), IN);
    client.shutdown(Shutdown::Write).unwrap();
    set.until(IN);
    set.modify(&fd(&server), 0).unwrap();
    assert_eq!(set.look(), 0);
    Linux.shutdown(&fd(&server)).unwrap();
    set.fires_for_ever(HUP);
}

#[test] // It does so even while bytes before the peer's FIN are unread.
fn both_ends_are_a_hang_up_before_the_last_byte() {
    let (server, mut client) = pair();
    Linux.shutdown(&fd(&server)).unwrap();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let set = Set::of(&fd(&server), IN);
    set.fires_for_ever(IN | HUP);
    assert_eq!((recv(&server), recv(&server)), (Ok(b"last".to_vec()), Ok(vec![])));
}

#[test] // EPOLLRDHUP is reported although bytes before the FIN are still unread.
fn rdhup_comes_before_the_bytes() {
    let (server, mut client) = pair();
    let set = Set::of(&fd(&server), RDHUP);
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    set.until(RDHUP);
    set.modify(&fd(&server), 0).unwrap();
    assert_eq!(set.look(), 0);
    assert_eq!((recv(&server), recv(&server)), (Ok(b"last".to_vec()), Ok(vec![])));
}

#[test] // Level-triggered, a FIN is reported forever, as EPOLLRDHUP and as EPOLLIN, even after `recv` has returned 0.
fn rdhup_spins() {
    let (server, client) = pair();
    let set = Set::of(&fd(&server), RDHUP);
    client.shutdown(Shutdown::Write).unwrap();
    set.until(RDHUP);
    assert_eq!(recv(&server), Ok(vec![]));
    set.fires_for_ever(RDHUP);
    set.modify(&fd(&server), IN).unwrap();
    set.fires_for_ever(IN);
}

/// Four bytes and FIN, then one short read: the events before and after it.
fn short_read(mask: u32) -> (u32, u32) {
    let (server, mut client) = pair();
    client.write_all(b"data").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let end = Set::of(&fd(&server), RDHUP); // tells when both have come
    end.until(RDHUP);
    let set = Set::of(&fd(&server), mask);
    let before = set.look();
    assert_eq!(recv(&server).unwrap(), b"data");
    (before, set.look())
}

#[test] // Data and FIN that arrive together are one edge-triggered event: without EPOLLRDHUP it does not show the FIN, and no later wait reports it.
fn a_short_read_hides_the_end() {
    assert_eq!(short_read(IN | EDGE), (IN, 0));
    assert_eq!(short_read(IN | EDGE | RDHUP), (IN | RDHUP, 0));
    assert_eq!(short_read(IN), (IN, IN)); // level-triggered it does not
}

#[test] // While a duplicate is open, epoll reports events of the closed number, and `epoll_ctl` on that number fails with EBADF.
fn a_dup_outlives_the_close() {
    alone("a_dup_outlives_the_close", || {
        let (server, mut client) = pair();
        let set = Set::of(&fd(&server), IN);
        let closed = fd(&server);
        let dup = server.try_clone().unwrap();
        drop(server);
        client.write_all(b"ghost").unwrap();
        set.until(IN);
        assert_eq!(set.modify(&closed, 0), Err(Errno::EBADF));
        drop(dup);
        assert_eq!(set.look(), 0);
    });
}

#[test] // Once a duplicate has the old number again (`dup2`), it can be removed.
fn a_dup_put_back_can_be_removed() {
    alone("a_dup_put_back_can_be_removed", || {
        let (server, mut client) = pair();
        let set = Set::of(&fd(&server), IN);
        let number = server.as_raw_fd();
        let dup = server.try_clone().unwrap();
        drop(server);
        client.write_all(b"ghost").unwrap();
        set.until(IN);
        let back = fcntl(&dup, FcntlArg::F_DUPFD(number)).unwrap(); // the lowest free one
        assert_eq!(back, number);
        Linux.epoll_ctl(set.0.fd(), EpollOp::Remove, &fd(&back), Event::default()).unwrap();
        assert_eq!(set.look(), 0);
    });
}

#[test] // Closing the only descriptor of a socket takes it out of the epoll set.
fn close_leaves_the_set() {
    let (server, mut client) = pair();
    let set = Set::of(&fd(&server), IN);
    client.write_all(b"hello").unwrap();
    set.until(IN);
    drop(server);
    assert_eq!(set.look(), 0);
}

#[test] // A new descriptor gets the lowest free number.
fn the_lowest_number_is_used_again() {
    alone("the_lowest_number_is_used_again", || {
        let files: Vec<_> = (0..3).map(|_| File::open("/dev/null").unwrap()).collect();
        let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        drop(files);
        let again: Vec<_> = (0..3).map(|_| File::open("/dev/null").unwrap()).collect();
        assert_eq!(again.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
    });
}

#[test] // epoll cannot help with files: it refuses to watch a regular file (EPERM, Linux 6.18).
fn epoll_refuses_files() {
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(Set::new().add(&fd(&file), IN), Err(Errno::EPERM));
}

#[test] // With RESOLVE_BENEATH a path that leads out of the directory fails with EXDEV, by `..`, from the root or by a link; a link that stays inside is followed.
fn a_path_stays_beneath() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("public")).unwrap();
    fs::write(scratch.path("public/file"), "yes").unwrap();
    fs::write(scratch.path("secret"), "no").unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, scratch.path(name)).unwrap();
    link("../secret", "public/out");
    link("file", "public/in");
    link(scratch.path("public/file").to_str().unwrap(), "public/absolute");
    let public = own(Linux.openat2(None, &scratch.path("public")));
    let open = |path: &str| Linux.openat2(Some(public.fd()), Path::new(path));
    for inside in ["file", "in", "./file", "../public/file"] {
        match open(inside) {
            Ok(fd) => Linux.close(fd).unwrap(),
            Err(errno) => assert_eq!((inside, errno), ("../public/file", Errno::EXDEV)),
        }
    }
    let absolute = scratch.path("secret");
    for outside in ["../secret", "out", "absolute", absolute.to_str().unwrap()] {
        assert_eq!(open(outside), Err(Errno::EXDEV), "{outside}");
    }
}

#[test] // With O_NONBLOCK a FIFO is opened for reading at once, and `fstat` shows that it is no regular file (Linux 6.18).
fn a_pipe_does_not_stall() {
    let scratch = Scratch::new();
    let made = Command::new("mkfifo").arg(scratch.path("pipe")).status().unwrap();
    assert!(made.success());
    let folder = own(Linux.openat2(None, &scratch.path(".")));
    let pipe = own(Linux.openat2(Some(folder.fd()), Path::new("pipe")));
    assert_eq!(Linux.fstat(pipe.fd()).unwrap().kind, FileKind::Other);
}

#[test] // What `sendmsg` takes may end within any piece, as what `send` takes may end anywhere.
fn sendmsg_takes_what_fits() {
    let (server, mut client) = pair();
    let (piece, rest) = ([b'x'; 100_000], [b'y'; 1_000_000]);
    let pieces = [IoSlice::new(&piece), IoSlice::new(&rest), IoSlice::new(&rest)];
    let mut sent = 0;
    let full = loop {
        match Linux.sendmsg(&fd(&server), &pieces) {
            Ok(n) if n < 2_100_000 => break n,
            Ok(n) => sent += n,
            Err(errno) => panic!("{errno}"),
        }
    };
    assert!(![0, 100_000, 1_100_000].contains(&full));
    assert_eq!(Linux.sendmsg(&fd(&server), &pieces), Err(Errno::EAGAIN));
    let mut heard = vec![0; sent + full];
    client.read_exact(&mut heard).unwrap();
    let due = [&piece[..], &rest, &rest].concat();
    assert!(heard.chunks(due.len()).all(|chunk| due.starts_with(chunk)));
    let (server, _client) = pair();
    let pieces = |count| vec![IoSlice::new(b"x"); count];
    assert_eq!(Linux.sendmsg(&fd(&server), &pieces(IOV_MAX + 1)), Err(Errno::EMSGSIZE));
    assert_eq!(Linux.sendmsg(&fd(&server), &pieces(IOV_MAX)), Ok(IOV_MAX));
}

#[test] // `sendfile` stops where `send` would, when the socket is full, and returns 0 where the file has ended.
fn sendfile_takes_what_fits() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), vec![b'x'; 16 << 20]).unwrap();
    let folder = own(Linux.openat2(None, &scratch.path(".")));
    let file = own(Linux.openat2(Some(folder.fd()), Path::new("file")));
    let (server, mut client) = pair();
    let mut sent = 0;
    let full = loop {
        match Linux.sendfile(&fd(&server), file.fd(), sent, 16 << 20) {
            Ok(n) => sent += n as u64,
            Err(errno) => break errno,
        }
    };
    assert_eq!((full, (1..16 << 20).contains(&sent)), (Errno::EAGAIN, true));
    client.read_exact(&mut vec![0; sent as usize]).unwrap();
    fs::write(scratch.path("file"), "short").unwrap();
    assert_eq!(Linux.sendfile(&fd(&server), file.fd(), sent, 100), Ok(0));
    assert_eq!(Linux.sendfile(&fd(&server), file.fd(), 2, 100), Ok(3));
}

#[test] // `sendfile` hands over pages, not bytes: what is overwritten in the file before the client reads it arrives overwritten, although the call had returned before (Linux 6.18).
fn sendfile_sends_pages() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    fs::write(&path, [b'a'; 50_000]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let (server, mut client) = pair();
    assert_eq!(Linux.sendfile(&fd(&server), &fd(&file), 0, 50_000), Ok(50_000));
    file.write_all_at(&[b'b'; 50_000], 0).unwrap();
    let mut heard = vec![0; 50_000];
    client.read_exact(&mut heard).unwrap();
    assert!(heard.contains(&b'b'));
}

#[test] // To a peer that has gone, `sendfile` raises SIGPIPE, which `send` with MSG_NOSIGNAL does not.
fn sendfile_raises_sigpipe() {
    Linux.rt_sigprocmask(&[Signal::SIGPIPE]).unwrap(); // of this thread
    let source = own(Linux.signalfd4(&[Signal::SIGPIPE]));
    let file = File::open(std::env::current_exe().unwrap()).unwrap();
    let (server, client) = pair();
    reset(client);
    Set::of(&fd(&server), 0).until(ERR | HUP);
    assert_eq!(Linux.send(&fd(&server), b"x"), Err(Errno::ECONNRESET));
    assert_eq!(Linux.send(&fd(&server), b"x"), Err(Errno::EPIPE));
    assert_eq!(Linux.read_signal(source.fd()), Err(Errno::EAGAIN));
    assert_eq!(Linux.sendfile(&fd(&server), &fd(&file), 0, 1), Err(Errno::EPIPE));
    assert_eq!(Linux.read_signal(source.fd()), Ok(Signal::SIGPIPE));
}

#[test] // MOD fails with ENOENT for a descriptor that is not in the set, and ADD with EEXIST for one that is.
fn add_once_then_modify() {
    let (server, _client) = pair();
    let set = Set::new();
    assert_eq!(set.modify(&fd(&server), IN), Err(Errno::ENOENT));
    assert_eq!(
        (set.add(&fd(&server), IN), set.add(&fd(&server), IN)),
        (Ok(()), Err(Errno::EEXIST))
    );
}

#[test] // EPOLLEXCLUSIVE works with ADD only, and with neither EPOLLONESHOT nor EPOLLRDHUP (EINVAL, Linux 6.18).
fn exclusive_has_rules() {
    let listener = listen(0, &[]).unwrap();
    let set = Set::new();
    for mask in [ONESHOT, RDHUP] {
        assert_eq!(set.add(listener.fd(), IN | EXCLUSIVE | mask), Err(Errno::EINVAL));
    }
    set.add(listener.fd(), IN | EXCLUSIVE).unwrap();
    assert_eq!(set.modify(listener.fd(), IN), Err(Errno::EINVAL));
    let other = listen(0, &[]).unwrap();
    set.add(other.fd(), IN).unwrap();
    assert_eq!(set.modify(other.fd(), IN | EXCLUSIVE), Err(Errno::EINVAL));
}

#[test] // SIGSTOP with SIGCONT interrupts `epoll_wait` even without a signal handler (Linux 6.18).
fn stop_and_continue_interrupt() {
    alone("stop_and_continue_interrupt", || {
        let waits = thread::spawn(|| {
            let set = Set::new();
            Linux.epoll_wait(set.0.fd(), &mut [Event::default()], Wait::Forever)
        });
        let script = "kill -STOP $PPID; until grep -q '^State:.T' /proc/$PPID/status; do :; done; \
            kill -CONT $PPID";
        until("an interrupted wait", || {
            Command::new("sh").args(["-c", script]).status().unwrap();
            waits.is_finished()
        });
        assert_eq!(waits.join().unwrap(), Err(Errno::EINTR));
    });
}

// ---- sending and parting -------------------------------------------------------------

#[test] // A peer that has sent FIN can still be answered.
fn half_closed_is_not_closed() {
    let (mut server, mut client) = pair();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let set = Set::of(&fd(&server), RDHUP);
    set.until(RDHUP);
    server.write_all(b"answer").unwrap();
    drop(set);
    assert_eq!(recv(&server).unwrap(), b"question");
    drop(server);
    assert_eq!(hear(client), (6, Ok(6)));
}

#[test] // The first `send` after a reset fails with ECONNRESET, the next with EPIPE ("broken pipe").
fn first_econnreset_then_epipe() {
    let (server, client) = pair();
    let set = Set::of(&fd(&server), OUT);
    reset(client);
    set.until(OUT | ERR | HUP);
    assert_eq!(Linux.send(&fd(&server), b"x"), Err(Errno::ECONNRESET));
    assert_eq!(Linux.send(&fd(&server), b"x"), Err(Errno::EPIPE));
}

#[test] // ECONNRESET is reported once, to whichever call comes first: after `recv` has returned it, `send` fails with EPIPE.
fn a_reset_is_told_once() {
    let (server, client) = pair();
    let set = Set::of(&fd(&server), OUT);
    reset(client);
    set.until(OUT | ERR | HUP);
    assert_eq!(recv(&server), Err(Errno::ECONNRESET));
    assert_eq!(Linux.send(&fd(&server), b"x"), Err(Errno::EPIPE));
    assert_eq!(recv(&server), Ok(vec![]));
}

#[test] // A reset that follows the peer's FIN shows only as EPOLLERR and EPOLLHUP, and in `send`, which fails with EPIPE at once; `recv` returns 0 as before.
fn a_reset_behind_a_fin() {
    let (server, client) = pair();
    client.shutdown(Shutdown::Write).unwrap();
    let set = Set::of(&fd(&server), IN);
    set.until(IN);
    reset(client);
    set.until(IN | ERR | HUP);
    assert_eq!(recv(&server), Ok(vec![]));
    assert_eq!(Linux.send(&fd(&server), b"x"), Err(Errno::EPIPE));
}

#[test] // A process killed by SIGKILL sends FIN on each connection of which it had read everything, and a reset on the others.
fn a_killed_process_sends_fin() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let serve = || {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let server = listener.accept().unwrap().0;
        let child = command("sleep").arg("1000").stdin(OwnedFd::from(server)).spawn().unwrap();
        (client, child)
    };
    let (mut client, mut child) = serve();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let (mut client, mut child) = serve();
    client.write_all(b"unread").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test] // If the peer has closed, the first write succeeds, and its answer is the reset; the second fails with EPIPE.
fn who_has_closed_answers_with_a_reset() {
    let (server, client) = pair();
    let set = Set::of(&fd(&server), IN);
    drop(client);
    set.until(IN);
    assert_eq!(Linux.send(&fd(&server), b"x"), Ok(1));
    set.until(IN | ERR | HUP);
    assert_eq!(Linux.send(&fd(&server), b"x"), Err(Errno::EPIPE));
    assert_eq!(recv(&server), Ok(vec![])); // it had ended in order
}

#[test] // Bytes that arrive after the `close` are answered with RST, and queued output is dropped.
fn bytes_after_the_close_lose_the_answer() {
    let (server, mut client) = pair();
    let sent = fill(&server);
    drop(server);
    client.write_all(b"more").unwrap();
    let (heard, end) = hear(client);
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert!(heard < sent, "{heard} of {sent}");
}

#[test] // With unread input `close` sends RST, and queued output is dropped.
fn close_with_unread_input_loses_the_answer() {
    let (server, mut client) = pair();
    client.write_all(b"unread").unwrap();
    Set::of(&fd(&server), IN).until(IN);
    let sent = fill(&server);
    drop(server);
    let (heard, end) = hear(client);
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert!(heard < sent, "{heard} of {sent}");
}

#[test] // If the server shuts down its direction, reads to EOF and then closes, all output arrives.
fn shutdown_and_drain_lose_nothing() {
    let (server, mut client) = pair();
    client.write_all(b"unread").unwrap();
    let sent = fill(&server);
    Linux.shutdown(&fd(&server)).unwrap();
    let hears = thread::spawn(move || hear(client));
    until("the client's end", || recv(&server) == Ok(vec![]));
    drop(server);
    assert_eq!(hears.join().unwrap(), (sent, Ok(sent)));
}

/// A thread that waits in recv on a descriptor of this number, and what it gets.
fn reader(number: i32) -> thread::JoinHandle<nix::Result<usize>> {
    let (told, tid) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        told.send(nix::unistd::gettid()).unwrap();
        nix::sys::socket::recv(number, &mut [0; 8], nix::sys::socket::MsgFlags::empty())
    });
    let stat = format!("/proc/self/task/{}/stat", tid.recv().unwrap());
    until("the reader to wait", || fs::read_to_string(&stat).unwrap().contains(") S "));
    reader
}

#[test] // A `recv` that has begun does not notice that its descriptor is closed: it goes on waiting, and still gets what arrives.
fn close_does_not_wake_a_reader() {
    let (mut client, server) = pair();
    let number = server.into_raw_fd();
    let reader = reader(number);
    nix::unistd::close(number).unwrap();
    client.write_all(b"late").unwrap();
    assert_eq!(reader.join().unwrap(), Ok(4));
}

#[test] // `shutdown(SHUT_RD)` keeps the number and wakes the reader, which gets what had arrived and then EOF.
fn shutdown_wakes_a_reader() {
    let (_client, server) = pair();
    let reader = reader(server.as_raw_fd());
    server.shutdown(Shutdown::Read).unwrap();
    assert_eq!(reader.join().unwrap(), Ok(0));

    let (mut client, mut server) = pair();
    client.write_all(b"early").unwrap();
    assert_eq!(server.peek(&mut [0; 8]).unwrap(), 5);
    server.shutdown(Shutdown::Read).unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"early");
}

#[test] // With `SO_LINGER` set to 0 seconds, `close` sends RST.
fn linger_zero_is_a_reset() {
    let (server, client) = pair();
    reset(server);
    assert_eq!(hear(client), (0, Err(ErrorKind::ConnectionReset)));
}

#[test] // `close` waits up to 1 s for the peer to acknowledge everything, O_NONBLOCK or not, and what is left is sent afterwards.
fn linger_blocks() {
    let (server, client) = pair();
    let sent = fill(&server);
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 1 };
    setsockopt(&server, sockopt::Linger, &linger).unwrap();
    let began = Instant::now();
    drop(server);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(hear(client), (sent, Ok(sent)));
}

#[test] // Without SO_LINGER `close` returns at once, and the kernel goes on sending what is queued.
fn close_goes_on_sending() {
    let (server, client) = pair();
    let sent = fill(&server);
    drop(server);
    assert_eq!(hear(client), (sent, Ok(sent)));
}

#[test] // `shutdown` fails with ENOTCONN when the peer's reset came first, or when both sides have ended.
fn shutdown_after_a_reset() {
    let (server, client) = pair();
    let set = Set::of(&fd(&server), 0);
    reset(client);
    set.until(ERR | HUP);
    assert_eq!(Linux.shutdown(&fd(&server)), Err(Errno::ENOTCONN));
}

#[test] // `shutdown` fails with ENOTCONN when the peer's reset came first, or when both sides have ended.
fn shutdown_after_both_ends() {
    let (server, client) = pair();
    client.shutdown(Shutdown::Write).unwrap();
    let set = Set::of(&fd(&server), IN);
    set.until(IN);
    Linux.shutdown(&fd(&server)).unwrap();
    set.until(IN | HUP);
    assert_eq!(Linux.shutdown(&fd(&server)), Err(Errno::ENOTCONN));
}

#[test] // `shutdown(SHUT_RD)` tells the peer nothing, and bytes that come afterwards can be read all the same.
fn shutdown_of_reading_stops_nothing() {
    let (mut server, mut client) = pair();
    server.shutdown(Shutdown::Read).unwrap();
    assert_eq!(recv(&server), Ok(vec![]));
    client.write_all(b"still").unwrap();
    until("the bytes", || recv(&server) == Ok(b"still".to_vec()));
    server.write_all(b"heard").unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"heard");
}

// ---- what is often asked -------------------------------------------------------------------

#[test] // `write_all` on a non-blocking stream returns WouldBlock when the kernel takes no more, and does not say how much it had taken.
fn write_all_does_not_say_how_much() {
    let (mut server, client) = pair();
    let bytes = vec![b'x'; 16 << 20];
    let error = server.write_all(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(server);
    let (heard, end) = hear(client);
    assert!(heard > 0 && heard < bytes.len() && end.is_ok(), "{heard} {end:?}");
}

#[test] // Edge-triggered, a writer may stop at a short write: EPOLLOUT comes again when there is room. One that stops before the buffer is full hears nothing more.
fn an_edge_of_output_follows_a_full_buffer() {
    let (server, mut client) = pair();
    let set = Set::of(&fd(&server), OUT | EDGE);
    set.until(OUT);
    assert_eq!(Linux.send(&fd(&server), b"all"), Ok(3));
    let mut heard = vec![0; 3];
    client.read_exact(&mut heard).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(set.look(), 0);
    // A short write, and no second one to hear EAGAIN.
    let bytes = vec![b'x'; 16 << 20];
    let sent = Linux.send(&fd(&server), &bytes).unwrap();
    assert!(sent < bytes.len());
    client.read_exact(&mut vec![0; sent]).unwrap();
    set.until(OUT);
}

#[test] // Of several threads at one epoll set each may be given the same connection, level- and edge-triggered; EPOLLONESHOT gives it to one, until that one arms it again.
fn one_set_for_several_threads() {
    for (mask, second, after_more) in [(IN, IN, IN), (IN | EDGE, 0, IN), (IN | ONESHOT, 0, 0)] {
        let (server, mut client) = pair();
        let set = Set::of(&fd(&server), mask);
        client.write_all(b"one").unwrap();
        set.until(IN); // the first thread has it, and has not read yet
        assert_eq!(set.look(), second);
        client.write_all(b"two").unwrap();
        until("all bytes", || server.peek(&mut [0; 9]).is_ok_and(|count| count == 6));
        assert_eq!(set.look(), after_more);
        set.modify(&fd(&server), mask).unwrap();
        set.until(IN);
    }
}

#[test] // EPOLLEXCLUSIVE is no balance: of two threads that sleep, each with its own epoll set, the same one is woken for each client.
fn exclusive_wakes_the_same_one() {
    let listener = Arc::new(TcpListener::bind(local(0)).unwrap());
    listener.set_nonblocking(true).unwrap();
    let taken: Arc<[AtomicUsize; 2]> = Arc::default();
    let all = |taken: &[AtomicUsize; 2]| taken.iter().map(|it| it.load(Relaxed)).sum::<usize>();
    let (told, tids) = std::sync::mpsc::channel();
    let threads = [0, 1].map(|index| {
        let (listener, taken, told) = (Arc::clone(&listener), Arc::clone(&taken), told.clone());
        let thread = thread::spawn(move || {
            let set = Set::of(&fd(&*listener), IN | EXCLUSIVE);
            told.send(nix::unistd::gettid()).unwrap();
            let mut events = [Event::default()];
            while all(&taken) < 12 {
                Linux.epoll_wait(set.0.fd(), &mut events, Wait::Forever).unwrap();
                taken[index].fetch_add(usize::from(listener.accept().is_ok()), Relaxed);
            }
        });
        (thread, tids.recv().unwrap()) // they come one after the other
    });
    let client = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    for clients in 0..12 {
        until("both to sleep", || threads.iter().all(|(_, tid)| is_asleep(*tid)));
        let _client = client();
        until("the client to be let in", || all(&taken) > clients);
    }
    let counts = [0, 1].map(|index| taken[index].load(Relaxed));
    assert!(counts.contains(&0), "{counts:?}");
    // It has ended, and the other one is woken now.
    until("both to end", || {
        let _client = client();
        threads.iter().all(|(thread, _)| thread.is_finished())
    });
}

fn is_asleep(tid: nix::unistd::Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with('S')
}

#[test] // TIME_WAIT lasts a minute, whatever `tcp_fin_timeout` says, which is for orphans in FIN_WAIT_2; and `tcp_tw_recycle` is gone since Linux 4.12.
fn fin_timeout_is_not_for_time_wait() {
    deafening("fin_timeout_is_not_for_time_wait", || {
        let settings = Path::new("/proc/sys/net/ipv4");
        assert!(!settings.join("tcp_tw_recycle").exists());
        fs::write(settings.join("tcp_fin_timeout"), "1").unwrap();
        let (server, client) = pair();
        drop(server);
        drop(client);
        until("TIME_WAIT", || count(TIME_WAIT) == 1);
        let (server, _client) = pair();
        drop(server); // and the client does not end
        until("FIN_WAIT_2", || count(FIN_WAIT_2) == 1);
        until("the orphan's end", || count(FIN_WAIT_2) == 0);
        assert_eq!(count(TIME_WAIT), 1);
    });
}

#[test] // After a few exchanges, two small writes and then a wait for the answer take 40 ms, and with TCP_NODELAY they do not.
fn nagle_and_a_delayed_ack() {
    let spans = |nodelay: bool| {
        let (mut server, mut client) = pair();
        server.set_nonblocking(false).unwrap();
        client.set_nodelay(nodelay).unwrap();
        let answers = thread::spawn(move || {
            while server.read_exact(&mut [0; 2]).is_ok() {
                server.write_all(b"x").unwrap();
            }
        });
        let mut round = || {
            let begun = Instant::now();
            client.write_all(b"a").unwrap();
            client.write_all(b"b").unwrap();
            client.read_exact(&mut [0]).unwrap();
            begun.elapsed()
        };
        let mut spans: Vec<Duration> = (0..20).map(|_| round()).collect();
        drop(client);
        answers.join().unwrap();
        spans.sort();
        spans
    };
    let (with_nagle, without) = (spans(false), spans(true));
    assert!(with_nagle[10] > Duration::from_millis(30), "{with_nagle:?}");
    assert!(without[0] < Duration::from_millis(30), "{without:?}");
}

// ---- counters, signals, time -----------------------------------------------------------

#[test] // Three writes of 1 to an eventfd give one read of 3, then EAGAIN (tried on Linux 6.18).
fn eventfd_adds_up() {
    let counter = own(Linux.eventfd2());
    assert_eq!(Linux.read_counter(counter.fd()), Err(Errno::EAGAIN));
    (0..3).for_each(|_| Linux.write_counter(counter.fd()).unwrap());
    assert_eq!(Linux.read_counter(counter.fd()), Ok(3));
    assert_eq!(Linux.read_counter(counter.fd()), Err(Errno::EAGAIN));
}

#[test]
// At 2^64−2 the counter of an eventfd is full: a write fails with EAGAIN, and the eventfd stays readable (tried on Linux 6.18).
#[allow(unsafe_code)]
fn eventfd_overflows() {
    let counter = own(Linux.eventfd2());
    // SAFETY: the descriptor is open as long as `counter` lives.
    let borrowed = unsafe { BorrowedFd::borrow_raw(counter.fd().number()) };
    nix::unistd::write(borrowed, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert_eq!(Linux.write_counter(counter.fd()), Err(Errno::EAGAIN));
    assert_eq!(Set::of(counter.fd(), IN).look(), IN);
    assert_eq!(Linux.read_counter(counter.fd()), Ok(u64::MAX - 1));
}

#[test] // Five SIGTERM and one SIGINT, sent before the server reads, are read as two records, SIGINT first (tried on Linux 6.18).
fn signalfd_merges() {
    let signals = [Signal::SIGTERM, Signal::SIGINT];
    Linux.rt_sigprocmask(&signals).unwrap(); // of this thread
    let source = own(Linux.signalfd4(&signals));
    (0..5).for_each(|_| raise(Signal::SIGTERM).unwrap());
    raise(Signal::SIGINT).unwrap();
    assert_eq!(Linux.read_signal(source.fd()), Ok(Signal::SIGINT));
    assert_eq!(Linux.read_signal(source.fd()), Ok(Signal::SIGTERM));
    assert_eq!(Linux.read_signal(source.fd()), Err(Errno::EAGAIN));
}

#[test] // A signal that is blocked becomes pending even if it is ignored (Linux 6.18).
fn a_blocked_signal_is_not_ignored() {
    let signals = [Signal::SIGWINCH, Signal::SIGPIPE]; // the second one Rust ignores
    assert_eq!(Linux.rt_sigaction(Signal::SIGPIPE), Ok(true));
    Linux.rt_sigprocmask(&signals).unwrap(); // of this thread
    let source = own(Linux.signalfd4(&signals));
    for signal in signals {
        raise(signal).unwrap();
        assert_eq!(Linux.read_signal(source.fd()), Ok(signal));
    }
}

#[test] // One thread that was started too early is enough: it takes the SIGTERM, and the process dies, with or without a signalfd (Linux 6.18).
fn a_thread_too_early_takes_the_signal() {
    let ended = in_a_process("a_thread_too_early_takes_the_signal", || {
        thread::spawn(|| thread::sleep(PATIENCE)); // it does not block anything
        Linux.rt_sigprocmask(&[Signal::SIGTERM]).unwrap();
        let _source = own(Linux.signalfd4(&[Signal::SIGTERM]));
        nix::sys::signal::kill(nix::unistd::getpid(), support::Signal::SIGTERM).unwrap();
        thread::sleep(PATIENCE);
    });
    let Some(ended) = ended else { return };
    assert_eq!(ended.status.signal(), Some(Signal::SIGTERM as i32), "{ended:?}");
}

#[test] // The mask survives fork and exec.
fn the_mask_survives_exec() {
    let signal = Signal::SIGUSR2; // which no other test blocks
    let is_blocked = || {
        let status = Command::new("grep").args(["SigBlk", "/proc/self/status"]).output().unwrap();
        let status = String::from_utf8(status.stdout).unwrap();
        let mask = u64::from_str_radix(status.trim_start_matches("SigBlk:").trim(), 16).unwrap();
        mask >> (signal as i32 - 1) & 1 == 1
    };
    assert!(!is_blocked());
    Linux.rt_sigprocmask(&[signal]).unwrap(); // of this thread
    assert!(is_blocked());
}

#[test] // A timer that has expired is readable only until it is read, set again or disarmed (tried on Linux 6.18).
fn setting_a_timer_resets_it() {
    let timer = own(Linux.timerfd_create());
    let set = Set::of(timer.fd(), IN);
    for disarm in [None, Some(u64::MAX / 2)] {
        Linux.timerfd_settime(timer.fd(), Some(1)).unwrap();
        set.fires_for_ever(IN);
        Linux.timerfd_settime(timer.fd(), disarm).unwrap();
        assert_eq!((set.look(), Linux.read_counter(timer.fd())), (0, Err(Errno::EAGAIN)));
    }
    Linux.timerfd_settime(timer.fd(), Some(1)).unwrap();
    assert_eq!(Linux.read_counter(timer.fd()), Ok(1));
    assert_eq!(set.look(), 0);
}

#[test] // A timerfd is never readable before its moment.
fn timers_are_not_early() {
    let timer = own(Linux.timerfd_create());
    let set = Set::of(timer.fd(), IN);
    for millis in 1..5 {
        let deadline = Linux.clock_gettime(Clock::Monotonic) + millis * 1_000_000;
        Linux.timerfd_settime(timer.fd(), Some(deadline)).unwrap();
        Linux.epoll_wait(set.0.fd(), &mut [Event::default()], Wait::Forever).unwrap();
        assert!(Linux.clock_gettime(Clock::Monotonic) >= deadline);
    }
}

/// Waits until a connection ends with ETIMEDOUT, which takes a quarter of an hour otherwise.
fn until_timed_out(server: &TcpStream) {
    Set::of(&fd(server), 0).until(ERR | HUP);
    assert_eq!(recv(server), Err(Errno::ETIMEDOUT));
}

#[test] // Bytes that the peer does not acknowledge end the connection after TCP_USER_TIMEOUT.
fn unacknowledged_bytes_time_out() {
    deafening("unacknowledged_bytes_time_out", || {
        let (mut server, client) = pair();
        Linux.setsockopt(&fd(&server), SocketOption::UserTimeout(500)).unwrap();
        deafen(&client, true);
        server.write_all(b"hello").unwrap();
        until_timed_out(&server);
    });
}

#[test] // A window that stays closed ends the connection after TCP_USER_TIMEOUT, although the peer's kernel answers every probe (Linux 6.18).
fn a_closed_window_times_out() {
    let (server, _client) = pair();
    Linux.setsockopt(&fd(&server), SocketOption::UserTimeout(500)).unwrap();
    fill(&server);
    until_timed_out(&server);
}

#[test] // With TCP_USER_TIMEOUT keepalive does not wait for all of its probes.
fn the_user_timeout_shortens_keepalive() {
    deafening("the_user_timeout_shortens_keepalive", || {
        let (server, client) = pair();
        setsockopt(&server, sockopt::KeepAlive, &true).unwrap();
        setsockopt(&server, sockopt::TcpKeepIdle, &1).unwrap();
        setsockopt(&server, sockopt::TcpKeepInterval, &1).unwrap();
        setsockopt(&server, sockopt::TcpKeepCount, &100).unwrap();
        Linux.setsockopt(&fd(&server), SocketOption::UserTimeout(1_500)).unwrap();
        deafen(&client, true);
        until_timed_out(&server);
    });
}

// ---- what one process can do to another ---------------------------------------------------

/// Passes a descriptor beside a byte.
fn pass(socket: &UnixStream, passed: &impl AsRawFd) -> nix::Result<usize> {
    let fds = [passed.as_raw_fd()];
    let (bytes, beside) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&fds)]);
    sendmsg::<()>(socket.as_raw_fd(), &bytes, &beside, MsgFlags::empty(), None)
}

#[test] // The last `close` of a descriptor that a client passed happens within `recv` or `close` on our non-blocking socket, and takes as long as that descriptor lingers.
fn recv_closes_what_was_passed() {
    const LINGER: Duration = Duration::from_secs(1);
    const MOST_OF_IT: Duration = Duration::from_millis(500); // its peer may find room and end it
    let lingers = || {
        let (passed, stays) = pair();
        fill(&passed);
        let linger = nix::libc::linger { l_onoff: 1, l_linger: LINGER.as_secs() as i32 };
        setsockopt(&passed, sockopt::Linger, &linger).unwrap();
        (stays, passed)
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (_stays, passed) = lingers();
    pass(&theirs, &passed).unwrap();
    drop(passed);
    let started = Instant::now();
    assert_eq!(recv(&ours), Ok(b"x".to_vec()));
    assert!(started.elapsed() >= MOST_OF_IT, "{:?}", started.elapsed());

    let (_stays, passed) = lingers();
    pass(&theirs, &passed).unwrap();
    drop(passed);
    let started = Instant::now();
    drop(ours);
    assert!(started.elapsed() >= MOST_OF_IT, "{:?}", started.elapsed());
}

#[test] // A signal that is not blocked ends a `close` that lingers: SIGSTOP and SIGCONT are enough.
fn a_signal_ends_a_lingering_close() {
    alone("a_signal_ends_a_lingering_close", || {
        let scratch = Scratch::new();
        let is_over = scratch.path("over");
        let signals = "until [ -e $0 ]; do
            kill -STOP $PPID; sleep 0.1; kill -CONT $PPID; sleep 0.1
        done";
        // Before the socket is made: until exec has closed it there, the last close is the child's.
        let mut signals = command("sh").args(["-c", signals]).arg(&is_over).spawn().unwrap();
        let (server, _client) = pair();
        fill(&server);
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 10 * PATIENCE.as_secs() as i32 };
        setsockopt(&server, sockopt::Linger, &linger).unwrap();
        let began = Instant::now();
        drop(server);
        let time = began.elapsed();
        File::create(is_over).unwrap();
        signals.wait().unwrap();
        assert!(time < PATIENCE, "{time:?}");
    });
}

#[test] // With SO_PASSRIGHTS off on the listener, a client that passes a descriptor gets EPERM from `sendmsg`, even while it waits in the queue.
fn descriptors_are_refused_at_the_door() {
    let scratch = Scratch::new();
    let address = Address::Unix(scratch.path("s"));
    let listener = own(Linux.socket(&address));
    match Linux.setsockopt(listener.fd(), SocketOption::RefuseDescriptors) {
        Err(Errno::ENOPROTOOPT) => return, // before Linux 6.16
        set => set.unwrap(),
    }
    Linux.bind(listener.fd(), &address).unwrap();
    Kernel::listen(&mut Linux, listener.fd(), 1).unwrap();
    let client = UnixStream::connect(scratch.path("s")).unwrap();
    assert_eq!(pass(&client, &client), Err(nix::Error::EPERM), "in the queue");
    let (accepted, _) = Linux.accept4(listener.fd()).unwrap();
    let accepted = Own(Some(accepted));
    assert_eq!(pass(&client, &client), Err(nix::Error::EPERM));
    Linux.send(&fd(&client), b"bytes").unwrap();
    assert_eq!(Linux.recv(accepted.fd(), &mut [0; 8]), Ok(5));
    let tcp = own(Linux.socket(&Address::Tcp(local(0))));
    let refused = Linux.setsockopt(tcp.fd(), SocketOption::RefuseDescriptors);
    assert_eq!(refused, Err(Errno::EOPNOTSUPP));
}

#[test] // The lock belongs to the directory's inode, whatever the spelling of the path, and is released with the descriptor.
fn a_lock_of_a_directory() {
    let scratch = Scratch::new();
    let path = scratch.path("");
    let spelled = path.join("..").join(path.file_name().unwrap());
    let first = own(Linux.openat2_as(&path, OpenAs::Lock));
    let second = own(Linux.openat2_as(&spelled, OpenAs::Lock));
    assert_eq!(Linux.flock(first.fd()), Ok(()));
    assert_eq!(Linux.flock(second.fd()), Err(Errno::EAGAIN));
    drop(first);
    assert_eq!(Linux.flock(second.fd()), Ok(()));
    let named = own(Linux.openat2_as(&path, OpenAs::Itself));
    assert_eq!(Linux.flock(named.fd()), Err(Errno::EBADF), "O_PATH only names it");
    assert_eq!(Linux.openat2_as(&path.join("none"), OpenAs::Lock).err(), Some(Errno::ENOENT));
}

#[test] // A socket whose local port is the port that it connects to, on the same address, is connected to itself.
fn a_connection_to_itself() {
    let range = "sysctl -qw net.ipv4.ip_local_port_range='40000 40000'";
    in_a_network_of_its_own("a_connection_to_itself", range, || {
        let address = Address::Tcp(([127, 0, 0, 1], 40_000).into());
        let listens = || {
            let listener = own(Linux.socket(&address));
            Linux.setsockopt(listener.fd(), SocketOption::ReuseAddr)?;
            Linux.bind(listener.fd(), &address)
        };
        let socket = own(Linux.socket(&address));
        assert_eq!(Linux.connect(socket.fd(), &address), Err(Errno::EINPROGRESS));
        assert_eq!(Linux.getsockopt_error(socket.fd()), Ok(None), "it is established");
        assert_eq!(Linux.getsockname(socket.fd()), Ok(address.clone()));
        Linux.send(socket.fd(), b"echo").unwrap();
        let mut heard = [0; 8];
        assert_eq!(Linux.recv(socket.fd(), &mut heard), Ok(4));
        assert_eq!(listens(), Err(Errno::EADDRINUSE), "the real server cannot start");
        Linux.setsockopt(socket.fd(), SocketOption::ResetOnClose).unwrap();
        drop(socket);
        assert_eq!(listens(), Ok(()), "no TIME_WAIT");
    });
}

#[test] // With `net.ipv4.tcp_tw_reuse` a new connection may take a port in TIME_WAIT after a second, if both ends send TCP timestamps.
fn a_port_in_time_wait_is_used_again() {
    let range = "sysctl -qw net.ipv4.ip_local_port_range='40000 40000'";
    in_a_network_of_its_own("a_port_in_time_wait_is_used_again", range, || {
        let set = |name: &str, value: &str| {
            fs::write(Path::new("/proc/sys/net/ipv4").join(name), value).unwrap();
        };
        for (timestamps, port) in [("0", 1234), ("1", 1235)] {
            set("tcp_timestamps", timestamps);
            let listener = TcpListener::bind(local(port)).unwrap();
            let connects = || TcpStream::connect(local(port)).is_ok();
            let client = TcpStream::connect(local(port)).unwrap();
            let server = listener.accept().unwrap();
            drop(client);
            drop(server);
            assert!(!connects(), "too early");
            set("tcp_tw_reuse", "0");
            thread::sleep(Duration::from_millis(2_100)); // its clock counts in seconds
            assert!(!connects());
            set("tcp_tw_reuse", "2");
            assert_eq!(connects(), timestamps == "1");
        }
    });
}

#[test]
// If the parent adds the signalfd to a set and the child waits at that set, no signal is reported (Linux 6.18).
#[allow(unsafe_code)]
fn a_signalfd_belongs_to_who_adds_it() {
    alone("a_signalfd_belongs_to_who_adds_it", || {
        let signals = [Signal::SIGUSR2];
        Linux.rt_sigprocmask(&signals).unwrap();
        let source = own(Linux.signalfd4(&signals));
        let early = Set::of(source.fd(), IN);
        // SAFETY: the child makes system calls, and ends without what the harness does then.
        let child = match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Parent { child } => child,
            nix::unistd::ForkResult::Child => {
                raise(Signal::SIGUSR2).unwrap();
                let silent = early.look() == 0;
                let late = Set::of(source.fd(), IN);
                let is_true = silent && late.look() == IN;
                // SAFETY: it returns nowhere.
                unsafe { nix::libc::_exit(i32::from(!is_true)) }
            }
        };
        let status = nix::sys::wait::waitpid(child, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
    });
}
