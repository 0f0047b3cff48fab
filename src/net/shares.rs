//! What the connections of each address hold of the memory together.
//!
//! A list in the order of the addresses, not a hash, which clients that choose their addresses
//! could aim at; and its memory is there from the start, so that counting cannot fail.
//!
//! Invariant: an address is in the list exactly while its connections hold something.

use crate::crowd::Network;
use crate::kernel::Peer;
use std::collections::TryReserveError;

/// An address; all Unix sockets are one.
type Holder = Option<Network>;

#[derive(Debug)]
pub(super) struct Shares(Vec<(Holder, usize)>);

impl Shares {
    /// Room for `slots` connections, each with an address of its own.
    pub(super) fn with_capacity(slots: u32) -> Result<Shares, TryReserveError> {
        let mut shares = Vec::new();
        shares.try_reserve_exact(slots as usize)?;
        Ok(Shares(shares))
    }

    fn place(&self, holder: Holder) -> Result<usize, usize> {
        self.0.binary_search_by_key(&holder, |(holder, _)| *holder)
    }

    /// A connection of `peer` held `before` bytes and holds `after`.
    pub(super) fn changed(&mut self, peer: Peer, before: usize, after: usize) {
        let holder = Network::of(peer);
        match self.place(holder) {
            Ok(at) => {
                let Some((_, held)) = self.0.get_mut(at) else { return };
                *held = *held + after - before;
                if *held == 0 {
                    self.0.remove(at);
                }
            }
            Err(at) if after > 0 => self.0.insert(at, (holder, after)),
            Err(_) => {}
        }
    }

    /// What the address of `peer` holds.
    pub(super) fn of(&self, peer: Peer) -> usize {
        let place = self.place(Network::of(peer)).ok();
        place.and_then(|at| self.0.get(at)).map_or(0, |(_, held)| *held)
    }

    /// The address that holds most, and how much.
    pub(super) fn largest(&self) -> Option<(Holder, usize)> {
        self.0.iter().copied().max_by_key(|(_, held)| *held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_while_it_holds_something() {
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        let (one, same) = (peer("[2001:db8::1]:1"), peer("[2001:db8::ffff:2]:2"));
        let other = peer("192.0.2.1:1");
        let mut shares = Shares::with_capacity(3).unwrap();
        shares.changed(one, 0, 0); // a front hands over what it does not hold
        assert_eq!(shares.largest(), None);
        for (peer, before, after) in [(one, 0, 5), (other, 0, 6), (same, 0, 2), (Peer::Unix, 0, 1)]
        {
            shares.changed(peer, before, after);
        }
        assert_eq!([one, same, other, Peer::Unix].map(|peer| shares.of(peer)), [7, 7, 6, 1]);
        assert_eq!(shares.largest(), Some((Network::of(same), 7)));
        shares.changed(one, 5, 0);
        shares.changed(other, 6, 1);
        shares.changed(Peer::Unix, 1, 0);
        assert_eq!([one, other, Peer::Unix].map(|peer| shares.of(peer)), [2, 1, 0]);
        shares.changed(same, 2, 0);
        shares.changed(other, 1, 0);
        assert_eq!((shares.largest(), shares.0.len()), (None, 0));
    }
}
