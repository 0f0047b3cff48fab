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

/// Addresses that count as one: a V4 address, also where a translator writes it as a V6 one;
/// or a V6 network of 64 bits, of which one client has as many addresses as it likes. On a
/// link all have the same network, and so each address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Network {
    V4(u32),
    V6(u64),
    Link(u128),
}

/// What stands in front of a V4 address that NAT64 translates, in 96 bits. RFC 6052, 2.1
const NAT64: u128 = 0x0064_ff9b << 64;

impl Network {
    /// `None` of a Unix socket, which has no address.
    pub(crate) fn of(peer: Peer) -> Option<Network> {
        let Peer::Tcp(address) = peer else { return None };
        Some(match address.ip().to_canonical() {
            IpAddr::V4(ip) => Network::V4(ip.to_bits()),
            IpAddr::V6(ip) if ip.to_bits() >> 32 == NAT64 => Network::V4(ip.to_bits() as u32),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Network::Link(ip.to_bits()),
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

    /// Behind a NAT64 all had one address; on a link, too.
    #[test]
    fn translated_and_link_local_addresses_count_one_by_one() {
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        let mut crowd = Crowd::default();
        assert!(crowd.enter(peer("[64:ff9b::192.0.2.1]:1"), 1));
        assert!(crowd.enter(peer("[64:ff9b::192.0.2.2]:1"), 1));
        assert!(!crowd.enter(peer("192.0.2.1:2"), 1), "it is the same, untranslated");
        assert!(crowd.enter(peer("[64:ff9b:0:1::192.0.2.1]:1"), 1), "another network");
        assert!(crowd.enter(peer("[fe80::1%2]:1"), 1) && crowd.enter(peer("[fe80::2%2]:1"), 1));
        assert!(!crowd.enter(peer("[fe80::1%2]:2"), 1));
        crowd.leave(peer("192.0.2.1:9"));
        assert!(crowd.enter(peer("[64:ff9b::192.0.2.1]:3"), 1));
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
