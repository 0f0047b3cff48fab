//! Forwards each client to another server, the upstream server.
//!
//! A client and its upstream connection are a tunnel. What happens at one end of it
//! happens at the other:
//!
//! | at one end | at the other |
//! |---|---|
//! | bytes | the same bytes; while too many wait there, nothing is read here |
//! | FIN | FIN, after the last byte; the other direction goes on |
//! | a reset, a timeout or a limit | the queued output, then a reset; after a FIN, a close |
//! | long silence | FIN |
//! | no upstream server answers | a reset, so that it is not taken for an empty answer |
//!
//! A stop waits for answers that are due. The proxy does not know what bytes mean, so it
//! decides by which end sent last: see [`Talk`].
//!
//! A session belongs to one connection, and here each end needs to know the other: so the
//! ends are in one map of the handler.
//!
//! The addresses of a name may change, and it may have none yet. When all its addresses have
//! failed, the name is looked up again, on a thread that waits for this from the start, because the
//! resolver may take seconds, and at most every three seconds, however many clients come. Clients
//! for which no address answered wait for the result of the lookup.
//!
//! Invariants:
//! 1. While both ends of a tunnel live, each is in `ends` and names the other.
//! 2. A client in `waiting` is not in `ends`, is paused, and has a timer set.
//! 3. While a client is in `waiting`, a lookup runs.

use crate::address::{AddressError, Place, leads_to};
use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::fallible::{Map, has_room_for, put, shown};
use crate::handler::ConnectionHandler;
use crate::kernel::{Address, Errno, Peer};
use crate::mailbox::CallError;
use crate::net::{Conn, ConnId, Net};
use crate::proxy_header::{self, LONGEST_WRITTEN};
use crate::reaction::Call;
use crate::server::Handle;
use std::alloc::Layout;
use std::mem::{replace, take};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;
use std::{fmt, io, thread};

/// How often a stop checks the tunnels: one through which bytes have passed since goes on. (A
/// quarter of the drain timeout, if that is less.)
const QUIET: Duration = Duration::from_secs(1);
/// Shortest time between two log lines that no upstream server can be reached.
const NEWS: Duration = Duration::from_secs(60);
/// The timer of a client that waits for a lookup.
const LOOKUP: u32 = 1;
/// Shortest time between two lookups of a name.
const FRESH: Duration = Duration::from_secs(3);
/// The most memory that a lookup takes in Rust. Without it the lookup is tried again later.
const RESULT: usize = 64 << 10;
/// How long that is put off.
const AGAIN: Duration = Duration::from_secs(1);

/// A TCP proxy: it forwards bytes unchanged.
///
/// It makes a connection for each client, so the server must allow as many with
/// [`max_outbound`](crate::Limits::max_outbound).
#[derive(Debug)]
pub struct Proxy {
    upstream: Place,
    connect_timeout: Duration,
    /// Whether a PROXY header names the client to the upstream server.
    sends_header: bool,
    /// The index of the address that answered last: it is tried first.
    answering: usize,
    ends: Map<ConnId, End>,
    lookup: Lookup,
    /// Clients for whom no address has answered, and why.
    waiting: Map<ConnId, Error>,
    /// Since when the server stops.
    stopping: Option<Duration>,
    /// How often bytes have come from any end.
    chunks: u64,
    /// When it was last logged that no upstream address can be reached.
    warned_at: Option<Duration>,
}

/// One end of a tunnel.
#[derive(Clone, Copy, Debug)]
struct End {
    other: ConnId,
    role: Role,
    /// The number of the last bytes that came from it; 0 if none did.
    spoke: u64,
    /// How often bytes had come from any end at the last check of a stop.
    looked: u64,
    /// Its FIN has come: all bytes before it must still reach the other end.
    ended: bool,
}

impl End {
    fn new(other: ConnId, role: Role) -> End {
        End { other, role, spoke: 0, looked: 0, ended: false }
    }
}

