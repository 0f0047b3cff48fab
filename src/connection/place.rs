//! Names for the place of a connection, for the tests that count which calls failed there.
//!
//! A place is a state, and of those states that have them how far reading and writing have
//! come: a word for each that is not as in a new connection. [`product`] lists all that the
//! types allow; the tests of faults say of each whether it is reached, or why it never is.

use super::Connection;
use super::state::{Fin, Flow, Level, Reading, State, Tail};
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

fn named(state: &str, parts: Parts) -> &'static str {
    let mut number = STATES.iter().position(|name| *name == state).unwrap_or_default();
    for (part, value) in PARTS.iter().zip(parts).rev() {
        number = number * part.len() + value;
    }
    names().get(number).map_or("", String::as_str)
}

/// Every flow there is.
fn flows() -> impl Iterator<Item = Flow> {
    let bits = [false, true];
    let levels = [Level::Low, Level::Full, Level::Drained];
    let outputs = move || levels.into_iter().flat_map(move |it| bits.map(|finish| (it, finish)));
    let readings =
        bits.into_iter().flat_map(move |ended| bits.map(|again| Reading { ended, again }));
    let open = readings.flat_map(move |reading| {
        let both = outputs().map(move |(level, finish)| Flow::Both { reading, level, finish });
        both.chain(levels.map(move |level| Flow::HalfClosedLocal { reading, level }))
    });
    let starved = [Fin::No, Fin::Wanted, Fin::Sent].map(|fin| Flow::Starved { fin });
    open.chain(starved)
        .chain(outputs().map(|(level, finish)| Flow::HalfClosedRemote { level, finish }))
}

fn parts(flow: Flow, paused: bool) -> Parts {
    let end = match flow.reading() {
        Some(reading) => usize::from(reading.ended),
        None => 2,
    };
    let level = match flow.level() {
        _ if flow.is_starved() => 2,
        Level::Low => 0,
        Level::Full => 1,
        Level::Drained => 3,
    };
    [end, paused.into(), flow.is_again().into(), level, flow.fin() as usize, 0, 0]
}

/// How far a connection is read whose input is thrown away.
fn read_to(tail: Tail) -> Parts {
    let end = match tail {
        Tail::Possible => 0,
        Tail::Renounced => 3,
        Tail::Over => 1,
    };
    [end, 0, 0, 0, 0, 0, 0]
}

/// State × Reading × Writing: every place that the types allow.
pub(crate) fn product() -> Vec<&'static str> {
    let mut all = Vec::new();
    for paused in [false, true] {
        all.extend(flows().map(|flow| named("open", parts(flow, paused))));
        let early = flows().filter(|flow| flow.needs_to_read() && flow.fin() != Fin::Sent);
        let early = early.filter(|flow| !flow.is_starved() && flow.level() != Level::Drained);
        all.extend(early.map(|flow| named("connecting", parts(flow, paused))));
    }
    for tail in [Tail::Possible, Tail::Renounced, Tail::Over] {
        all.extend(["closing", "delivering"].map(|state| named(state, read_to(tail))));
    }
    for bit in [0, 1] {
        all.extend([0, 1].map(|again| named("broken", [0, bit, again, 0, 0, 0, 0])));
    }
    all.extend(["lingering", "gone", "preface"].map(|state| named(state, Parts::default())));
    all
}

/// Where it stands, with all its words; and without those that are not in [`product`].
pub(crate) fn of(connection: &Connection) -> [&'static str; 2] {
    let paused = connection.state.is_paused();
    let (state, core) = match &*connection.state {
        State::Connecting { early, .. } => ("connecting", parts(early.flow(), paused)),
        State::Open(open) => ("open", parts(open.flow, paused)),
        State::Closing { tail, .. } => ("closing", read_to(*tail)),
        State::Delivering { tail, .. } => ("delivering", read_to(*tail)),
        State::Lingering { .. } => ("lingering", Parts::default()),
        State::Broken { again, .. } => ("broken", [0, paused.into(), (*again).into(), 0, 0, 0, 0]),
        State::Gone { .. } => ("gone", Parts::default()),
        State::Preface { .. } => ("preface", Parts::default()),
    };
    let has_file = connection.state.unsent().is_some_and(|unsent| unsent.file.is_some());
    let [end, paused, again, level, fin, ..] = core;
    let waits = connection.shortage.waits();
    let all = [end, paused, again, level, fin, has_file.into(), waits.into()];
    [named(state, all), named(state, core)]
}
