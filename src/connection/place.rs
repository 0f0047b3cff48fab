//! Names for the place of a connection, for the tests that count which calls failed there.
//!
//! A place is a state, and of those states that have them how far reading and writing have
//! come: a word for each that is not as in a new connection. [`product`] lists all that the
//! types allow; the tests of faults say of each whether it is reached, or why it never is.

use super::Connection;
use super::state::{Fin, Reading, State, Tail, Writing};
use std::sync::OnceLock;

const STATES: [&str; 8] =
    ["connecting", "open", "closing", "lingering", "broken", "gone", "preface", "delivering"];
/// What else is known of it, the first of each being left out.
const PARTS: [&[&str]; 7] = [
    &["", "seen", "told", "renounced"],
    &["", "paused"],
    &["", "again"],
    &["", "full", "starved", "drained"],
    &["", "fin wanted", "fin sent"],
    &["", "file"],
    &["", "later"],
];
/// A closing connection of whose peer no more is expected.
const RENOUNCED: usize = 3;
/// Those of them that are not Reading or Writing.
const ASIDE: [usize; 2] = [5, 6];

type Parts = [usize; PARTS.len()];

/// All names, by number.
fn names() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let count: usize = PARTS.iter().map(|part| part.len()).product();
        (0..STATES.len() * count).map(|number| name(number / count, number % count)).collect()
    })
}

fn name(state: usize, mut number: usize) -> String {
    let mut words = vec![STATES.get(state).copied().unwrap_or_default()];
    for part in PARTS {
        words.extend(part.get(number % part.len()).filter(|word| !word.is_empty()));
        number /= part.len();
    }
    words.join(", ")
}

fn named(state: usize, parts: Parts) -> &'static str {
    let mut number = state;
    for (part, value) in PARTS.iter().zip(parts).rev() {
        number = number * part.len() + value;
    }
    names().get(number).map_or("", String::as_str)
}

fn reading(state: usize) -> impl Iterator<Item = Parts> {
    let ends: &[usize] = match state {
        1 | 4 => &[0, 1, 2],
        2 | 7 => &[0, 1, RENOUNCED],
        _ => &[0],
    };
    let paused = if matches!(state, 0 | 1 | 4) { 2 } else { 1 };
    let again = if matches!(state, 1 | 4) { 2 } else { 1 };
    ends.iter().flat_map(move |&end| {
        (0..paused * again).map(move |flags| [end, flags % paused, flags / paused, 0, 0, 0, 0])
    })
}

fn writing(state: usize) -> impl Iterator<Item = (usize, usize)> {
    let (levels, fins) = match state {
        0 => (2, 2),
        1 => (4, 3),
        2 => (1, 3),
        _ => (1, 1),
    };
    let fins = if state == 2 { 1..fins } else { 0..fins };
    (0..levels).flat_map(move |level| fins.clone().map(move |fin| (level, fin)))
}

/// State × Reading × Writing: every place that the types allow.
pub(crate) fn product() -> Vec<&'static str> {
    let mut all = Vec::new();
    for state in 0..STATES.len() {
        for [end, paused, again, ..] in reading(state) {
            for (level, fin) in writing(state) {
                all.push(named(state, [end, paused, again, level, fin, 0, 0]));
            }
        }
    }
    all
}

/// How far a connection is read whose input is thrown away.
fn read_to(tail: Tail) -> usize {
    match tail {
        Tail::Possible => 0,
        Tail::Renounced => RENOUNCED,
        Tail::Over => 1,
    }
}

/// Where it stands, with all its words; and without those that are not in [`product`].
pub(crate) fn of(connection: &Connection) -> [&'static str; 2] {
    let mut end = None;
    let (state, reading, writing, file) = match &*connection.state {
        State::Connecting { early, .. } => {
            let (reading, writing, file) = early.place();
            (0, reading, writing, file)
        }
        State::Open(open) => (1, open.reading, open.writing, open.unsent.file.is_some()),
        State::Delivering { unsent, tail, .. } => {
            end = Some(read_to(*tail));
            (7, Reading::default(), Writing::default(), unsent.file.is_some())
        }
        State::Closing { unsent, has_fin, tail, .. } => {
            end = Some(read_to(*tail));
            let fin = if *has_fin { Fin::Sent } else { Fin::Wanted };
            let writing = Writing { fin, ..Writing::default() };
            (2, Reading::default(), writing, unsent.file.is_some())
        }
        State::Lingering { .. } => (3, Reading::default(), Writing::default(), false),
        State::Broken { reading, .. } => (4, *reading, Writing::default(), false),
        State::Gone { .. } => (5, Reading::default(), Writing::default(), false),
        State::Preface { .. } => (6, Reading::default(), Writing::default(), false),
    };
    let later = connection.shortage.waits();
    let Reading { end: ahead, paused, again, hung_up: _ } = reading;
    let Writing { level, fin } = writing;
    let parts: Parts = [
        end.unwrap_or(ahead as usize),
        paused.into(),
        again.into(),
        level as usize,
        fin as usize,
        file.into(),
        later.into(),
    ];
    let mut core = parts;
    for at in ASIDE {
        if let Some(part) = core.get_mut(at) {
            *part = 0;
        }
    }
    [named(state, parts), named(state, core)]
}