/// How far a conversation has come, judged by which end sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Talk {
    /// Bytes have come since the last check, or wait to be sent, or the connect is under way.
    GoesOn,
    /// The upstream server sent last, or the client never did: nothing is due.
    AtRest,
    /// Both have sent, the client last: an answer is due.
    AwaitsAnswer,
    /// Only the client has sent: the first answer is due, or there never is one.
    OneSided,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    /// Begun, to the address with this index; and how many others are left to try.
    Dialing {
        address: u32,
        others: u32,
    },
    Upstream,
}

/// Begins the lookup of a name, without waiting for it.
type Begin = dyn Fn(&Place) -> io::Result<()> + Send + Sync;

/// The lookup of a name: how it is begun, and whether it is time for one.
#[derive(Default)]
struct Lookup {
    begin: OnceLock<Box<Begin>>,
    runs: bool,
    /// When the last one ended.
    ended_at: Option<Duration>,
}

impl Lookup {
    /// Begins a lookup, unless one runs already or it is too early. Returns whether one runs.
    fn ask(&mut self, place: &Place, now: Duration) -> bool {
        let is_due = self.ended_at.is_none_or(|at| now.saturating_sub(at) >= FRESH);
        if !self.runs
            && is_due
            && let Some(begin) = self.begin.get()
        {
            match begin(place) {
                Ok(()) => self.runs = true,
                Err(error) => log::warn!("looking up {place}: {error}"),
            }
        }
        self.runs
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookup {{ runs: {}, ended_at: {:?} }}", self.runs, self.ended_at)
    }
}

impl Proxy {
    /// Forwards to the first address of `upstream` that answers within `connect_timeout`.
    pub fn new(upstream: impl Into<Place>, connect_timeout: Duration) -> Proxy {
        Proxy {
            upstream: upstream.into(),
            connect_timeout,
            sends_header: false,
            answering: 0,
            ends: Map::default(),
            lookup: Lookup::default(),
            waiting: Map::default(),
            stopping: None,
            chunks: 0,
            warned_at: None,
        }
    }

    /// Writes a [header](crate::proxy_header) of the PROXY protocol, version 2, in front of each
    /// client's first byte, so that the upstream server learns the client's address.
    #[must_use]
    pub fn send_proxy(mut self, sends: bool) -> Proxy {
        self.sends_header = sends;
        self
    }

    /// Looks the name up again when all its addresses have failed, on a thread that is started now.
    /// Call this after [`bind`](crate::Builder::bind). `own` has the addresses at which the server
    /// listens: a connection to one of them would be a loop.
    pub fn look_up_again(&self, own: &[Address], handle: Handle<Proxy>) {
        if !self.upstream.is_name() {
            return;
        }
        let (begin, begun) = mpsc::sync_channel(1);
        let (place, own) = (self.upstream.clone(), own.to_vec());
        let lookups = move || {
            for () in begun {
                while look_up(&place, &own, &handle) == Err(CallError::Full) {
                    thread::sleep(AGAIN);
                }
            }
        };
        match thread::Builder::new().name("lookup".into()).spawn(lookups) {
            Ok(_) => self.look_up_by(move |_| {
                begin.try_send(()).map_err(|_| io::ErrorKind::WouldBlock.into()) // one at a time
            }),
            Err(error) => log::warn!("{} is not looked up again: {error}", self.upstream),
        }
    }

    /// The same with a resolver of your own: `begin` starts a lookup without waiting for it, and
    /// passes the result to [`looked_up`](Proxy::looked_up), through a [`Handle`].
    pub fn look_up_by(&self, begin: impl Fn(&Place) -> io::Result<()> + Send + Sync + 'static) {
        if self.upstream.is_name() {
            let _ = self.lookup.begin.set(Box::new(begin)); // the first one stays
        }
    }

