//! The status line: one line on a terminal, rewritten when something has changed.
//!
//! ```text
//! 2 open, 15 bytes in, 33 bytes out, asleep 99.9 %, last message 13:17:43Z
//! ```
//!
//! The loop publishes what it knows; the log thread draws it ([`StatusLine`]). To add up
//! the bytes of all connections takes a look at each, so the loop does it only when it is
//! asked, which is at most some four times a second:
//!
//! ```text
//!            a turn ended
//!   wanted ───────────────▶ published, the log thread wakes ──▶ drawn, at most
//!     ▲                                                        every 250 ms
//!     └──────────────────────────────────────────────────────────┘
//! ```
//!
//! A turn that ends when nothing is wanted leaves a note: what was published is stale. When
//! the log thread may draw again and finds it, it wakes the loop once for a fresh picture,
//! and draws that, even if the loop has turned again meanwhile.
//! So the last change is shown, and where nothing changes no thread wakes.
//!
//! Invariants:
//! 1. The loop writes a picture only after it has taken `WANTED` and before it sets
//!    `PUBLISHED`; the log thread reads it only while `PUBLISHED` is set. It clears that,
//!    and only then wants another.
//! 2. After the last turn either what it did is published, or `stale` is seen.

use crate::view::columns;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::io::{Write, stderr};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a picture stays at least.
const PAUSE: Duration = Duration::from_millis(250);
/// To the first column, and nothing to the right of it.
const ERASE: &str = "\r\x1b[K";

static WANTED: AtomicBool = AtomicBool::new(true);
static PUBLISHED: AtomicBool = AtomicBool::new(false);
static STALE: AtomicBool = AtomicBool::new(false);
static ENDED: AtomicBool = AtomicBool::new(false);
static OPEN: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);
/// When the last message came, in seconds since 1970; 0 if none has.
static AT: AtomicU64 = AtomicU64::new(0);

/// What the loop knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) open: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// The loop has finished a turn. Whether the log thread has something to draw, and is to be woken.
#[must_use]
pub(crate) fn turned(look: impl FnOnce() -> Picture) -> bool {
    let mut is_wanted = WANTED.swap(false, SeqCst);
    if !is_wanted {
        STALE.store(true, SeqCst);
        // Once more, or the log thread might have missed the note, and we its wish.
        is_wanted = WANTED.swap(false, SeqCst);
    }
    if is_wanted {
        let picture = look();
        if picture.received != RECEIVED.load(SeqCst) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            AT.store(now.unwrap_or_default().as_secs(), SeqCst);
        }
        OPEN.store(picture.open, SeqCst);
        RECEIVED.store(picture.received, SeqCst);
        SENT.store(picture.sent, SeqCst);
        STALE.store(false, SeqCst);
        PUBLISHED.store(true, SeqCst);
    }
    is_wanted
}

/// The log thread is done with what is published.
fn want_another() {
    if PUBLISHED.swap(false, SeqCst) {
        WANTED.store(true, SeqCst);
    }
}

/// The server has ended: when the log thread wakes, the line goes.
pub(crate) fn ended() {
    ENDED.store(true, SeqCst);
}

/// The line itself, which belongs to the log thread.
pub(crate) struct StatusLine {
    /// Makes the loop turn.
    nudge: Box<dyn Fn() + Send>,
    began: Instant,
    /// When it was drawn last.
    drawn: Option<Instant>,
    /// The next picture is one that the loop was woken for.
    is_fresh: bool,
    /// What is, or would be, on the screen.
    picture: Option<Picture>,
    text: String,
    is_shown: bool,
}

impl StatusLine {
    pub(crate) fn new(nudge: impl Fn() + Send + 'static) -> StatusLine {
        let (nudge, began) = (Box::new(nudge), Instant::now());
        StatusLine {
            nudge,
            began,
            drawn: None,
            is_fresh: false,
            picture: None,
            text: String::new(),
            is_shown: false,
        }
    }

    /// Draws the line if that is due. Returns when to look again; `None` is when woken.
    pub(crate) fn tend(&mut self) -> Option<Duration> {
        if ENDED.load(SeqCst) {
            self.erase();
            return None;
        }
        let picture = match self.due() {
            Ok(picture) => picture,
            Err(again) => return again,
        };
        self.picture = Some(picture);
        self.text = self.line(picture);
        self.redraw();
        self.drawn = Some(Instant::now());
        self.is_fresh = false;
        want_another();
        Some(PAUSE).filter(|_| STALE.load(SeqCst))
    }

