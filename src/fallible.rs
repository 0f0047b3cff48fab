//! Memory that may be refused.
//!
//! Where an allocation fails, most of the standard library ends the process. What clients can drive
//! must end one connection instead, so it asks first, with `try_reserve` or with what is here.
//!
//! Nothing of the standard library makes an [`Arc`](std::sync::Arc) or a boxed closure that may
//! fail. For these there is [`has_room_for`]: memory of that size is taken and given back at
//! once, and an allocator hands out first to a thread what it has just got back from it.

use std::alloc::Layout;
use std::collections::HashMap;
use std::fmt::{self, Display, Write};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// A map by slot or id, which no client chooses: so it needs no secret, and a simulated run that is
/// repeated is the same. (A `BTreeMap` cannot be asked for memory.)
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// Puts a value into a map, if there is memory.
pub(crate) fn put<K, V, S>(map: &mut HashMap<K, V, S>, key: K, value: V) -> Option<()>
where
    K: Eq + Hash,
    S: BuildHasher,
{
    map.try_reserve(1).ok()?;
    map.insert(key, value);
    Some(())
}

/// Appends a value to a list, if there is memory.
pub(crate) fn push<T>(list: &mut Vec<T>, value: T) -> Option<()> {
    list.try_reserve(1).ok()?;
    list.push(value);
    Some(())
}

/// A value in a box, if there is memory.
pub(crate) fn boxed<T>(value: T) -> Option<Box<[T; 1]>> {
    let mut one = with_room(1)?;
    one.push(value);
    one.try_into().ok()
}

/// An empty vector with room for so many, if there is memory.
pub(crate) fn with_room<T>(length: usize) -> Option<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(length).ok().map(|()| vector)
}

/// A copy of some bytes, if there is memory.
pub(crate) fn copied(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut copy = with_room(bytes.len())?;
    copy.extend_from_slice(bytes);
    Some(copy)
}

/// Whether there is memory for a value of this layout in a box,
pub(crate) fn has_room_for(value: Layout) -> bool {
    with_room::<u64>(value.size().div_ceil(size_of::<u64>())).is_some()
}

/// and for one in an `Arc`, behind its two counts.
pub(crate) fn has_room_for_shared(value: Layout) -> bool {
    Layout::new::<[usize; 2]>().extend(value).is_ok_and(|(both, _)| has_room_for(both))
}

/// Appends to a string as long as there is memory.
pub(crate) struct Appending<'a>(pub(crate) &'a mut String);

impl Write for Appending<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.0.push_str(text);
        Ok(())
    }
}

/// What is shown of something, as far as there is memory.
pub(crate) fn shown(what: impl Display) -> String {
    let mut text = String::new();
    let _ = write!(Appending(&mut text), "{what}"); // the rest is lost
    text
}
