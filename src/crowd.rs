//! How many connections each address has, where that is limited.
//!
//! Invariant: an address is in the map exactly while it has connections.

use crate::kernel::Peer;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The addresses that have connections. A sorted map, not a hash, which an attacker who
/// chooses addresses could aim at.
#[derive(Debug, Default)]
pub(crate) struct Crowd(BTreeMap<Network, u32>);

/// Addresses that count as one: a V4 address, or a V6 network of 64 bits, of
/// which one client has as many addresses as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    fn of(peer: Peer) -> Option<Network> {
        let Peer::Tcp(address) = peer else { return None };
        Some(match address.ip().to_canonical() {
            IpAddr::V4(ip) => Network::V4(ip.to_bits()),
            IpAddr::V6(ip) => Network::V6((ip.to_bits() >> 64) as u64),
        })
    }
}

impl Crowd {
    /// Counts `peer` in, unless its address has `max` connections already.
    pub(crate) fn enter(&mut self, peer: Peer, max: u32) -> bool {
        let Some(network) = Network::of(peer) else { return true };
        let count = self.0.entry(network).or_insert(0);
        let enters = *count < max;
        *count += u32::from(enters);
        enters
    }

    pub(crate) fn leave(&mut self, peer: Peer) {
        if self.0.is_empty() {
            return;
        }
        let Some(network) = Network::of(peer) else { return };
        if let Some(count) = self.0.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v6_network_of_64_bits_is_one_address() {
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        let mut crowd = Crowd::default();
        assert!(crowd.enter(peer("[2001:db8::1]:1"), 1));
        assert!(!crowd.enter(peer("[2001:db8::ffff:2]:2"), 1));
        assert!(crowd.enter(peer("[2001:db8:0:1::1]:3"), 1));
        assert!(crowd.enter(peer("192.0.2.1:4"), 1));
        assert!(!crowd.enter(peer("[::ffff:192.0.2.1]:5"), 1));
        assert!(crowd.enter(Peer::Unix, 1) && crowd.enter(Peer::Unix, 1));
        crowd.leave(peer("[2001:db8::1]:1"));
        assert!(crowd.enter(peer("[2001:db8::7]:6"), 1));
    }

    #[test]
    fn who_leaves_makes_room_for_one() {
        let peer = |port| Peer::Tcp(([192, 0, 2, 1], port).into());
        let mut crowd = Crowd::default();
        assert!(crowd.enter(peer(1), 2) && crowd.enter(peer(2), 2));
        crowd.leave(peer(1));
        assert!(crowd.enter(peer(3), 2) && !crowd.enter(peer(4), 2));
        crowd.leave(peer(2));
        crowd.leave(peer(3));
        assert!(crowd.0.is_empty());
    }
}
