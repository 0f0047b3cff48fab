//! Groups: connections that are sent the same bytes.
//!
//! A group is a name. It exists while it has members, so nobody makes one or removes it, and
//! a connection that closes has left all of them.
//!
//! Invariant: a connection is among the `members` of a group exactly if the group is among
//! those that the connection has `joined`. Neither a group nor such a list is ever empty.

use super::{ConnId, Net};
use crate::close_reason::CloseReason;
use crate::fallible::{self, Map, has_room_for_shared, push};
use std::alloc::Layout;
use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;

type Name = Arc<[u8]>;

#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Clients may choose the names, so the hash has a secret. The members are sorted.
    members: HashMap<Name, Vec<ConnId>>,
    joined: Map<ConnId, Vec<Name>>,
}

/// What became of the bytes that were sent to a [group](Net::send_group).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fanout {
    /// Members that are sent the bytes.
    pub sent: usize,
    /// Members among these that are [full](crate::Conn::is_full) now, and do not keep up.
    pub full: usize,
    /// Members that are not sent them, because they are closing.
    pub gone: usize,
}

impl Groups {
    /// Adds a connection to a group; whether it was no member. `None` if there is no memory: then
    /// it is none, but may be in the list, and is to be [forgotten](Groups::forget).
    fn join(&mut self, group: &[u8], id: ConnId) -> Option<bool> {
        if !self.members.contains_key(group) {
            let name = has_room_for_shared(Layout::for_value(group)).then(|| Name::from(group))?;
            fallible::put(&mut self.members, name, Vec::new())?;
        }
        self.joined.try_reserve(1).ok()?;
        let name = self.members.get_key_value(group).map(|(name, _)| Name::clone(name))?;
        let members = self.members.get_mut(group)?;
        let Err(at) = members.binary_search(&id) else { return Some(false) };
        let joined = self.joined.entry(id).or_default();
        if joined.is_empty() {
            joined.try_reserve_exact(1).ok()?; // most are in one group
        }
        push(joined, name)?;
        members.try_reserve(1).ok()?;
        members.insert(at, id);
        Some(true)
    }

    /// Removes a connection from a group; whether it was a member.
    fn leave(&mut self, group: &[u8], id: ConnId) -> bool {
        if let Some(joined) = self.joined.get_mut(&id) {
            joined.retain(|name| **name != *group);
            if joined.is_empty() {
                self.joined.remove(&id);
            }
        }
        self.remove(group, id)
    }

    fn remove(&mut self, name: &[u8], id: ConnId) -> bool {
        let Some(members) = self.members.get_mut(name) else { return false };
        let place = members.binary_search(&id);
        if let Ok(at) = place {
            members.remove(at);
        }
        if members.is_empty() {
            self.members.remove(name);
        }
        place.is_ok()
    }

    /// Whether no connection is in any.
    #[inline]
    pub(super) fn are_empty(&self) -> bool {
        self.joined.is_empty()
    }

    /// Removes a connection that is gone from all groups.
    pub(super) fn forget(&mut self, id: ConnId) {
        let joined = self.joined.remove(&id).unwrap_or_default();
        joined.iter().for_each(|name| _ = self.remove(name, id));
    }
}

impl Net {
    /// Makes a connection a member of a group; `false` if it is one already, or is gone, or ends
    /// because there is no memory for it. It leaves the group with [`leave`](Net::leave), or by
    /// itself when it closes.
    ///
    /// A group is a name, and exists as long as it has members: a room, a topic, a channel. A
    /// handler that lets its clients choose names should bound how long and how many they are.
    /// A member that only listens is idle: [`Conn::set_timeouts`](super::Conn::set_timeouts) gives
    /// it time.
    ///
    /// ```
    /// # use threadbare::{Conn, ConnectionHandler};
    /// /// Passes all bytes to all others.
    /// struct Room;
    ///
    /// impl ConnectionHandler for Room {
    ///     type Session = ();
    ///     fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
    ///         let id = conn.id();
    ///         conn.net().join("room", id);
    ///     }
    ///     fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
    ///         let id = conn.id();
    ///         let fanout = conn.net().send_group("room", input, Some(id));
    ///         if fanout.full > 0 {
    ///             conn.write(b"slower, please\n");
    ///         }
    ///         input.len()
    ///     }
    /// }
    /// ```
    pub fn join(&mut self, group: impl AsRef<[u8]>, id: ConnId) -> bool {
        if self.table.find(id.0).is_none() {
            return false;
        }
        let group = group.as_ref();
        self.groups.join(group, id).unwrap_or_else(|| {
            self.groups.leave(group, id);
            self.abort(id.0.slot, CloseReason::MemoryBudget);
            false
        })
    }

