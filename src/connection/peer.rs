//! The address of a peer, packed.

use super::Connection;
use crate::kernel::Peer;
use crate::time::Moment;
use std::net::{SocketAddr, SocketAddrV6};

/// A [`Peer`] in 24 bytes instead of 32. The flow label of IPv6 is left out, which
/// Linux reports only on request.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedPeer {
    ip: [u8; 16],
    scope: u32,
    port: u16,
    family: Family,
    /// In the byte that is left over.
    pub(super) listener: u8,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    Unix,
    V4,
    V6,
}

impl Connection {
    /// A front's header of `length` bytes is whole, and this is the client that it names.
    pub(crate) fn introduced(&mut self, client: Peer, length: usize, now: Moment) {
        self.peer = PackedPeer::of(client, self.peer.listener);
        self.state.introduced(length);
        self.received += self.rest() as u64; // the header is not the client's
        self.touch(now);
    }
}

impl PackedPeer {
    pub(super) fn of(peer: Peer, listener: u8) -> PackedPeer {
        let packed = |ip, port, scope, family| PackedPeer { ip, port, scope, family, listener };
        match peer {
            Peer::Unix => packed([0; 16], 0, 0, Family::Unix),
            Peer::Tcp(SocketAddr::V4(peer)) => {
                packed(peer.ip().to_ipv6_mapped().octets(), peer.port(), 0, Family::V4)
            }
            Peer::Tcp(SocketAddr::V6(peer)) => {
                packed(peer.ip().octets(), peer.port(), peer.scope_id(), Family::V6)
            }
        }
    }

    pub(super) fn unpack(self) -> Peer {
        let PackedPeer { ip, port, scope, family, .. } = self;
        let [.., a, b, c, d] = ip;
        match family {
            Family::Unix => Peer::Unix,
            Family::V4 => Peer::Tcp(SocketAddr::from(([a, b, c, d], port))),
            Family::V6 => Peer::Tcp(SocketAddrV6::new(ip.into(), port, 0, scope).into()),
        }
    }
}
