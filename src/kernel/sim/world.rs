//! The table of descriptors, and what they refer to: listeners, counters, signals and timers;
//! [files] and [epoll] sets have rooms of their own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::faults::{Faults, Short};
use super::stream::{Capacity, End, EndId, Options, Streams};
use super::{
    Address, ERR, Errno, Event, Fd, FileKind, HUP, IOV_MAX, Peer, Result, Signal, SocketOption,
};

mod epoll;
mod files;

/// The ports for port 0 and for clients (ip_local_port_range).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;
/// Each eventfd counts up to one less than this (eventfd(2)).
const COUNTER_FULL: u64 = u64::MAX - 1;
/// The longest backlog (somaxconn).
const MOST_BACKLOG: usize = 4096;
/// The longest path of a Unix socket. unix(7)
const LONGEST_PATH: usize = 107;

/// A socket that is no connection: fresh, bound, or listening.
#[derive(Clone)]
pub(super) struct Socket {
    /// Which family it speaks; the address it is bound to, once it is.
    family: Family,
    local: Option<Address>,
    options: Options,
    /// The mode its file would get, before the umask.
    mode: u32,
    /// The file it is bound to.
    inode: u64,
    door: Option<Door>,
    /// A service manager has passed it on, and keeps it.
    is_shared: bool,
    /// It is in blocking mode: only one that was passed on.
    blocks: bool,
}

impl Socket {
    fn new(family: Family) -> Socket {
        let options = Options::default();
        let (mode, inode) = (0o777, 0);
        let (is_shared, blocks) = (false, false);
        Socket { family, local: None, options, mode, inode, door: None, is_shared, blocks }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Unix,
}

impl Family {
    fn of(address: &Address) -> Family {
        match address {
            Address::Tcp(SocketAddr::V4(_)) => Family::V4,
            Address::Tcp(SocketAddr::V6(_)) => Family::V6,
            Address::Unix(_) => Family::Unix,
        }
    }
}

/// The two queues of a listening socket.
#[derive(Clone, Default)]
struct Door {
    backlog: usize,
    /// How many sockets had begun to listen before it.
    place: u64,
    /// Established, waiting for accept4: the server's ends.
    queue: VecDeque<EndId>,
    /// The clients' ends whose SYN was not answered, because the queue was full or a filter
    /// drops SYNs; it is sent again until it is answered.
    syns: VecDeque<EndId>,
    /// The server's ends whose SYN+ACK was not acknowledged yet.
    half: VecDeque<EndId>,
}

impl Door {
    fn is_full(&self) -> bool {
        self.queue.len() > self.backlog
    }
}

/// What a descriptor refers to. There is no dup and no fork here, so each belongs to exactly
/// one descriptor, and is closed with it.
enum Entry {
    /// One of the three with which a process starts.
    Terminal,
    Socket(Socket),
    Stream(EndId),
    /// An open file: its inode.
    File(u64),
    Directory(PathBuf),
    Epoll(Epoll),
    /// A socket of sock_diag, and the answer that waits there.
    Diag(Option<bool>),
    Counter(u64),
    Signals(BTreeSet<Signal>),
    /// A datagram socket; whether it is connected to the service manager.
    Datagram(bool),
    Timer {
        deadline: Option<u64>,
        expired: bool,
    },
}

/// An epoll set, as the kernel has it: the watched descriptors, and the ready list. A
/// descriptor on the list is checked by the next wait; it need not be ready.
#[derive(Default)]
struct Epoll {
    watched: BTreeMap<i32, Watch>,
    ready: VecDeque<i32>,
}

struct Watch {
    event: Event,
    listed: bool,
}

impl Watch {
    /// The events that may be reported: those asked for, and errors in any case.
    fn wants(&self, ready: u32) -> u32 {
        ready & (self.event.mask | ERR | HUP)
    }
}

/// The owner of the lock of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// A descriptor of the server.
    Ours(i32),
    /// Another process, until this time in nanoseconds.
    Until(u64),
}

/// A file. It is kept after its name is removed, here forever.
pub(super) struct Inode {
    mode: u32,
    kind: FileKind,
    pub(super) content: Vec<u8>,
    pub(super) modified: i64,
}

/// Where in the table a descriptor is: nowhere, if it is one of Linux's.
fn number_of(fd: &Fd) -> i32 {
    fd.simulated_number().unwrap_or(-1)
}