    /// A lookup has ended; without an address if all of them lead back to this proxy. If it found
    /// an address that has not just failed, the waiting clients are forwarded.
    pub fn looked_up(&mut self, net: &mut Net, found: Result<Vec<Address>, AddressError>) {
        (self.lookup.runs, self.lookup.ended_at) = (false, Some(net.now()));
        let has_news = match found {
            Err(error) => {
                self.complain(net.now(), error);
                false
            }
            Ok(found) if found.is_empty() => {
                let why = shown(format_args!("{} leads back to this proxy", self.upstream));
                self.complain(net.now(), why);
                false
            }
            Ok(found) => {
                let has_news = found.iter().any(|it| !self.upstream.addresses().contains(it));
                if has_news {
                    log::info!("{} is {}", self.upstream, List(&found));
                    let upstream = replace(&mut self.upstream, Place::from(Vec::new()));
                    (self.upstream, self.answering) = (upstream.with(found), 0);
                }
                has_news
            }
        };
        for (client, error) in take(&mut self.waiting) {
            let Some(mut conn) = net.conn(client) else { continue };
            conn.set_timer_for(LOOKUP, None);
            let look = self.look_after(conn.net());
            conn.set_timer(look);
            if has_news { self.begin(net, client) } else { self.give_up(net, client, &error) }
        }
    }

    /// Begins a connection for `client`, to the address that answered last.
    fn begin(&mut self, net: &mut Net, client: ConnId) {
        match self.upstream.addresses().len() {
            0 => {
                let error = Error::new(Call::Connect, &self.upstream, Errno::EDESTADDRREQ);
                self.nobody(net, client, error);
            }
            count => self.dial(net, client, self.answering % count, count - 1),
        }
    }

    /// Begins a connection for `client` to this address, with `others` to try after it.
    fn dial(&mut self, net: &mut Net, client: ConnId, address: usize, others: usize) {
        let Some(upstream) = self.upstream.addresses().get(address) else {
            return self.begin(net, client); // the name's addresses have changed
        };
        if self.ends.try_reserve(2).is_err() {
            return out_of_memory(net, client);
        }
        match net.connect(upstream, self.connect_timeout) {
            Ok(id) => {
                // There are two ends for each client, so they are short.
                let role = Role::Dialing { address: address as u32, others: others as u32 };
                self.ends.insert(id, End::new(client, role));
                self.ends.insert(client, End::new(id, Role::Client));
                if self.sends_header {
                    let header = net.conn(client).and_then(header);
                    let is_sent = header.is_some_and(|header| net.send(id, &header));
                    if !is_sent {
                        out_of_memory(net, id);
                    }
                }
            }
            Err(error) => self.give_up(net, client, &error),
        }
    }

    /// The index after this one: after the last address comes the first.
    fn after(&self, address: usize) -> usize {
        (address + 1) % self.upstream.addresses().len().max(1)
    }

    /// All addresses have failed, the last one for this reason: looks the name up again.
    #[cold]
    fn nobody(&mut self, net: &mut Net, client: ConnId, error: Error) {
        if !self.lookup.ask(&self.upstream, net.now()) {
            return self.give_up(net, client, &error);
        }
        self.ends.remove(&client);
        let Some(mut conn) = net.conn(client) else { return };
        match put(&mut self.waiting, client, error) {
            Some(()) => conn.set_timer_for(LOOKUP, Some(self.connect_timeout)),
            None => conn.out_of_memory(),
        }
    }

    /// No upstream address answers, for this reason.
    #[cold]
    fn give_up(&mut self, net: &mut Net, client: ConnId, error: &Error) {
        self.reset(net, client);
        match error.sandbox() {
            Some(why) => self.complain(net.now(), format_args!("{error}; {why}")),
            None => self.complain(net.now(), error),
        }
    }

    fn reset(&mut self, net: &mut Net, client: ConnId) {
        self.ends.remove(&client);
        if let Some(mut conn) = net.conn(client) {
            conn.abort();
        }
    }

    fn complain(&mut self, now: Duration, why: impl fmt::Display) {
        if self.warned_at.is_none_or(|at| now - at >= NEWS) {
            self.warned_at = Some(now);
            log::warn!("{why}; clients are reset until a server answers");
        } else {
            log::debug!("{why}");
        }
    }

