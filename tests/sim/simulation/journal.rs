//! What was called, and what faults struck: which call, with which errno, in which state.
//!
//! The state of a call on a connection is that in which the turn found the connection; of
//! any other call, how far the server was.

use super::World;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use threadbare::kernel::EpollOp;
use threadbare::kernel::sim::{self, Method, Simulated, Times};
use threadbare::reaction::{Call, Reaction, reaction};
use threadbare::{ConnectionHandler, Errno, Server};

/// A call as the gate counts it: epoll_ctl is three, by what it is to do.
pub type Deed = (Method, &'static str);
/// A call in a state.
pub type Place = (&'static str, Deed);
/// And the errno that struck it.
pub type Triple = (&'static str, Deed, i32);

#[derive(Default)]
pub struct Journal {
    /// How far the server was at the beginning of the turn; not there yet if empty.
    server: &'static str,
    states: Vec<(i32, &'static str)>,
    /// Every call that was made.
    pub calls: Vec<Method>,
    /// Where calls were made at all, and the index of the first there.
    pub places: BTreeMap<Place, usize>,
    /// Whose descriptor it is: the clients are numbered as they are accepted.
    owners: BTreeMap<i32, usize>,
    pub accepted: usize,
    /// Which of them a connection is, by its number in the trace.
    pub clients: BTreeMap<u64, usize>,
    /// Clients for whom a connection outwards is to be begun, in the order in which it is: they
    /// have been accepted, or one that was begun for them has failed.
    due: VecDeque<usize>,
    /// Where that is not known: whose connection was begun or ended last.
    near: Option<usize>,
    /// The descriptors of connections outwards that are not established, and whose they are.
    dialing: BTreeMap<i32, usize>,
    /// Of them those that could not be begun for now: they are the next to be tried.
    short: BTreeSet<i32>,
    pub triples: BTreeSet<Triple>,
    /// How many strikes there were.
    pub struck: usize,
    /// The clients whose own connection was struck, and by what.
    pub touched: BTreeMap<usize, BTreeSet<(Method, i32)>>,
    /// The calls that were struck on descriptors that are no connection's.
    pub common: BTreeSet<(Method, i32)>,
}

impl Journal {
    pub fn before<H: ConnectionHandler>(&mut self, server: &Server<H, Simulated>) {
        self.server = if server.is_stopping() { "stopping" } else { "serving" };
        self.states.clear();
        self.states.extend(server.places().map(|(fd, [place, _])| (fd, place)));
    }

    /// Reads the trace of what was called since the last time.
    pub fn after(&mut self, sim: &Simulated) {
        for call in sim.take_trace() {
            let owner = match call.method {
                Method::Socket => self.due.pop_front().or(self.near),
                _ => self.owners.get(&call.fd).copied(),
            };
            let known = self.states.iter().find(|(fd, _)| *fd == call.fd);
            let state = match (owner, known) {
                (Some(_), Some((_, state))) => state,
                (Some(_), None) => "new",
                (None, _) if self.server.is_empty() => "starting",
                (None, _) => self.server,
            };
            let deed = deed(&call);
            self.places.entry((state, deed)).or_insert(self.calls.len());
            self.calls.push(call.method);
            if call.injected
                && let Err(errno) = call.result
            {
                let strike = (call.method, errno as i32);
                match owner {
                    Some(client) => drop(self.touched.entry(client).or_default().insert(strike)),
                    None => drop(self.common.insert(strike)),
                }
                self.struck += 1;
                self.triples.insert((state, deed, errno as i32));
            }
            match (call.method, call.result) {
                (Method::Accept4, Ok(fd)) => {
                    self.owners.insert(fd as i32, self.accepted);
                    self.clients.extend(call.connection.map(|number| (number, self.accepted)));
                    self.near = Some(self.accepted);
                    self.due.push_back(self.accepted);
                    self.accepted += 1;
                }
                (Method::Socket, Ok(fd)) => {
                    self.owners.extend(owner.map(|client| (fd as i32, client)));
                    self.dialing.extend(owner.map(|client| (fd as i32, client)));
                }
                (Method::Socket, Err(errno)) => match reaction(Call::OutboundSocket, errno) {
                    Reaction::Pause => owner.into_iter().for_each(|it| self.due.push_front(it)),
                    _ => self.due.extend(owner),
                },
                (Method::Connect, Err(errno))
                    if reaction(Call::Connect, errno) == Reaction::Pause =>
                {
                    self.short.insert(call.fd);
                }
                (Method::GetsockoptError, Ok(0)) => drop(self.dialing.remove(&call.fd)),
                (Method::Close, _) => {
                    self.near = self.owners.remove(&call.fd).or(self.near);
                    match self.dialing.remove(&call.fd) {
                        Some(client) if self.owners.values().any(|it| *it == client) => {
                            match self.short.remove(&call.fd) {
                                true => self.due.push_front(client),
                                false => self.due.push_back(client),
                            }
                        }
                        Some(_) => {}
                        None => self.due.retain(|client| Some(*client) != owner),
                    }
                    self.states.retain(|(fd, _)| *fd != call.fd); // the next to have it is new
                }
                _ => {}
            }
        }
    }

    /// The server is to be dropped.
    pub fn before_the_end(&mut self) {
        self.server = "ended";
    }

    /// What struck the connection with this number.
    pub fn struck_at(&self, connection: Option<u64>) -> Option<&BTreeSet<(Method, i32)>> {
        self.touched.get(self.clients.get(&connection?)?)
    }

    /// Everything that was struck.
    pub fn strikes(&self) -> impl Iterator<Item = (Method, Errno)> + '_ {
        let all = self.touched.values().flatten().chain(&self.common);
        all.map(|&(method, errno)| (method, Errno::from_raw(errno)))
    }

    /// Whether anything was struck, in any of its roles, whose reaction is this.
    pub fn has(&self, wanted: Reaction) -> bool {
        self.strikes().any(|(method, errno)| asks_for(method, errno, wanted))
    }
}

impl<H: ConnectionHandler> World<H> {
    /// Notes what happened outside of turns.
    pub fn note(&mut self) -> &mut Journal {
        let journal = self.journal.get_or_insert_default();
        journal.after(&self.sim);
        journal
    }
}

/// Whether this is the reaction to that errno, in any role that the method plays.
pub fn asks_for(method: Method, errno: Errno, wanted: Reaction) -> bool {
    roles(method).iter().any(|&call| reaction(call, errno) == wanted)
}

fn deed(call: &sim::Call) -> Deed {
    let op = match call.op {
        Some(EpollOp::Add) => " ADD",
        Some(EpollOp::Modify) => " MOD",
        Some(EpollOp::Remove) => " DEL",
        None => "",
    };
    (call.method, op)
}

/// The roles that a method of the kernel plays in a running server.
pub fn roles(method: Method) -> &'static [Call] {
    match method {
        Method::EpollCtl => &[Call::EpollAddConnection, Call::EpollModify],
        Method::EpollWait => &[Call::EpollWait],
        Method::Accept4 => &[Call::Accept],
        Method::Recv => &[Call::Recv],
        Method::Send => &[Call::Send],
        Method::Sendmsg => &[Call::SendPieces],
        Method::Connect => &[Call::Connect],
        Method::Getsockname => &[Call::OutboundAddress],
        Method::GetsockoptError => &[Call::ConnectResult],
        Method::TimerfdSettime => &[Call::SetTimer],
        Method::ReadCounter => &[Call::ReadCounter],
        Method::WriteCounter => &[Call::WriteCounter],
        Method::ReadSignal => &[Call::ReadSignal],
        Method::SocketDiag => &[Call::DiagSocket],
        Method::WriteDiag => &[Call::DiagAsk],
        Method::ReadDiag => &[Call::DiagAnswer],
        Method::Shutdown => &[Call::Shutdown],
        Method::IoctlOutq => &[Call::Unacknowledged],
        Method::Close => &[Call::Close],
        Method::Pread64 => &[Call::ReadFile],
        Method::Sendfile => &[Call::SendFile],
        Method::Stat => &[Call::DirectoryStatus],
        _ => &[],
    }
}

/// What each call may say, the most important first: the table of faults.md, and last
/// an errno that no table knows.
#[rustfmt::skip] // one row a call
pub fn errnos(method: Method) -> &'static [Errno] {
    use Errno::*;
    match method {
        Method::RtSigaction | Method::RtSigprocmask => &[EINVAL, EFAULT, EXDEV],
        Method::Prlimit => &[EPERM, EINVAL, EFAULT, EXDEV],
        Method::Socket => &[EMFILE, EACCES, EAFNOSUPPORT, EINVAL, ENFILE, ENOBUFS, ENOMEM, EPROTONOSUPPORT, EPERM, EXDEV],
        Method::FcntlInherit | Method::FcntlNonblock => &[EBADF, EPERM, EXDEV],
        Method::GetsockoptListens => &[EBADF, EFAULT, EINVAL, ENOTSOCK, ENOPROTOOPT, EXDEV],
        Method::SocketDatagram => &[EMFILE, EACCES, EAFNOSUPPORT, ENFILE, ENOMEM, EPERM, EXDEV],
        Method::Setsockopt => &[ENOMEM, EBADF, EFAULT, EINVAL, ENOENT, ENOPROTOOPT, ENOTSOCK, ENOBUFS, EPERM, EXDEV],
        Method::OpenAs => &[EACCES, EMFILE, ENOENT, ENOTDIR, ENOSYS, EXDEV],
        Method::Flock => &[EAGAIN, EINTR, ENOLCK, EBADF, EXDEV],
        Method::ClockNanosleep => &[EINTR, EINVAL, EXDEV],
        Method::Fchmod | Method::Chmod => &[EPERM, ENOENT, EINVAL, EIO, EROFS, EXDEV],
        Method::Bind => &[EADDRINUSE, EACCES, EADDRNOTAVAIL, EBADF, EINVAL, ENOTSOCK, EFAULT, ENOMEM, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EROFS, EXDEV],
        Method::Lstat | Method::Stat => &[ENOENT, EACCES, ELOOP, ENOMEM, ENOTDIR, EXDEV],
        Method::Connect => &[ECONNREFUSED, EAGAIN, EACCES, ENOENT, EPROTOTYPE, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, ETIMEDOUT, EINTR, ENOBUFS, ENOMEM, EPERM, EBADF, EFAULT, ENOTSOCK, EALREADY, EISCONN, EXDEV],
        Method::GetsockoptError => &[EBADF, EFAULT, EINVAL, ENOPROTOOPT, ENOTSOCK, EXDEV],
        Method::Openat2 => &[ENOENT, EACCES, EMFILE, ENFILE, ENOMEM, EAGAIN, EINTR, ELOOP, ENOTDIR, ENAMETOOLONG, ENXIO, EISDIR, EIO, EXDEV],
        Method::Fstat => &[EBADF, EFAULT, ENOMEM, EOVERFLOW, EXDEV],
        Method::Pread64 => &[EIO, EAGAIN, EINTR, EBADF, EFAULT, EINVAL, EISDIR, EOVERFLOW, ENXIO, ESPIPE, EXDEV],
        Method::Sendfile => &[EAGAIN, EINTR, EPIPE, ECONNRESET, ENOBUFS, ENOMEM, EINVAL, ENOSYS, EIO, EOVERFLOW, ESPIPE, EBADF, EFAULT, ENOTSOCK, EXDEV],
        Method::Unlink => &[EACCES, EBUSY, EIO, ENOENT, EPERM, EROFS, EXDEV],
        Method::Listen => &[EADDRINUSE, EBADF, ENOTSOCK, EOPNOTSUPP, EXDEV],
        Method::Getsockname => &[ENOBUFS, EBADF, EFAULT, EINVAL, ENOTSOCK, EXDEV],
        Method::EpollCreate1 => &[EMFILE, EINVAL, ENFILE, ENOMEM, EXDEV],
        Method::Eventfd2 | Method::Signalfd4 | Method::TimerfdCreate => &[EMFILE, EINVAL, ENFILE, ENODEV, ENOMEM, EPERM, EXDEV],
        Method::EpollCtl => &[ENOMEM, ENOSPC, ENOENT, EEXIST, EBADF, EINVAL, ELOOP, EPERM, EXDEV],
        Method::EpollWait => &[EINTR, EBADF, EINVAL, EFAULT, EXDEV],
        Method::Accept4 => &[EMFILE, EAGAIN, EINTR, ECONNABORTED, EPERM, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH, ETIMEDOUT, ENOSR, ESOCKTNOSUPPORT, EPROTONOSUPPORT, ENFILE, ENOBUFS, ENOMEM, EINVAL, EBADF, ENOTSOCK, EFAULT, EXDEV],
        Method::Recv => &[ECONNRESET, EAGAIN, EINTR, ENOMEM, ENOBUFS, ETIMEDOUT, ECONNREFUSED, ENOTCONN, EPIPE, EHOSTUNREACH, ENETUNREACH, ENETDOWN, ECONNABORTED, EBADF, EFAULT, EINVAL, ENOTSOCK, EISDIR, EIO, EXDEV],
        Method::Send | Method::Sendmsg => &[EPIPE, EAGAIN, EINTR, ENOBUFS, ENOMEM, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN, ENOTCONN, EACCES, EPERM, EBADF, EFAULT, EINVAL, ENOTSOCK, EMSGSIZE, EDESTADDRREQ, EISCONN, EOPNOTSUPP, EALREADY, EXDEV],
        Method::TimerfdSettime => &[EINVAL, EBADF, EFAULT, ECANCELED, EXDEV],
        Method::ReadCounter | Method::WriteCounter | Method::ReadSignal => &[EAGAIN, EINTR, EIO, EBADF, EINVAL, EXDEV],
        Method::SocketDiag => &[EMFILE, EACCES, EAFNOSUPPORT, ENFILE, ENOBUFS, ENOMEM, EPERM, EPROTONOSUPPORT, EXDEV],
        Method::WriteDiag => &[ECONNREFUSED, EAGAIN, EINTR, ENOBUFS, ENOMEM, EPERM, EBADF, EXDEV],
        Method::ReadDiag => &[EAGAIN, EINTR, ENOENT, ENOBUFS, ENOMEM, EPERM, EBADF, EXDEV],
        Method::IoctlOutq => &[EINVAL, EBADF, EFAULT, ENOTTY, EXDEV],
        Method::Shutdown => &[ENOTCONN, EBADF, EINVAL, ENOTSOCK, EXDEV],
        Method::Close => &[EINTR, EIO, ENOSPC, EDQUOT, EBADF, EXDEV],
    }
}

/// What no kernel does: whoever believes it spins, and rightly so. A descriptor that is
/// ready does not say EAGAIN or EINTR for ever.
pub fn is_a_lie(method: Method, errno: Errno, times: Times) -> bool {
    let patient = [Reaction::Wait, Reaction::Retry, Reaction::Ignore];
    let is_patient = |&call| patient.contains(&reaction(call, errno));
    match method {
        Method::Close | Method::Shutdown => false,
        _ => times == Times::UntilHealed && roles(method).iter().any(is_patient),
    }
}
