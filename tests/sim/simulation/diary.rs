//! What the server said: a line an episode, and none that nobody knows.

use super::journal::Journal;
use super::stage::Verdict;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Once;

thread_local! {
    /// What was logged in this thread: each case has a thread to itself.
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

struct Diary;

impl Log for Diary {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.with_borrow_mut(|lines| lines.push((record.level(), record.args().to_string())));
        }
    }

    fn flush(&self) {}
}

/// From now on this thread's lines are kept.
pub fn begin() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        log::set_logger(&Diary).unwrap();
        log::set_max_level(LevelFilter::Info);
    });
    LINES.take();
}

/// How often something was said so far.
pub fn count(what: &str) -> usize {
    LINES.with_borrow(|lines| lines.iter().filter(|(_, line)| line.contains(what)).count())
}

/// Whether exactly this was said.
pub fn said(what: &str) -> bool {
    LINES.with_borrow(|lines| lines.iter().any(|(_, line)| line == what))
}

/// Whether this error was told.
pub fn has(error: &str) -> bool {
    let told = |(level, line): &(Level, String)| *level == Level::Error && line == error;
    LINES.with_borrow(|lines| lines.iter().any(told))
}

/// Whether each line is one of those that are documented, and tells of an episode of its
/// own: at most one stop; once each failure beside that which ended the server; a mistake
/// for each strike at most; one that new clients cannot be refused; a line a minute that
/// nobody is let in, one that nobody gets out, and one of the proxy, that it reaches nobody; for
/// each limit one line in ten seconds, whom it cut.
pub fn judge(journal: &Journal, minutes: u64) -> Verdict<()> {
    let errnos: BTreeSet<String> =
        journal.strikes().map(|(_, errno)| format!("{errno:?}")).collect();
    let names_what_struck = |line: &str| errnos.iter().any(|errno| line.contains(errno));
    let (mut pauses, mut losses, mut cuts, mut stops, mut bugs) = (0, 0, 0, 0, 0);
    let (mut filters, mut forbidden, mut ends) = (0, 0, BTreeSet::new());
    for (level, line) in LINES.take() {
        let known = match level {
            Level::Error if line.starts_with("bug: ") => {
                bugs += 1;
                names_what_struck(&line)
            }
            Level::Error => names_what_struck(&line) && ends.insert(line.clone()),
            Level::Warn if line.ends_with("; clients are reset until a server answers") => {
                losses += 1;
                true
            }
            // A call that a sandbox forbids.
            Level::Warn if line.ends_with(", or a firewall") => {
                forbidden += 1;
                forbidden <= 1 && names_what_struck(&line)
            }
            // A client that a limit cut: six lines a minute for each of six limits.
            Level::Warn if line.contains(" was cut (") => {
                cuts += 1;
                cuts <= 36 * (1 + minutes)
            }
            Level::Warn if line.contains("; clients that connect from now on may get no") => {
                filters += 1;
                names_what_struck(&line)
            }
            Level::Warn => {
                pauses += 1;
                let waits = ["; new clients wait until", "; outbound connections wait,"];
                waits.iter().any(|it| line.contains(it)) && names_what_struck(&line)
            }
            _ if line.starts_with("stopping (") => {
                stops += 1;
                true
            }
            _ => line.contains(" idle ") || line.contains(" open, holding "),
        };
        if !known {
            return Err(format!("it said: {line}"));
        }
    }
    let most = 1 + minutes as usize;
    match (pauses <= 2 * most && losses <= most, stops.max(filters) <= 1, bugs <= journal.struck) {
        (true, true, true) => Ok(()),
        _ => Err(format!(
            "it said too much: {pauses} pauses, {losses} losses, {stops} stops, \
             {filters} filters, {bugs} bugs"
        )),
    }
}
