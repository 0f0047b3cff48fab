//! A table whose keys are never reused.
//!
//! An entry lives in a slot, a small index that is used again after it. Beside
//! the slot there is a generation, raised whenever the slot is emptied, and an
//! [`Id`] names both. An id of an entry that is gone therefore finds nothing,
//! even if another entry is in that slot by now. That holds for a stale event of
//! epoll and for an id that a handler kept.
//!
//! Invariants:
//! 1. A generation is never 0; ids with generation 0 belong to the core descriptors.
//! 2. A slot is in `free` exactly when it is empty.

use std::collections::TryReserveError;

/// A slot and its generation: what epoll carries as `data`, and a `ConnId` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) generation: u32,
    pub(crate) slot: u32,
}

impl Id {
    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub(crate) fn from_u64(data: u64) -> Id {
        Id { generation: (data >> 32) as u32, slot: data as u32 }
    }
}

#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Option<T>>,
    /// The generation of each slot. Kept apart from the entries, they cost no padding.
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// A table for up to `capacity` entries, whose memory is reserved but not touched.
    pub(crate) fn with_capacity(capacity: u32) -> Result<Slots<T>, TryReserveError> {
        let (entries, generations, free) = (Vec::new(), Vec::new(), Vec::new());
        let mut slots = Slots { entries, generations, free };
        slots.entries.try_reserve_exact(capacity as usize)?;
        slots.generations.try_reserve_exact(capacity as usize)?;
        slots.free.try_reserve_exact(capacity as usize)?;
        Ok(slots)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last slot emptied is filled first: its memory is still in the cache.
    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> Id {
        if let Some(slot) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(slot as usize)
        {
            *entry = Some(value);
            return self.id(slot);
        }
        self.entries.push(Some(value));
        self.generations.push(1);
        Id { generation: 1, slot: self.entries.len() as u32 - 1 }
    }

    /// Empties `slot`: no id that was given for its entry finds anything from now on.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) {
        let entry = self.entries.get_mut(slot as usize).filter(|entry| entry.is_some());
        let Some((entry, generation)) = entry.zip(self.generations.get_mut(slot as usize)) else {
            return;
        };
        *entry = None;
        *generation = generation.checked_add(1).unwrap_or(1);
        self.free.push(slot);
    }

    /// The entry that `id` was given for, if it is still there.
    #[inline]
    pub(crate) fn find(&mut self, id: Id) -> Option<&mut T> {
        let generation = self.generations.get(id.slot as usize)?;
        if *generation == id.generation { self.get_mut(id.slot) } else { None }
    }

    /// The entry that is in `slot` now.
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// The entry that is in `slot` now.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// The id of the entry in `slot`.
    pub(crate) fn id(&self, slot: u32) -> Id {
        let generation = self.generations.get(slot as usize).map_or(0, |&generation| generation);
        Id { generation, slot }
    }

    /// All entries with their slots, in the order of the slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> + Clone {
        let numbered = self.entries.iter().enumerate();
        numbered.filter_map(|(slot, entry)| Some((slot as u32, entry.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_never_finds_the_next_owner() {
        let mut slots = Slots::with_capacity(2).unwrap();
        let first = slots.insert('a');
        slots.remove(first.slot);
        let second = slots.insert('b');
        assert_eq!(first.slot, second.slot);
        assert_eq!(slots.find(first), None);
        assert_eq!(slots.find(second), Some(&mut 'b'));
        assert_eq!((slots.get(second.slot), slots.len(), slots.is_empty()), (Some(&'b'), 1, false));
        assert_eq!(Id::from_u64(second.to_u64()), second);
        for slot in [9, first.slot, first.slot] {
            slots.remove(slot);
        }
        assert_eq!((slots.len(), slots.is_empty(), slots.free.len()), (0, true, 1));
        assert_eq!(slots.get(first.slot), None);
    }

    /// Generation 0 is the core's, also after four billion reuses.
    #[test]
    fn a_generation_is_never_zero() {
        let mut slots = Slots::with_capacity(1).unwrap();
        let id = slots.insert(());
        slots.generations[id.slot as usize] = u32::MAX;
        slots.remove(id.slot);
        assert_eq!(slots.insert(()).generation, 1);
    }
}