    /// The upstream connection of a client is established.
    fn connected(&mut self, conn: &mut Conn<'_>) {
        let Some(end) = self.ends.get_mut(&conn.id()) else { return };
        if let Role::Dialing { address, .. } = end.role {
            self.answering = address as usize;
        }
        end.role = Role::Upstream;
        if let Some(mut client) = conn.net().conn(end.other) {
            client.duplex(true);
            client.resume();
        }
    }

    /// While the server stops: when to check a tunnel again.
    fn look_after(&self, net: &Net) -> Option<Duration> {
        self.stopping?;
        Some(net.limits().drain_timeout.map_or(QUIET, |most| QUIET.min(most / 4)))
    }

    /// How far the conversation of a client has come.
    fn talk(&mut self, net: &mut Net, client: ConnId) -> Talk {
        let chunks = self.chunks;
        let Some(end) = self.ends.get_mut(&client) else { return Talk::AtRest };
        let looked = replace(&mut end.looked, chunks);
        let (asked, id) = (end.spoke, end.other);
        let Some(&End { role, spoke: answered, .. }) = self.ends.get(&id) else {
            return Talk::AtRest;
        };
        let is_sending =
            [client, id].iter().any(|id| net.conn(*id).is_some_and(|c| c.queued() > 0));
        match () {
            () if is_sending || asked.max(answered) > looked => Talk::GoesOn,
            () if matches!(role, Role::Dialing { .. }) => Talk::GoesOn,
            () if asked <= answered => Talk::AtRest,
            () if answered > 0 => Talk::AwaitsAnswer,
            () => Talk::OneSided,
        }
    }

    /// Whether half of the drain timeout has passed.
    fn is_half_over(&self, net: &Net) -> bool {
        let since = self.stopping.map(|since| net.now().saturating_sub(since));
        since.zip(net.limits().drain_timeout).is_some_and(|(since, most)| since >= most / 2)
    }
}

/// Looks a name up, and hands the result to the proxy. `Full` if the memory for that is lacking.
fn look_up(place: &Place, own: &[Address], handle: &Handle<Proxy>) -> Result<(), CallError> {
    if !Layout::array::<u8>(RESULT).is_ok_and(has_room_for) {
        return Err(CallError::Full);
    }
    let found = place.look_up().map(|found| {
        let leads_elsewhere = |to: &&Address| !own.iter().any(|own| leads_to(to, own));
        found.addresses().iter().filter(leads_elsewhere).cloned().collect()
    });
    handle.call(move |proxy: &mut Proxy, net| proxy.looked_up(net, found))
}

/// Addresses, with commas between them.
struct List<'a>(&'a [Address]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, address)| {
            write!(f, "{}{address}", if index == 0 { "" } else { ", " })
        })
    }
}

/// The header that names the client to the server behind: its address, and the one it connected to,
/// which is that of the listener unless a front knows better. `None` if there is no memory for it.
fn header(client: Conn<'_>) -> Option<Vec<u8>> {
    let tcp = |address: &Address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    };
    let from = match client.peer() {
        Peer::Tcp(from) => Some(from),
        Peer::Unix => None,
    };
    let named = client.front().and_then(|front| front.destination);
    let has_room = Layout::array::<u8>(LONGEST_WRITTEN).is_ok_and(has_room_for);
    has_room.then(|| proxy_header::write(from, named.or_else(|| tcp(client.local()?))))
}

/// There is no memory for what a connection needs here: it ends.
fn out_of_memory(net: &mut Net, id: ConnId) {
    if let Some(mut conn) = net.conn(id) {
        conn.out_of_memory();
    }
}

impl ConnectionHandler for Proxy {
    type Session = ();

