//! Hands each client on to another server.
//!
//! A client and the connection that is begun for it make a tunnel. What happens at one
//! end of it happens at the other:
//!
//! | at one end | at the other |
//! |---|---|
//! | bytes | the same bytes; while too many wait there, nothing is read here |
//! | FIN | FIN, behind the last byte; the other direction goes on |
//! | a reset, a time or a size out of bounds | a reset; behind a FIN, what is owed and a close |
//! | long silence | FIN |
//! | nobody to connect to | a reset: it cannot be taken for an empty answer |
//!
//! A session belongs to one connection, and here each needs to know of the other: so the
//! ends are in one map of the handler.
//!
//! Invariant: while both ends of a tunnel live, each is in `ends` and names the other.

use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::Address;
use crate::net::{Conn, ConnId, Net};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// At a stop, a tunnel through which nothing has come for so long is at its end.
const QUIET: Duration = Duration::from_secs(1);
/// The log hears no more often than this that nobody can be reached.
const NEWS: Duration = Duration::from_secs(60);

/// A TCP proxy: bytes go through as they are.
///
/// It begins a connection for each client, so the server must allow as many with
/// [`max_outbound`](crate::Limits::max_outbound).
#[derive(Debug)]
pub struct Proxy {
    upstreams: Vec<Address>,
    connect_timeout: Duration,
    /// Which of them answered last: it is asked first.
    answering: usize,
    ends: BTreeMap<ConnId, End>,
    stopping: bool,
    /// When the log was last told that nobody can be reached.
    warned_at: Option<Duration>,
}

/// One end of a tunnel.
#[derive(Clone, Copy, Debug)]
struct End {
    other: ConnId,
    role: Role,
    /// Bytes came from it since somebody looked.
    busy: bool,
    /// Its FIN has come: the other end is owed all that came before.
    ended: bool,
}

impl End {
    fn new(other: ConnId, role: Role) -> End {
        End { other, role, busy: false, ended: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    /// Begun, to this one of the addresses; so many others are left to be tried.
    Dialing {
        address: usize,
        others: usize,
    },
    Upstream,
}

impl Proxy {
    /// Hands on to the first of `upstreams` that answers within `connect_timeout` each.
    pub fn new(upstreams: Vec<Address>, connect_timeout: Duration) -> Proxy {
        Proxy {
            upstreams,
            connect_timeout,
            answering: 0,
            ends: BTreeMap::new(),
            stopping: false,
            warned_at: None,
        }
    }

    /// Begins a connection for `client`.
    fn dial(&mut self, net: &mut Net, client: ConnId, address: usize, others: usize) {
        let Some(upstream) = self.upstreams.get(address) else { return };
        match net.connect(upstream, self.connect_timeout) {
            Ok(id) => {
                let role = Role::Dialing { address, others };
                self.ends.insert(id, End::new(client, role));
                self.ends.insert(client, End::new(id, Role::Client));
            }
            Err(error) => self.give_up(net, client, &error),
        }
    }

    /// The addresses stand in a circle.
    fn after(&self, address: usize) -> usize {
        (address + 1) % self.upstreams.len().max(1)
    }

    /// Nobody answers, for this reason.
    #[cold]
    fn give_up(&mut self, net: &mut Net, client: ConnId, why: &dyn fmt::Display) {
        self.ends.remove(&client);
        if let Some(mut conn) = net.conn(client) {
            conn.abort();
        }
        let now = net.now();
        if self.warned_at.is_none_or(|at| now - at >= NEWS) {
            self.warned_at = Some(now);
            log::warn!("{why}; clients are reset until somebody answers");
        } else {
            log::debug!("{why}");
        }
    }

    /// The connection begun for a client stands.
    fn connected(&mut self, conn: &mut Conn<'_>) {
        let Some(end) = self.ends.get_mut(&conn.id()) else { return };
        if let Role::Dialing { address, .. } = end.role {
            self.answering = address;
        }
        end.role = Role::Upstream;
        if let Some(mut client) = conn.net().conn(end.other) {
            client.resume();
        }
    }

    /// Whether anything goes on between these two.
    fn is_busy(&mut self, net: &mut Net, ids: [ConnId; 2]) -> bool {
        let mut busy = false;
        for id in ids {
            let Some(end) = self.ends.get_mut(&id) else { continue };
            busy |= std::mem::take(&mut end.busy) || matches!(end.role, Role::Dialing { .. });
            busy |= net.conn(id).is_some_and(|conn| conn.queued() > 0);
        }
        busy
    }
}

impl ConnectionHandler for Proxy {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        conn.hold(true);
        conn.duplex(true);
        let id = conn.id();
        if self.ends.contains_key(&id) {
            return self.connected(conn);
        }
        if conn.is_own() || conn.local().is_some_and(|own| self.upstreams.contains(own)) {
            return self.give_up(conn.net(), id, &"the proxy leads to itself"); // for ever
        }
        conn.pause(); // until there is somebody to take its bytes
        conn.set_timer(self.stopping.then_some(QUIET));
        self.dial(conn.net(), id, self.answering, self.upstreams.len().saturating_sub(1));
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let Some(end) = self.ends.get_mut(&conn.id()) else { return input.len() };
        end.busy = true;
        if let Some(mut other) = conn.net().conn(end.other) {
            other.write(input);
            if other.is_full() {
                conn.pause();
            }
        }
        input.len()
    }

    /// What waited has gone on its way: the other end is read again.
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
        let Some(end) = self.ends.remove(&id) else { return };
        if let (
            Role::Dialing { address, others },
            Network { call, errno } | Server { call, errno },
        ) = (end.role, why)
        {
            if others > 0 {
                return self.dial(net, end.other, self.after(address), others - 1);
            }
            let object = self.upstreams.get(address).map(Address::to_string).unwrap_or_default();
            let error = Error { call, object, errno };
            return match error.sandbox() {
                Some(why) => self.give_up(net, end.other, &format_args!("{error}; {why}")),
                None => self.give_up(net, end.other, &error),
            };
        }
        self.ends.remove(&end.other);
        let Some(mut other) = net.conn(end.other) else { return };
        match why {
            PeerClosed | Idle | MessageTooSlow | Shutdown => other.close(),
            _ if end.ended => other.close(),
            _ => other.abort(),
        }
    }

    /// Tunnels go on until they end by themselves, or nothing has come through for a while.
    fn on_shutdown(&mut self, net: &mut Net) {
        self.stopping = true;
        for (&id, end) in &mut self.ends {
            end.busy = false;
            if end.role == Role::Client
                && let Some(mut client) = net.conn(id)
            {
                client.set_timer(Some(QUIET));
            }
        }
    }

    /// The server stops. A client that is quiet is taken to have finished: its server
    /// is told so, sends what it still has, and ends the tunnel.
    fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        let id = conn.id();
        let Some(&End { other, .. }) = self.ends.get(&id) else { return };
        if self.is_busy(conn.net(), [id, other]) {
            conn.set_timer(Some(QUIET));
        } else if let Some(mut upstream) = conn.net().conn(other) {
            upstream.finish();
        }
    }
}