    /// The picture to draw now, or else when to look again.
    fn due(&mut self) -> Result<Picture, Option<Duration>> {
        let is_published = PUBLISHED.load(SeqCst);
        let picture = Picture {
            open: OPEN.load(SeqCst),
            received: RECEIVED.load(SeqCst),
            sent: SENT.load(SeqCst),
        };
        let is_new = is_published && self.picture != Some(picture);
        if !is_new {
            want_another();
            if !STALE.load(SeqCst) {
                return Err(None);
            }
        }
        let waits =
            self.drawn.map_or(Duration::ZERO, |drawn| PAUSE.saturating_sub(drawn.elapsed()));
        if !waits.is_zero() {
            return Err(Some(waits));
        }
        // What was asked for is drawn, though a busy loop has turned since.
        if !(is_new && self.is_fresh) && STALE.swap(false, SeqCst) {
            self.is_fresh = true;
            want_another();
            (self.nudge)();
            return Err(None);
        }
        // If it was published just now, we are woken for it.
        if is_new { Ok(picture) } else { Err(None) }
    }

    /// Takes the line off the screen, so that others can be written.
    pub(crate) fn erase(&mut self) {
        if std::mem::take(&mut self.is_shown) && is_foreground() {
            let _ = stderr().write_all(ERASE.as_bytes());
        }
    }

    /// Puts it there again.
    pub(crate) fn redraw(&mut self) {
        if !self.text.is_empty() && !ENDED.load(SeqCst) && is_foreground() {
            // It is cut, not continued on the next line, even if the window shrinks just now.
            let text = self.text.get(..columns(stderr())).unwrap_or(&self.text); // all ASCII
            let line = format!("{ERASE}\x1b[?7l{text}\x1b[?7h");
            self.is_shown = stderr().write_all(line.as_bytes()).is_ok();
        }
    }

    fn line(&self, picture: Picture) -> String {
        let Picture { open, received, sent } = picture;
        let mut text = format!("{open} open, {} in, {} out", bytes(received), bytes(sent));
        // The first second belongs to the start, and says nothing.
        let since = self.began.elapsed();
        if let Some(asleep) = asleep(since).filter(|_| since >= Duration::from_secs(1)) {
            text += &format!(", asleep {asleep:.1} %");
        }
        match AT.load(SeqCst) {
            0 => text += ", no message yet",
            at => {
                let (hours, minutes, seconds) = (at / 3600 % 24, at / 60 % 60, at % 60);
                text += &format!(", last message {hours:02}:{minutes:02}:{seconds:02}Z");
            }
        }
        text
    }
}

/// How much of the time since its start the process has not used a processor, in percent.
fn asleep(since: Duration) -> Option<f64> {
    let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    let share = Duration::from(used).as_secs_f64() / since.as_secs_f64().max(0.001);
    Some((100.0 - 100.0 * share).clamp(0.0, 100.0))
}

/// A shell's prompt must not be erased by a server that runs in the background. On a
/// terminal that is not ours to control there is no foreground.
fn is_foreground() -> bool {
    tcgetpgrp(stderr()).map_or(true, |group| group == getpgrp())
}

/// `15 bytes`, `1.5 MB`.
fn bytes(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    let mut value = count as f64 / 1000.0;
    for unit in ["kB", "MB", "GB", "TB", "PB"] {
        if count < 10_000 {
            break;
        }
        if value < 999.95 {
            return format!("{value:.1} {unit}");
        }
        value /= 1000.0;
    }
    format!("{count} byte{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loop has turned again by the time the log thread looks at what it asked for: it is
    /// drawn all the same, and not asked for again and again.
    #[test]
    fn a_busy_loop_is_asked_once_for_each_line() {
        fn turn() -> bool {
            static TURNS: AtomicU64 = AtomicU64::new(0);
            let received = TURNS.fetch_add(1, SeqCst);
            turned(|| Picture { received, ..Picture::default() })
        }
        let nudge = || (0..2).for_each(|_| _ = turn());
        assert!(turn() && !turn(), "the log thread is woken for what it wants");
        let mut line = StatusLine::new(nudge);
        assert_eq!(line.due(), Err(None), "what is published is stale: a fresh one is asked for");
        assert!(line.due().is_ok());
    }

    #[test]
    fn sizes_are_short() {
        for (count, due) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (9_999, "9999 bytes"),
            (10_000, "10.0 kB"),
            (1_234_567, "1.2 MB"),
            (999_960_000, "1.0 GB"),
            (u64::MAX, "18446744073709551615 bytes"),
        ] {
            assert_eq!(bytes(count), due);
        }
    }
}