    fn needs_outbound(&self) -> bool {
        true
    }

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        conn.hold(true);
        let id = conn.id();
        if self.ends.contains_key(&id) {
            conn.duplex(true);
            return self.connected(conn);
        }
        let addresses = self.upstream.addresses();
        let leads_back = conn.is_own()
            || conn.local().is_some_and(|own| addresses.contains(own))
            || addresses.iter().any(|address| conn.net().leads_here(address));
        if leads_back {
            self.reset(conn.net(), id);
            return self.complain(conn.net().now(), "the proxy leads to itself"); // forever
        }
        conn.pause(); // until the upstream connection can take its bytes
        let look = self.look_after(conn.net());
        conn.set_timer(look);
        self.begin(conn.net(), id);
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let Some(end) = self.ends.get_mut(&conn.id()) else { return input.len() };
        self.chunks += 1;
        end.spoke = self.chunks;
        let is_taken = conn.net().send(end.other, input); // or else it has been reset
        if is_taken && conn.net().conn(end.other).is_some_and(|other| other.is_full()) {
            conn.pause();
        }
        input.len()
    }

    /// The waiting output has been sent: the other end is read again.
    fn on_drain(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        let Some(end) = self.ends.get(&conn.id()) else { return };
        if let Some(mut other) = conn.net().conn(end.other) {
            other.resume();
        }
    }

    /// When both directions have ended so, the connections close by themselves.
    fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut (), _: &[u8]) {
        let Some(end) = self.ends.get_mut(&conn.id()) else { return };
        end.ended = true;
        if let Some(mut other) = conn.net().conn(end.other) {
            other.finish();
        }
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, _: (), why: CloseReason) {
        use CloseReason::{Idle, MessageTooSlow, Network, PeerClosed, Server, Shutdown};
        self.waiting.remove(&id);
        let Some(end) = self.ends.remove(&id) else { return };
        if let (
            Role::Dialing { address, others },
            Network { call, errno } | Server { call, errno },
        ) = (end.role, why)
        {
            let (address, others) = (address as usize, others as usize);
            // Not the upstream server's doing; but a family of addresses may be off here.
            let is_ours = matches!(why, Server { .. }) && errno != Errno::EAFNOSUPPORT;
            if others > 0 && !is_ours {
                return self.dial(net, end.other, self.after(address), others - 1);
            }
            let object = self.upstream.addresses().get(address).map(|it| self.upstream.call(it));
            let object = object.unwrap_or_else(|| shown(&self.upstream));
            let error = Error { call, object, errno };
            return match is_ours {
                true => self.give_up(net, end.other, &error),
                false => self.nobody(net, end.other, error),
            };
        }
        self.ends.remove(&end.other);
        let Some(mut other) = net.conn(end.other) else { return };
        match why {
            PeerClosed | Idle | MessageTooSlow | Shutdown => other.close(),
            _ if end.ended => other.close(),
            _ => other.abort_behind(),
        }
    }

    /// Tunnels go on until they end by themselves, or nothing is due in them.
    fn on_shutdown(&mut self, net: &mut Net) {
        self.stopping = Some(net.now());
        let look = self.look_after(net);
        for (&id, end) in &mut self.ends {
            end.looked = self.chunks;
            if end.role == Role::Client
                && let Some(mut client) = net.conn(id)
            {
                client.set_timer(look);
            }
        }
    }

    /// Checks a tunnel while the server stops. If nothing is due, the client is treated as
    /// finished: the upstream server gets EOF, sends what it still has, and ends the tunnel.
    fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        let id = conn.id();
        let Some(&End { other, .. }) = self.ends.get(&id) else { return };
        let is_over = match self.talk(conn.net(), id) {
            Talk::AtRest => true,
            Talk::OneSided => self.is_half_over(conn.net()),
            Talk::GoesOn | Talk::AwaitsAnswer => false,
        };
        if !is_over {
            let look = self.look_after(conn.net());
            conn.set_timer(look);
        } else if let Some(mut upstream) = conn.net().conn(other) {
            upstream.finish();
        }
    }

    /// The resolver has not answered in time.
    fn on_timer_for(&mut self, conn: &mut Conn<'_>, _: &mut (), _: u32) {
        let id = conn.id();
        if let Some(error) = self.waiting.remove(&id) {
            self.give_up(conn.net(), id, &error);
        }
    }
}