/// The whole state of the kernel.
pub(super) struct World {
    /// By number.
    table: Vec<Option<Entry>>,
    /// The epoll sets among the descriptors.
    epolls: Vec<i32>,
    pub(super) limit: (u64, u64),
    pub(super) streams: Streams,
    pub(super) capacity: Capacity,
    /// The inode of each name; inodes are counted from 1.
    files: BTreeMap<PathBuf, u64>,
    inodes: Vec<Inode>,
    /// The symbolic links to directories, and their targets, if those exist.
    pub(super) links: BTreeMap<PathBuf, Option<PathBuf>>,
    /// The directories that were used; the index is the inode.
    directories: Vec<PathBuf>,
    /// The listening sockets of other hosts.
    remotes: Vec<Option<Socket>>,
    /// The descriptors that were passed on and not taken over yet.
    passed: BTreeSet<i32>,
    /// The listener to which new clients of each shared address are steered.
    steered: BTreeMap<SocketAddr, u32>,
    /// How many sockets have begun to listen.
    listens: u64,
    /// A shared socket was closed while epoll watched it: Linux would go on reporting it.
    pub(super) is_haunted: bool,
    /// The address of a service manager, and the messages that it has received.
    pub(super) manager: Option<(Address, Vec<String>)>,
    pub(super) umask: u32,
    pub(super) next_port: u16,
    /// The directories that are locked.
    pub(super) locks: BTreeMap<PathBuf, Holder>,
    blocked: BTreeSet<Signal>,
    pending: BTreeSet<Signal>,
    pub(super) ignored: BTreeSet<Signal>,
    pub(super) short: Short,
    pub(super) faults: Faults,
    pub(super) clock_reads: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            table: vec![Some(Entry::Terminal), Some(Entry::Terminal), Some(Entry::Terminal)],
            epolls: Vec::new(),
            limit: (1024, 4096),
            streams: Streams::new(seed),
            capacity: Capacity { outbox: 128 * 1024, inbox: 64 * 1024 },
            files: BTreeMap::new(),
            inodes: Vec::new(),
            links: BTreeMap::new(),
            directories: Vec::new(),
            remotes: Vec::new(),
            passed: BTreeSet::new(),
            steered: BTreeMap::new(),
            listens: 0,
            is_haunted: false,
            manager: None,
            umask: 0o022,
            next_port: *EPHEMERAL.start(),
            locks: BTreeMap::new(),
            blocked: BTreeSet::new(),
            pending: BTreeSet::new(),
            ignored: BTreeSet::new(),
            short: Short::Full,
            faults: Faults::default(),
            clock_reads: 0,
        }
    }

    /// How many of `length` bytes a transfer may move.
    fn shortened(&mut self, length: usize) -> usize {
        match self.short {
            Short::Full => length,
            Short::AtMost(most) => length.min(most.max(1)),
            Short::Random if length == 0 => 0,
            Short::Random => 1 + (self.streams.links.random() % length as u64) as usize,
        }
    }

    // ---- the table

    fn entry(&self, number: i32) -> Result<&Entry> {
        let entry = usize::try_from(number).ok().and_then(|index| self.table.get(index));
        entry.and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    fn entry_mut(&mut self, number: i32) -> Result<&mut Entry> {
        let entry = usize::try_from(number).ok().and_then(|index| self.table.get_mut(index));
        entry.and_then(Option::as_mut).ok_or(Errno::EBADF)
    }

    fn socket_mut(&mut self, fd: &Fd) -> Result<&mut Socket> {
        match self.entry_mut(number_of(fd))? {
            Entry::Socket(socket) => Ok(socket),
            Entry::Stream(_) => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTSOCK),
        }
    }

    /// All open descriptors.
    fn open(&self) -> impl Iterator<Item = (i32, &Entry)> {
        (0..).zip(&self.table).filter_map(|(fd, entry)| Some((fd, entry.as_ref()?)))
    }

    /// The listening sockets; those of other hosts have negative numbers.
    fn doors(&self) -> impl Iterator<Item = (i32, &Socket)> {
        let ours = self.open().filter_map(|(fd, entry)| match entry {
            Entry::Socket(socket) if socket.door.is_some() => Some((fd, socket)),
            _ => None,
        });
        let theirs = (0..).map(|index: i32| -2 - index).zip(&self.remotes);
        ours.chain(theirs.filter_map(|(number, remote)| Some((number, remote.as_ref()?))))
    }

    /// The number the next descriptor will have: the lowest that is free.
    fn lowest_free(&self) -> Result<usize> {
        let free = self.table.iter().position(Option::is_none).unwrap_or(self.table.len());
        if free as u64 >= self.limit.0 {
            return Err(Errno::EMFILE);
        }
        Ok(free)
    }

    fn install(&mut self, entry: Entry) -> Result<Fd> {
        let free = self.lowest_free()?;
        let number = i32::try_from(free).map_err(|_| Errno::EMFILE)?;
        match self.table.get_mut(free) {
            Some(place) => *place = Some(entry),
            None => self.table.push(Some(entry)),
        }
        Fd::simulated(number).ok_or(Errno::EMFILE)
    }

    /// Which connection a descriptor belongs to.
    pub(super) fn connection(&self, number: i32) -> Option<u64> {
        match self.entry(number) {
            Ok(&Entry::Stream(end)) => Some(Streams::pair(end)),
            _ => None,
        }
    }

    pub(super) fn descriptors(&self) -> usize {
        self.open().filter(|(_, entry)| !matches!(entry, Entry::Terminal)).count()
    }

    pub(super) fn close(&mut self, number: i32) -> Result<()> {
        let entry = std::mem::replace(self.entry_mut(number)?, Entry::Terminal);
        if let Some(place) = self.table.get_mut(number as usize) {
            *place = None;
        }
        self.epolls.retain(|&epoll| epoll != number);
        self.locks.retain(|_, holder| *holder != Holder::Ours(number));
        let is_shared = matches!(&entry, Entry::Socket(socket) if socket.is_shared);
        let mut haunts = false;
        self.each_epoll(|epoll| {
            let watch = epoll.watched.get(&number);
            haunts |= is_shared && watch.is_some_and(|watch| watch.event.mask != 0);
            if epoll.watched.remove(&number).is_some_and(|watch| watch.listed) {
                epoll.ready.retain(|&fd| fd != number);
            }
        });
        self.is_haunted |= haunts;
        match entry {
            Entry::Stream(end) => self.streams.close(end, false),
            Entry::Socket(socket) if socket.is_shared => self.remotes.push(Some(socket)),
            Entry::Socket(Socket { door: Some(door), .. }) => self.shut(door),
            _ => {}
        }
        Ok(())
    }

    /// Closes the queues of a listener: it refuses or resets the clients in them.
    fn shut(&mut self, door: Door) {
        let begun = door.queue.into_iter().chain(door.half);
        begun.for_each(|end| self.streams.close(end, true));
        door.syns.into_iter().for_each(|end| self.streams.refuse(end));
    }

    // ---- signals and limits

    pub(super) fn block(&mut self, signals: &[Signal]) {
        let blockable = |signal: &&Signal| ![Signal::SIGKILL, Signal::SIGSTOP].contains(signal);
        self.blocked.extend(signals.iter().filter(blockable));
    }

    /// A signal arrives. Returns whether the process lives on.
    pub(super) fn raise(&mut self, signal: Signal) -> bool {
        use Signal::{SIGCHLD, SIGCONT, SIGURG, SIGWINCH};
        if !self.blocked.contains(&signal) {
            let harmless = [SIGCHLD, SIGCONT, SIGURG, SIGWINCH].contains(&signal);
            return harmless || self.ignored.contains(&signal);
        }
        self.pending.insert(signal);
        let listening = self.open().filter_map(|(fd, entry)| match entry {
            Entry::Signals(set) if set.contains(&signal) => Some(fd),
            _ => None,
        });
        let listening: Vec<i32> = listening.collect();
        self.streams.woken.extend(listening);
        true
    }

    pub(super) fn prlimit(&mut self, soft: Option<u64>) -> Result<(u64, u64)> {
        if let Some(soft) = soft {
            if soft > self.limit.1 {
                return Err(Errno::EINVAL);
            }
            self.limit.0 = soft;
        }
        Ok(self.limit)
    }

    // ---- sockets

    pub(super) fn socket(&mut self, address: &Address) -> Result<Fd> {
        self.install(Entry::Socket(Socket::new(Family::of(address))))
    }

    // ---- what a service manager passes and receives

    /// The socket that the manager has kept for this address, or a new one.
    pub(super) fn pass(&mut self, address: &Address) -> Result<i32> {
        let is_kept = |it: &&mut Option<Socket>| {
            it.as_ref().is_some_and(|it| it.is_shared && it.local.as_ref() == Some(address))
        };
        let kept = self.remotes.iter_mut().find(is_kept).and_then(Option::take);
        let fd = match kept {
            Some(socket) => self.install(Entry::Socket(Socket { blocks: true, ..socket }))?,
            None => {
                let fd = self.socket(address)?;
                self.bind(&fd, address)?;
                self.listen(&fd, MOST_BACKLOG as u32)?;
                let socket = self.socket_mut(&fd)?;
                (socket.is_shared, socket.blocks) = (true, true);
                fd
            }
        };
        let number = number_of(&fd);
        self.passed.insert(number);
        Ok(number)
    }

    pub(super) fn inherit(&mut self, number: i32) -> Result<Fd> {
        let is_terminal = matches!(self.entry(number)?, Entry::Terminal);
        let is_passed = self.passed.remove(&number) || is_terminal;
        Fd::simulated(number).filter(|_| is_passed).ok_or(Errno::EBADF)
    }

    pub(super) fn unblock(&mut self, fd: &Fd) -> Result<()> {
        if let Entry::Socket(socket) = self.entry_mut(number_of(fd))? {
            socket.blocks = false;
        }
        Ok(())
    }

    pub(super) fn listens(&mut self, fd: &Fd) -> Result<bool> {
        match self.entry(number_of(fd))? {
            Entry::Socket(socket) => Ok(socket.door.is_some()),
            Entry::Stream(_) | Entry::Datagram(_) => Ok(false),
            _ => Err(Errno::ENOTSOCK),
        }
    }

    pub(super) fn socket_datagram(&mut self) -> Result<Fd> {
        self.install(Entry::Datagram(false))
    }

    /// A message to the service manager.
    fn notify(&mut self, fd: &Fd, bytes: &[u8]) -> Option<Result<usize>> {
        let Ok(&Entry::Datagram(is_connected)) = self.entry(number_of(fd)) else { return None };
        Some(match &mut self.manager {
            Some((_, heard)) if is_connected => {
                heard.push(String::from_utf8_lossy(bytes).into_owned());
                Ok(bytes.len())
            }
            _ if is_connected => Err(Errno::ECONNREFUSED),
            _ => Err(Errno::ENOTCONN),
        })
    }

    pub(super) fn setsockopt(&mut self, fd: &Fd, option: SocketOption) -> Result<()> {
        use SocketOption as O;
        if let O::SteerTo(_) | O::StopSteering = option {
            return self.steer(fd, option);
        }
        let (family, bound, options) = match self.entry_mut(number_of(fd))? {
            Entry::Socket(s) => (s.family, s.local.is_some(), &mut s.options),
            &mut Entry::Stream(end) => {
                let end = self.streams.get_mut(end).ok_or(Errno::EBADF)?;
                (Family::of(&end.local), true, &mut end.options)
            }
            _ => return Err(Errno::ENOTSOCK),
        };
        check(option, family, bound)?;
        match option {
            O::V6Only | O::NoDelay | O::KeepAlive | O::KeepIdle(_) | O::UserTimeout(_) => {}
            O::Cork(_) => {} // segments are not simulated
            O::ReuseAddr => options.reuse_address = true,
            O::ReusePort => options.reuse_port = family != Family::Unix,
            O::DetachFilter if !options.drop_syn => return Err(Errno::ENOENT),
            O::DetachFilter => options.drop_syn = false,
            O::SteerTo(_) | O::StopSteering => {} // above
            O::RefuseDescriptors => {}            // no client passes any here
            // A Unix socket has no SYNs to refuse.
            O::NoDevice => options.refuse_syn = family != Family::Unix,
            O::ResetOnClose => options.reset_on_close = true,
            O::UrgentInline => options.urgent_inline = true,
            O::NotSentLowat(0) => options.not_sent_lowat = usize::MAX,
            O::NotSentLowat(bytes) => options.not_sent_lowat = bytes as usize,
        }
        if option == O::NoDevice {
            self.admit(number_of(fd));
        }
        Ok(())
    }

    /// Steers the new clients of a shared address to one listener, or stops steering.
    fn steer(&mut self, fd: &Fd, option: SocketOption) -> Result<()> {
        let socket = self.socket_mut(fd)?;
        let (shares, local) = (socket.options.reuse_port, socket.local.clone());
        let Some(Address::Tcp(address)) = local.filter(|_| shares) else {
            return Err(Errno::EINVAL);
        };
        match option {
            SocketOption::SteerTo(number) => drop(self.steered.insert(address, number)),
            _ => drop(self.steered.remove(&address).ok_or(Errno::ENOENT)?),
        }
        Ok(())
    }

    pub(super) fn fchmod(&mut self, fd: &Fd, mode: u32) -> Result<()> {
        match self.entry_mut(number_of(fd))? {
            Entry::Socket(socket) => socket.mode = mode & 0o7777,
            Entry::Stream(_) => {}
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        let socket = self.socket_mut(fd)?.clone();
        let address = match (socket.family, address) {
            (Family::Unix, Address::Unix(path)) => {
                check_path(path)?;
                if self.files.contains_key(path) {
                    return Err(Errno::EADDRINUSE);
                }
                address.clone()
            }
            (Family::V4, Address::Tcp(wanted @ SocketAddr::V4(_)))
            | (Family::V6, Address::Tcp(wanted @ SocketAddr::V6(_))) => {
                if socket.local.is_some() {
                    return Err(Errno::EINVAL);
                }
                let Options { reuse_address, reuse_port, .. } = socket.options;
                Address::Tcp(self.local_address(*wanted, reuse_address, reuse_port)?)
            }
            (Family::V4, _) | (Family::V6, Address::Unix(_)) => return Err(Errno::EAFNOSUPPORT),
            _ => return Err(Errno::EINVAL),
        };
        if socket.local.is_some() {
            return Err(Errno::EINVAL);
        }
        let inode = match &address {
            Address::Unix(path) => self.create(path, socket.mode & !self.umask, FileKind::Socket),
            Address::Tcp(_) => 0,
        };
        let socket = self.socket_mut(fd)?;
        (socket.local, socket.inode) = (Some(address), inode);
        Ok(())
    }

    /// The address that a bind to `wanted` gives, if nothing is in its way: another
    /// socket, unless both agreed to share and that one does not listen; or a
    /// connection, unless its listener and this one agreed to.
    fn local_address(
        &mut self,
        wanted: SocketAddr,
        reuse: bool,
        reuse_port: bool,
    ) -> Result<SocketAddr> {
        if wanted.port() == 0 {
            let port = self.ephemeral_port(wanted.ip())?;
            return Ok(SocketAddr::new(wanted.ip(), port));
        }
        let sockets = self.open().any(|(_, entry)| match entry {
            Entry::Socket(other) => {
                let shared = reuse && other.options.reuse_address && other.door.is_none()
                    || reuse_port && other.options.reuse_port;
                !shared && other.local.as_ref().is_some_and(|local| overlap(local, wanted))
            }
            _ => false,
        });
        let connections = self
            .streams
            .accepted()
            .any(|end| !(reuse && end.options.reuse_address) && overlap(&end.local, wanted));
        if sockets || connections { Err(Errno::EADDRINUSE) } else { Ok(wanted) }
    }

    /// A free port.
    fn ephemeral_port(&mut self, ip: IpAddr) -> Result<u16> {
        for _ in EPHEMERAL {
            let port = self.next_port;
            let (first, last) = EPHEMERAL.into_inner();
            self.next_port = if port == last { first } else { port + 1 };
            if self.local_address(SocketAddr::new(ip, port), false, false).is_ok() {
                return Ok(port);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    pub(super) fn listen(&mut self, fd: &Fd, backlog: u32) -> Result<()> {
        let socket = self.socket_mut(fd)?.clone();
        let local = match (socket.local, socket.family) {
            (Some(local), _) => local,
            (None, Family::V4) => self.any_port(Ipv4Addr::UNSPECIFIED.into())?,
            (None, Family::V6) => self.any_port(Ipv6Addr::UNSPECIFIED.into())?,
            (None, Family::Unix) => return Err(Errno::EINVAL),
        };
        if let Address::Tcp(address) = local {
            let shares = |other: &Socket| socket.options.reuse_port && other.options.reuse_port;
            let others = self.doors().filter(|(other, _)| *other != number_of(fd));
            let mut others = others.filter(|(_, other)| !shares(other));
            if others.any(|(_, other)| other.local.as_ref().is_some_and(|o| overlap(o, address))) {
                return Err(Errno::EADDRINUSE);
            }
        }
        self.listens += 1;
        let place = self.listens;
        let socket = self.socket_mut(fd)?;
        socket.local = Some(local);
        let door = socket.door.get_or_insert_with(|| Door { place, ..Door::default() });
        door.backlog = (backlog as usize).min(MOST_BACKLOG);
        self.admit(number_of(fd));
        Ok(())
    }

    fn any_port(&mut self, ip: IpAddr) -> Result<Address> {
        Ok(Address::Tcp(SocketAddr::new(ip, self.ephemeral_port(ip)?)))
    }

    pub(super) fn getsockname(&mut self, fd: &Fd) -> Result<Address> {
        match self.entry(number_of(fd))? {
            Entry::Socket(Socket { local: Some(local), .. }) => Ok(local.clone()),
            Entry::Socket(Socket { family, .. }) => Ok(match family {
                Family::V4 => Address::Tcp((Ipv4Addr::UNSPECIFIED, 0).into()),
                Family::V6 => Address::Tcp((Ipv6Addr::UNSPECIFIED, 0).into()),
                Family::Unix => Address::Unix(PathBuf::new()),
            }),
            &Entry::Stream(end) => Ok(self.streams.get(end).ok_or(Errno::EBADF)?.local.clone()),
            _ => Err(Errno::ENOTSOCK),
        }
    }

    pub(super) fn accept4(&mut self, fd: &Fd) -> Result<(Fd, Peer)> {
        self.entry(number_of(fd))?;
        self.lowest_free()?; // checked before anything else, as in the kernel
        let Socket { door, blocks, .. } = self.socket_mut(fd)?;
        let id = door.as_mut().ok_or(Errno::EINVAL)?.queue.pop_front();
        debug_assert!(id.is_some() || !*blocks, "accept4 would wait");
        let id = id.ok_or(Errno::EAGAIN)?;
        self.admit(number_of(fd));
        let accepted = self.install(Entry::Stream(id))?;
        let name = self.streams.get(id ^ 1).map_or(Peer::Unix, |client| client.name);
        if let Some(end) = self.streams.get_mut(id) {
            end.fd = Some(number_of(&accepted));
        }
        Ok((accepted, name))
    }

    // ---- connecting

    /// The server connects: like a client, but with a descriptor.
    pub(super) fn connect(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        let mut name = None;
        let (family, options, state) = match self.entry(number_of(fd))? {
            Entry::Datagram(_) => return self.connect_datagram(fd, address),
            Entry::Socket(Socket { family, options, door, local, .. }) => {
                if let Some(Address::Tcp(local)) = local {
                    name = Some(*local);
                }
                let unix = *family == Family::Unix;
                let state = if unix { Errno::EINVAL } else { Errno::EISCONN };
                (*family, *options, door.as_ref().map(|_| state))
            }
            &Entry::Stream(id) => {
                let end = self.streams.get(id).ok_or(Errno::EBADF)?;
                let state = if end.connecting { Errno::EALREADY } else { Errno::EISCONN };
                (Family::of(&end.local), end.options, Some(state))
            }
            _ => return Err(Errno::ENOTSOCK),
        };
        if family != Family::of(address) {
            let v4 = family == Family::V4;
            return Err(if v4 { Errno::EAFNOSUPPORT } else { Errno::EINVAL });
        }
        if family == Family::Unix {
            self.find_door(address)?; // the path is checked first
        }
        if let Some(state) = state {
            return Err(state);
        }
        let id = self.begin(address, name, options)?;
        *self.entry_mut(number_of(fd))? = Entry::Stream(id);
        if let Some(end) = self.streams.get_mut(id) {
            end.fd = Some(number_of(fd));
        }
        self.streams.woken.push(number_of(fd));
        match address {
            Address::Tcp(_) => Err(Errno::EINPROGRESS),
            Address::Unix(_) => Ok(()),
        }
    }

    /// Datagrams go to the service manager, if that is at the address.
    fn connect_datagram(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        if self.manager.as_ref().is_none_or(|(at, _)| at != address) {
            return Err(Errno::ECONNREFUSED);
        }
        *self.entry_mut(number_of(fd))? = Entry::Datagram(true);
        Ok(())
    }

    /// A client connects. Returns its end. `name` is its address, if the test sets one.
    pub(super) fn connect_client(
        &mut self,
        address: &Address,
        name: Option<SocketAddr>,
    ) -> Result<EndId> {
        if self.find_door(address)?.is_none() {
            return Err(Errno::ECONNREFUSED);
        }
        self.begin(address, name, Options::default())
    }

    /// The listener of an address. With TCP none is no error here: the connect fails later.
    fn find_door(&self, address: &Address) -> Result<Option<i32>> {
        match address {
            Address::Tcp(address) => {
                let here = |socket: &Socket| match &socket.local {
                    Some(local) => overlap(local, *address),
                    None => false,
                };
                let place = |it: &Socket| it.door.as_ref().map_or(0, |door| door.place);
                let here = self.doors().filter(|(_, it)| here(it));
                let mut here: Vec<_> = here.map(|(fd, it)| (place(it), fd)).collect();
                here.sort_unstable();
                let steered = self.steered.get(address).and_then(|at| here.get(*at as usize));
                Ok(steered.or(here.first()).map(|(_, fd)| *fd))
            }
            Address::Unix(path) => {
                check_path(path)?;
                let inode = *self.files.get(path).ok_or(Errno::ENOENT)?;
                let door = self.doors().find(|(_, socket)| socket.inode == inode);
                let (fd, socket) = door.ok_or(Errno::ECONNREFUSED)?;
                if socket.door.as_ref().is_some_and(Door::is_full) {
                    return Err(Errno::EAGAIN);
                }
                Ok(Some(fd))
            }
        }
    }

    /// A client connects, and sends its last ACK after this long. Returns its end.
    pub(super) fn connect_slowly(&mut self, address: &Address, time: u64) -> Result<EndId> {
        let id = self.connect_client(address, None)?;
        let number = self.find_door(address)?;
        if let Some((_, door)) = number.and_then(|number| self.door(number))
            && door.queue.back() == Some(&(id ^ 1))
        {
            door.half.extend(door.queue.pop_back());
            self.streams.clog(id, time);
        }
        Ok(id)
    }

    /// Begins a connection, and completes the handshake if the listener has room.
    fn begin(
        &mut self,
        address: &Address,
        name: Option<SocketAddr>,
        options: Options,
    ) -> Result<EndId> {
        let door = self.find_door(address)?;
        let (local, name, other_name) = match address {
            Address::Unix(_) => (Address::Unix(PathBuf::new()), Peer::Unix, Peer::Unix),
            Address::Tcp(server) => {
                let ip: IpAddr = match server {
                    SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                let name = match name {
                    Some(name) => name,
                    None => SocketAddr::new(ip, self.ephemeral_port(ip)?),
                };
                (Address::Tcp(name), Peer::Tcp(name), Peer::Tcp(*server))
            }
        };
        let inherited = door.and_then(|door| self.door(door)).map(|(options, _)| options);
        let id = self.streams.begin(
            End::new(local, name, options, self.capacity),
            End::new(address.clone(), other_name, inherited.unwrap_or_default(), self.capacity),
        );
        match door {
            Some(number) => {
                if let Some((_, door)) = self.door(number) {
                    door.syns.push_back(id);
                }
                self.admit(number);
            }
            // Its SYN arrives at itself, which is a valid answer (RFC 9293, 3.5). The bytes that
            // it sends do not come back here.
            None if name == peer_of(address) && name != Peer::Unix => {
                _ = self.streams.establish(id);
            }
            None => self.streams.refuse(id),
        }
        Ok(id)
    }

    /// A listener's queues, and the options that its connections inherit.
    fn door(&mut self, number: i32) -> Option<(Options, &mut Door)> {
        let Socket { options, door, .. } = match number {
            ..-1 => self.remotes.get_mut((-2 - number) as usize)?.as_mut()?,
            _ => match self.entry_mut(number).ok()? {
                Entry::Socket(socket) => socket,
                _ => return None,
            },
        };
        Some((*options, door.as_mut()?))
    }

    // ---- other hosts

    /// Another host listens. Returns its number.
    pub(super) fn listen_remote(&mut self, address: &Address) -> Result<i32> {
        if self.find_door(address).is_ok_and(|door| door.is_some()) {
            return Err(Errno::EADDRINUSE);
        }
        let inode = match address {
            Address::Unix(path) => self.create(path, 0o777, FileKind::Socket),
            Address::Tcp(_) => 0,
        };
        self.remotes.push(Some(Socket {
            local: Some(address.clone()),
            inode,
            door: Some(Door { backlog: MOST_BACKLOG, ..Door::default() }),
            ..Socket::new(Family::of(address))
        }));
        Ok(-1 - self.remotes.len() as i32)
    }

    /// Accepts the first connection in its queue. Returns its end, and the peer's address.
    pub(super) fn accept_remote(&mut self, number: i32) -> Option<(EndId, Peer)> {
        let (_, door) = self.door(number)?;
        let id = door.queue.pop_front()?;
        self.admit(number);
        Some((id, self.streams.get(id ^ 1).map_or(Peer::Unix, |other| other.name)))
    }

    pub(super) fn set_remote_backlog(&mut self, number: i32, backlog: usize) {
        if let Some((_, door)) = self.door(number) {
            door.backlog = backlog;
        }
        self.admit(number);
    }

    /// A filter drops the SYNs to one of our listeners.
    pub(super) fn leave_filter(&mut self, number: i32) {
        if let Ok(Entry::Socket(socket)) = self.entry_mut(number) {
            socket.options.drop_syn = true;
        }
    }

    /// Sets whether another host answers SYNs.
    pub(super) fn mute_remote(&mut self, number: i32, mute: bool) {
        if let Some(Some(socket)) = self.remotes.get_mut((-2 - number) as usize) {
            socket.options.drop_syn = mute;
        }
        self.admit(number);
    }

    pub(super) fn close_remote(&mut self, number: i32) {
        let remote = self.remotes.get_mut((-2 - number) as usize).and_then(Option::take);
        if let Some(Socket { local, door: Some(door), .. }) = remote {
            self.shut(door);
            if let Some(Address::Unix(path)) = local {
                self.files.remove(&path);
            }
        }
    }

    /// Moves connections from the SYN queue of a listener to the accept queue, while it accepts
    /// SYNs and there is room for backlog + 1. What is on a clogged link has not arrived yet.
    fn admit(&mut self, number: i32) {
        let Some((options, door)) = self.door(number) else { return };
        let (takes, mut waiting) = (!options.drop_syn, std::mem::take(&mut door.syns));
        let mut half = std::mem::take(&mut door.half);
        let mut room = (door.backlog + 1).saturating_sub(door.queue.len());
        let mut queue = VecDeque::new();
        half.retain(|&end| {
            let comes = room > 0 && self.streams.is_reachable(end);
            if comes {
                queue.push_back(end);
                room -= 1;
            }
            !comes
        });
        waiting.retain(|&syn| {
            if options.refuse_syn && self.streams.is_reachable(syn) {
                self.streams.refuse(syn);
                return false;
            }
            let comes = takes && room > 0 && self.streams.is_reachable(syn);
            if comes && let Some(end) = self.streams.establish(syn) {
                queue.push_back(end);
                room -= 1;
            }
            !comes
        });
        if !queue.is_empty() {
            self.streams.woken.push(number);
        }
        if let Some((_, door)) = self.door(number) {
            (door.syns, door.half) = (waiting, half);
            door.queue.append(&mut queue);
        }
    }

    // ---- bytes

    fn stream(&self, fd: &Fd, tcp: Errno, unix: Errno) -> Result<EndId> {
        match self.entry(number_of(fd))? {
            Entry::Stream(end) => Ok(*end),
            Entry::Socket(Socket { family: Family::Unix, .. }) => Err(unix),
            Entry::Socket(_) => Err(tcp),
            _ => Err(Errno::ENOTSOCK),
        }
    }

    pub(super) fn recv(&mut self, fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
        let end = self.stream(fd, Errno::ENOTCONN, Errno::EINVAL)?;
        let length = self.shortened(buffer.len());
        self.streams.recv(end, buffer.get_mut(..length).unwrap_or_default())
    }

    pub(super) fn send(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        if let Some(result) = self.notify(fd, bytes) {
            return result;
        }
        let end = self.stream(fd, Errno::EPIPE, Errno::ENOTCONN)?;
        let length = self.shortened(bytes.len());
        self.streams.send(end, bytes.get(..length).unwrap_or_default())
    }

    pub(super) fn send_more(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        let sent = self.send(fd, bytes)?;
        if sent == bytes.len() {
            self.streams.sent_more(self.stream(fd, Errno::EPIPE, Errno::ENOTCONN)?)?;
        }
        Ok(sent)
    }

    pub(super) fn sendmsg(&mut self, fd: &Fd, pieces: &[IoSlice<'_>]) -> Result<usize> {
        if pieces.len() > IOV_MAX {
            return Err(Errno::EMSGSIZE);
        }
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.send(fd, &bytes)
    }

    pub(super) fn shutdown(&mut self, fd: &Fd) -> Result<()> {
        match self.entry(number_of(fd))? {
            Entry::Stream(end) => self.streams.shutdown(*end),
            // Only the sending direction of a listener is shut: nothing happens.
            Entry::Socket(Socket { family: Family::Unix, .. } | Socket { door: Some(_), .. }) => {
                Ok(())
            }
            Entry::Socket(_) => Err(Errno::ENOTCONN),
            _ => Err(Errno::ENOTSOCK),
        }
    }

    pub(super) fn getsockopt_error(&mut self, fd: &Fd) -> Result<Option<Errno>> {
        match *self.entry(number_of(fd))? {
            Entry::Stream(end) => self.streams.take_error(end),
            Entry::Socket(_) => Ok(None),
            _ => Err(Errno::ENOTSOCK),
        }
    }

    pub(super) fn ioctl_outq(&self, fd: &Fd) -> Result<usize> {
        match *self.entry(number_of(fd))? {
            Entry::Stream(end) => self.streams.unacknowledged(end),
            Entry::Socket(Socket { family: Family::V4 | Family::V6, door: Some(_), .. }) => {
                Err(Errno::EINVAL)
            }
            Entry::Socket(_) => Ok(0),
            _ => Err(Errno::ENOTTY),
        }
    }

    // ---- sock_diag

    pub(super) fn socket_diag(&mut self) -> Result<Fd> {
        self.install(Entry::Diag(None))
    }

    pub(super) fn write_diag(&mut self, fd: &Fd, local: SocketAddr) -> Result<()> {
        let here = |socket: &Socket| match socket.local {
            Some(Address::Tcp(own)) => {
                own.port() == local.port() && own.is_ipv4() == local.is_ipv4()
            }
            _ => false,
        };
        let is_half = |door: &Door| !door.half.is_empty();
        let any = self
            .doors()
            .any(|(_, socket)| here(socket) && socket.door.as_ref().is_some_and(is_half));
        match self.entry_mut(number_of(fd))? {
            Entry::Diag(answer) => *answer = Some(any),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    pub(super) fn read_diag(&mut self, fd: &Fd) -> Result<bool> {
        match self.entry_mut(number_of(fd))? {
            Entry::Diag(answer) => answer.take().ok_or(Errno::EAGAIN),
            _ => Err(Errno::EINVAL),
        }
    }

    // ---- counters, signals, time

    pub(super) fn eventfd2(&mut self) -> Result<Fd> {
        self.install(Entry::Counter(0))
    }

    pub(super) fn signalfd4(&mut self, signals: &[Signal]) -> Result<Fd> {
        self.install(Entry::Signals(signals.iter().copied().collect()))
    }

    pub(super) fn timerfd_create(&mut self) -> Result<Fd> {
        self.install(Entry::Timer { deadline: None, expired: false })
    }

    pub(super) fn timerfd_settime(&mut self, fd: &Fd, at: Option<u64>) -> Result<()> {
        let at = at.map(|at| at.saturating_add(self.streams.links.draw())); // late, never early
        match self.entry_mut(number_of(fd))? {
            Entry::Timer { deadline, expired } => (*deadline, *expired) = (at, false),
            _ => return Err(Errno::EINVAL),
        }
        self.expire();
        Ok(())
    }

    pub(super) fn read_counter(&mut self, fd: &Fd) -> Result<u64> {
        let read = match self.entry_mut(number_of(fd))? {
            Entry::Counter(count) => std::mem::take(count),
            Entry::Timer { expired, .. } => u64::from(std::mem::take(expired)),
            _ => return Err(Errno::EINVAL),
        };
        if read == COUNTER_FULL {
            self.streams.woken.push(number_of(fd));
        }
        if read == 0 { Err(Errno::EAGAIN) } else { Ok(read) }
    }

    pub(super) fn write_counter(&mut self, fd: &Fd) -> Result<()> {
        match self.entry_mut(number_of(fd))? {
            Entry::Counter(COUNTER_FULL) => return Err(Errno::EAGAIN),
            Entry::Counter(count) => *count += 1,
            _ => return Err(Errno::EINVAL),
        }
        self.streams.woken.push(number_of(fd));
        Ok(())
    }

    pub(super) fn read_signal(&mut self, fd: &Fd) -> Result<Signal> {
        let Entry::Signals(set) = self.entry(number_of(fd))? else {
            return Err(Errno::EINVAL);
        };
        // The lowest number first.
        let signal = self.pending.intersection(set).next().copied().ok_or(Errno::EAGAIN)?;
        self.pending.remove(&signal);
        Ok(signal)
    }

    pub(super) fn now(&self) -> u64 {
        self.streams.links.now
    }

    /// Moves the clock, frees the links and expires the timers that this reaches.
    pub(super) fn move_clock(&mut self, now: u64) {
        while let Some((pair, until)) = self.streams.links.next()
            && until <= now
        {
            self.streams.links.now = until.max(self.now());
            self.unclog(pair);
        }
        self.streams.links.now = now;
        self.expire();
    }

    /// Frees a link.
    pub(super) fn unclog(&mut self, pair: u64) {
        self.streams.unclog(pair);
        let doors: Vec<i32> = self.doors().map(|(number, _)| number).collect();
        doors.into_iter().for_each(|door| self.admit(door)); // the SYN may have arrived
    }

    /// Expires the timers whose time has come.
    fn expire(&mut self) {
        let now = self.now();
        for (number, entry) in (0..).zip(&mut self.table) {
            if let Some(Entry::Timer { deadline, expired }) = entry
                && deadline.is_some_and(|deadline| deadline <= now)
            {
                (*deadline, *expired) = (None, true);
                self.streams.woken.push(number);
            }
        }
        self.deliver();
    }

    /// The earliest deadline of the timers that `wanted` accepts.
    fn next_deadline(&self, wanted: impl Fn(i32) -> bool) -> Option<u64> {
        let timers = self.open().filter_map(|(fd, entry)| match entry {
            Entry::Timer { deadline, .. } if wanted(fd) => *deadline,
            _ => None,
        });
        timers.min()
    }

    pub(super) fn armed(&self) -> Option<u64> {
        self.next_deadline(|_| true)
    }

    /// When a clog ends, or a timer that `wanted` accepts expires, whichever is first.
    pub(super) fn next_event(&self, wanted: impl Fn(i32) -> bool) -> Option<u64> {
        let arrival = self.streams.links.next().map(|(_, until)| until.max(self.now()));
        arrival.into_iter().chain(self.next_deadline(wanted)).min()
    }
}

/// The peer that a client with this address is.
fn peer_of(address: &Address) -> Peer {
    match address {
        Address::Tcp(address) => Peer::Tcp(*address),
        Address::Unix(_) => Peer::Unix,
    }
}

/// What the kernel takes for the path of a Unix socket.
fn check_path(path: &Path) -> Result<()> {
    match path.as_os_str().len() {
        0 => Err(Errno::ENOENT),
        1..=LONGEST_PATH => Ok(()),
        _ => Err(Errno::ENAMETOOLONG),
    }
}

/// What Linux refuses of an option.
fn check(option: SocketOption, family: Family, is_bound: bool) -> Result<()> {
    use SocketOption as O;
    match option {
        O::V6Only if family == Family::V4 => Err(Errno::ENOPROTOOPT),
        O::V6Only if family == Family::Unix => Err(Errno::EOPNOTSUPP),
        O::V6Only if is_bound => Err(Errno::EINVAL),
        O::NoDelay | O::KeepIdle(_) | O::UserTimeout(_) | O::NotSentLowat(_) | O::Cork(_)
            if family == Family::Unix =>
        {
            Err(Errno::EOPNOTSUPP)
        }
        O::RefuseDescriptors if family != Family::Unix => Err(Errno::EOPNOTSUPP),
        O::KeepIdle(seconds) if !(1..=32767).contains(&seconds) => Err(Errno::EINVAL),
        O::UserTimeout(ms) if i32::try_from(ms).is_err() => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// Whether two TCP addresses conflict: the same port, and the same host or all hosts.
fn overlap(one: &Address, other: SocketAddr) -> bool {
    let Address::Tcp(one) = one else { return false };
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