    /// Ends what [`join`](Net::join) began; `false` if the connection is no member.
    pub fn leave(&mut self, group: impl AsRef<[u8]>, id: ConnId) -> bool {
        self.groups.leave(group.as_ref(), id)
    }

    /// The members of a group: a copy, so each can be sent to meanwhile.
    pub fn members(&self, group: impl AsRef<[u8]>) -> Vec<ConnId> {
        let members = self.groups.members.get(group.as_ref());
        members.into_iter().flatten().copied().collect()
    }

    /// Sends `bytes` to all members of a group but one, and counts them. They are kept in
    /// memory once for all, and each member is sent what there is for it in one call.
    ///
    /// A member that does not keep up is sent them all the same, until it is cut at
    /// [`max_output`](crate::Limits::max_output).
    ///
    /// ```
    /// # use threadbare::{Conn, ConnId};
    /// fn command(conn: &mut Conn<'_>, words: &[&str]) {
    ///     let id = conn.id();
    ///     match words {
    ///         ["JOIN", topic] => _ = conn.net().join(topic, id),
    ///         ["LEAVE", topic] => _ = conn.net().leave(topic, id),
    ///         ["SAY", topic, text] => {
    ///             let fanout = conn.net().send_group(topic, text.as_bytes(), Some(id));
    ///             writeln!(conn, "to {}, of which {} do not keep up", fanout.sent, fanout.full);
    ///         }
    ///         _ => conn.write(b"JOIN, LEAVE or SAY\n"),
    ///     }
    /// }
    /// ```
    pub fn send_group(
        &mut self,
        group: impl AsRef<[u8]>,
        bytes: &[u8],
        except: Option<ConnId>,
    ) -> Fanout {
        let (group, mut fanout) = (group.as_ref(), Fanout::default());
        let Some(members) = self.groups.members.get_mut(group) else { return fanout };
        let members = take(members);
        for &id in members.iter().filter(|&&id| Some(id) != except) {
            if self.send(id, bytes) {
                fanout.sent += 1;
                fanout.full += usize::from(self.table.is_full(id.0.slot));
            } else {
                fanout.gone += 1;
            }
        }
        if let Some(place) = self.groups.members.get_mut(group) {
            *place = members; // to send is to mark, so nobody has joined or left meanwhile
        }
        fanout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Id;
    use std::collections::BTreeSet;

    /// Random comings and goings are those of a set of pairs, and nothing is left at the end.
    #[test]
    fn behaves_as_a_set_of_pairs() {
        let mut groups = Groups::default();
        let mut model = BTreeSet::new();
        let mut random = 1u64;
        for step in 0..20_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(step);
            let id = ConnId(Id { generation: 1, slot: (random >> 40) as u32 % 20 });
            let group = [(random >> 50) as u8 % 10];
            match (random >> 33) % 8 {
                0..=3 => assert_eq!(groups.join(&group, id), Some(model.insert((group, id)))),
                4..=6 => assert_eq!(groups.leave(&group, id), model.remove(&(group, id))),
                _ => {
                    groups.forget(id);
                    model.retain(|(_, other)| *other != id);
                }
            }
            let members = groups.members.iter();
            let pairs = members.flat_map(|(name, ids)| ids.iter().map(|&id| ([name[0]], id)));
            assert_eq!(pairs.collect::<BTreeSet<_>>(), model);
            assert!(groups.members.values().all(|members| members.is_sorted()));
            assert!(groups.members.values().all(|members| !members.is_empty()));
            let joined: usize = groups.joined.values().map(Vec::len).sum();
            assert_eq!(joined, model.len());
        }
        (0..20).for_each(|slot| groups.forget(ConnId(Id { generation: 1, slot })));
        assert!(groups.members.is_empty() && groups.joined.is_empty());
    }
}
