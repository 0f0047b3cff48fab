//! How many connections each address has, where that is limited; and which have too many.
//!
//! Invariant: an address is in the map exactly while it has connections.

use crate::close_reason::CloseReason;
use crate::fallible;
use crate::kernel::Peer;
use std::collections::HashMap;
use std::net::IpAddr;

/// The addresses that have connections. Clients may choose them, so the hash has a secret.
#[derive(Debug, Default)]
pub(crate) struct Crowd(HashMap<Network, u32>);

/// Addresses that count as one: a V4 address, also where a translator writes it as a V6 one;
/// or a V6 network of 64 bits, of which one client has as many addresses as it likes. On a
/// link all have the same network, and so each address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Counts `peer` in, unless its address has `max` connections already, or there is no memory.
    pub(crate) fn enter(&mut self, peer: Peer, max: u32) -> Result<(), CloseReason> {
        let Some(network) = Network::of(peer) else { return Ok(()) };
        match self.0.get_mut(&network) {
            Some(count) if *count >= max => return Err(CloseReason::AddressLimit),
            Some(count) => *count += 1,
            None => fallible::put(&mut self.0, network, 1).ok_or(CloseReason::MemoryBudget)?,
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn leave(&mut self, peer: Peer) {
        if !self.0.is_empty() {
            self.count_out(peer);
        }
    }

    fn count_out(&mut self, peer: Peer) {
        let Some(network) = Network::of(peer) else { return };
        if let Some(count) = self.0.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&network);
            }
        }
    }
}

/// The addresses that have more than a quarter of all places each, and how many more.
///
/// No more than three can. So three counters find them in one pass: an address that has none
/// takes one from each (Misra and Gries, 1982). A second pass counts what they have.
#[derive(Debug, Default)]
pub(crate) struct Crowded([Option<(Network, usize)>; 3]);

impl Crowded {
    pub(crate) fn find(peers: impl Iterator<Item = Peer> + Clone, places: usize) -> Crowded {
        let mut crowded = Crowded::default();
        for network in peers.clone().filter_map(Network::of) {
            if let Some(count) = crowded.count_of(network) {
                *count += 1;
            } else if let Some(free) = crowded.0.iter_mut().find(|it| it.is_none()) {
                *free = Some((network, 1));
            } else {
                for counter in &mut crowded.0 {
                    *counter = counter.filter(|(_, n)| *n > 1).map(|(it, n)| (it, n - 1));
                }
            }
        }
        crowded.0.iter_mut().flatten().for_each(|(_, count)| *count = 0);
        for network in peers.filter_map(Network::of) {
            crowded.count_of(network).into_iter().for_each(|count| *count += 1);
        }
        let kept = (places / 4).max(1); // one is no crowd
        for (_, count) in crowded.0.iter_mut().flatten() {
            *count = count.saturating_sub(kept);
        }
        crowded
    }

    fn count_of(&mut self, network: Network) -> Option<&mut usize> {
        self.0.iter_mut().flatten().find(|(it, _)| *it == network).map(|(_, count)| count)
    }

    /// Whether the address of `peer` has too many.
    pub(crate) fn has(&mut self, peer: Peer) -> bool {
        self.excess(peer).is_some()
    }

    /// Takes one place from the address of `peer`, if it has too many.
    pub(crate) fn take(&mut self, peer: Peer) -> bool {
        self.excess(peer).map(|count| *count -= 1).is_some()
    }

    fn excess(&mut self, peer: Peer) -> Option<&mut usize> {
        self.count_of(Network::of(peer)?).filter(|count| **count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v6_network_of_64_bits_is_one_address() {
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        let mut crowd = Crowd::default();
        assert!(crowd.enter(peer("[2001:db8::1]:1"), 1).is_ok());
        assert!(crowd.enter(peer("[2001:db8::ffff:2]:2"), 1).is_err());
        assert!(crowd.enter(peer("[2001:db8:0:1::1]:3"), 1).is_ok());
        assert!(crowd.enter(peer("192.0.2.1:4"), 1).is_ok());
        assert!(crowd.enter(peer("[::ffff:192.0.2.1]:5"), 1).is_err());
        assert!((0..2).all(|_| crowd.enter(Peer::Unix, 1).is_ok()));
        crowd.leave(peer("[2001:db8::1]:1"));
        assert!(crowd.enter(peer("[2001:db8::7]:6"), 1).is_ok());
    }

    /// Behind a NAT64 all had one address; on a link, too.
    #[test]
    fn translated_and_link_local_addresses_count_one_by_one() {
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        let mut crowd = Crowd::default();
        assert!(crowd.enter(peer("[64:ff9b::192.0.2.1]:1"), 1).is_ok());
        assert!(crowd.enter(peer("[64:ff9b::192.0.2.2]:1"), 1).is_ok());
        assert!(crowd.enter(peer("192.0.2.1:2"), 1).is_err(), "it is the same, untranslated");
        assert!(crowd.enter(peer("[64:ff9b:0:1::192.0.2.1]:1"), 1).is_ok(), "another network");
        assert!(crowd.enter(peer("[fe80::1%2]:1"), 1).is_ok());
        assert!(crowd.enter(peer("[fe80::2%2]:1"), 1).is_ok());
        assert!(crowd.enter(peer("[fe80::1%2]:2"), 1).is_err());
        crowd.leave(peer("192.0.2.1:9"));
        assert!(crowd.enter(peer("[64:ff9b::192.0.2.1]:3"), 1).is_ok());
    }

    /// Whatever the order, and whatever else there is.
    #[test]
    fn those_with_more_than_a_quarter_are_found() {
        let mut random = 7u64;
        for round in 0..2_000u64 {
            let mut next = |below: u64| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(round);
                (random >> 33) % below
            };
            let places = 1 + next(40) as usize;
            let hosts = 1 + next(8);
            let peer = |host: u64| Peer::Tcp(([192, 0, 2, host as u8], 1).into());
            let peers: Vec<Peer> =
                (0..places).map(|_| peer(next(hosts).min(next(hosts)))).collect();
            let mut crowded = Crowded::find(peers.iter().copied(), places);
            for host in 0..hosts {
                let count = peers.iter().filter(|it| **it == peer(host)).count();
                let taken = (0..places + 1).filter(|_| crowded.take(peer(host))).count();
                assert_eq!(taken, count.saturating_sub((places / 4).max(1)), "{peers:?}");
            }
            assert!(!crowded.take(Peer::Unix));
        }
    }

    #[test]
    fn who_leaves_makes_room_for_one() {
        let peer = |port| Peer::Tcp(([192, 0, 2, 1], port).into());
        let mut crowd = Crowd::default();
        assert!(crowd.enter(peer(1), 2).is_ok() && crowd.enter(peer(2), 2).is_ok());
        crowd.leave(peer(1));
        assert!(crowd.enter(peer(3), 2).is_ok() && crowd.enter(peer(4), 2).is_err());
        crowd.leave(peer(2));
        crowd.leave(peer(3));
        assert!(crowd.0.is_empty());
    }
}
