//! Lines on stderr while the server runs, written by a thread of their own.
//!
//! ```text
//!   the loop ── try_lock, append ──▶ ring ── swap ──▶ the log thread ── write(2) ──▶ stderr
//!                  │ no room
//!                  ▼
//!               counted; the next line that goes through says how many
//! ```
//!
//! One thread serves all clients, so it must not wait for the reader of its log: a
//! write(2) to a stopped terminal, or to a full pipe, blocks until that reader goes on.
//! The loop therefore only copies a line into memory and wakes the log thread. On that
//! thread a write may block, fail or panic (as `eprintln!` does when the disk is full),
//! and no client notices.
//!
//! Two kinds of lines go through the ring:
//!
//! - **Records** of the `log` facade. [simple_logger] prints them, with a level and the
//!   time in UTC; under journald with a priority instead of the time.
//! - **Raw lines**, which have a format of their own: `--narrate`, the access log, the
//!   frame on a terminal, and diagnostics (`error: …`, `warning: …`).
//!
//! Invariants:
//! 1. The loop never waits: it takes the lock with `try_lock`, and the log thread holds
//!    that lock only to swap two buffers.
//! 2. The ring allocates nothing after the start.
//! 3. Order holds: lines are written as they were appended.
//! 4. Nothing wakes the log thread but a line, or a change that the status line shows.
//! 5. The log thread takes no signal: it is started when the loop's signals are blocked,
//!    and a new thread inherits the mask of its creator. pthread_create(3)

use crate::status::StatusLine;
use crate::view::takes_color;
use log::{Level, Log, Metadata, Record};
use simple_logger::SimpleLogger;
use std::env::var_os;
use std::fmt::{self, Arguments, Write as _};
use std::io::{self, ErrorKind, Write as _, stderr};
use std::os::linux::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How many bytes, and how many lines, may wait for the log thread.
const ROOM: usize = 256 << 10;
const LINES: usize = 4_096;
/// How often the loop tries the lock, which is held for nanoseconds, before it drops a line.
const TRIES: usize = 1_000;
/// How long the end of the program waits for lines that are not written yet.
const PATIENCE: Duration = Duration::from_millis(250);
/// A record's time is that of its printing. One that waited longer says so.
const LATE: Duration = Duration::from_secs(2);
/// The target of every record, which stands in brackets.
const TARGET: &str = "threadbare";
/// The log thread's name. Linux shows 15 bytes of it.
const NAME: &str = "threadbare-log";

static RING: Mutex<Ring> = Mutex::new(Ring { batch: Batch::EMPTY, is_idle: true, flusher: None });
/// Lines that the ring did not take since the last one that it took.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The log thread, once it runs.
static THREAD: OnceLock<Thread> = OnceLock::new();

struct Ring {
    /// What the log thread has not taken yet.
    batch: Batch,
    /// Everything that the log thread has taken is written.
    is_idle: bool,
    /// The thread that waits, in [`flush`], until that is so and `batch` is empty.
    flusher: Option<Thread>,
}

/// Lines, one after the other.
struct Batch {
    text: String,
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
struct Line {
    kind: Kind,
    /// Where it ends in the text.
    end: usize,
    /// How many were dropped before it.
    dropped: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Record(Level, Instant),
    Raw,
}

impl Batch {
    const EMPTY: Batch = Batch { text: String::new(), lines: Vec::new() };

    fn with_room() -> Batch {
        Batch { text: String::with_capacity(ROOM), lines: Vec::with_capacity(LINES) }
    }

    /// Appends a line, its end included; `false` if there is no room for it.
    fn push(&mut self, kind: Kind, line: Arguments<'_>, dropped: u64) -> bool {
        let begin = self.text.len();
        let fits = self.lines.len() < LINES && write!(Bounded(&mut self.text), "{line}").is_ok();
        if fits {
            self.lines.push(Line { kind, end: self.text.len(), dropped });
        } else {
            self.text.truncate(begin);
        }
        fits
    }

    fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
    }
}

/// A string that never grows beyond [`ROOM`].
struct Bounded<'a>(&'a mut String);

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.0.len() + piece.len() > ROOM {
            return Err(fmt::Error);
        }
        self.0.push_str(piece);
        Ok(())
    }
}

// ---- the loop's side -----------------------------------------------------------------

/// Lets `log::info!` and its kin write into the ring.
pub(crate) fn install() {
    static LOGGER: Logger = Logger;
    lock().batch = Batch::with_room();
    let _ = log::set_logger(&LOGGER); // fails only if there is one already: ours
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            push(Kind::Record(record.level(), Instant::now()), format_args!("{}\n", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Why a start or an end failed, `error: …`, or what is not as it was asked for, `warning: …`.
pub(crate) fn diagnostic(level: Level, text: impl fmt::Display) {
    let name = if level == Level::Error { "error" } else { "warning" };
    match is_journal() {
        true => raw(format_args!("<{}>{name}: {text}", priority(level))),
        false => raw(format_args!("{name}: {text}")),
    }
}

/// A line as it is.
pub(crate) fn raw(line: Arguments<'_>) {
    push(Kind::Raw, format_args!("{line}\n"));
}

/// The beginning of a line, which another one completes.
pub(crate) fn piece(line: Arguments<'_>) {
    push(Kind::Raw, line);
}

fn push(kind: Kind, line: Arguments<'_>) {
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if try_lock().is_some_and(|mut ring| ring.batch.push(kind, line, dropped)) {
        wake();
    } else {
        DROPPED.fetch_add(dropped + 1, Ordering::Relaxed);
    }
}

/// Wakes the log thread: one atomic instruction if it is awake.
pub(crate) fn wake() {
    if let Some(thread) = THREAD.get() {
        thread.unpark();
    }
}

fn try_lock() -> Option<MutexGuard<'static, Ring>> {
    for _ in 0..TRIES {
        match RING.try_lock() {
            Ok(ring) => return Some(ring),
            Err(TryLockError::Poisoned(ring)) => return Some(ring.into_inner()),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    None
}

/// For the log thread, and for the loop's thread while the loop does not run.
fn lock() -> MutexGuard<'static, Ring> {
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Flushes when it is dropped: at the end of the program, even if a handler panics.
pub(crate) struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush();
    }
}

/// Waits until all lines are written, but not for long. Not to be called by the loop.
pub(crate) fn flush() {
    let deadline = Instant::now() + PATIENCE;
    let Some(thread) = THREAD.get() else { return Printer::new(None).print(&take()) };
    loop {
        let mut ring = lock();
        if ring.batch.lines.is_empty() && ring.is_idle {
            return;
        }
        ring.flusher = Some(thread::current());
        drop(ring);
        thread.unpark();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// All lines in the ring, for the caller to write.
fn take() -> Batch {
    std::mem::replace(&mut lock().batch, Batch::with_room())
}

// ---- the log thread ------------------------------------------------------------------

/// Starts the log thread. To be called when the loop's signals are blocked already.
///
/// # Errors
///
/// The errno of clone(2).
pub(crate) fn start(status: Option<StatusLine>) -> io::Result<()> {
    let hook = take_hook();
    set_hook(Box::new(move |panic| {
        if thread::current().name() != Some(NAME) {
            hook(panic); // the log thread's own panics are lines that were not written
        }
    }));
    let thread = thread::Builder::new().name(NAME.to_owned());
    let thread = thread.spawn(move || run(Printer::new(status)))?;
    let _ = THREAD.set(thread.thread().clone());
    Ok(())
}

fn run(mut printer: Printer) {
    let mut batch = Batch::with_room();
    loop {
        let mut ring = lock();
        std::mem::swap(&mut ring.batch, &mut batch);
        ring.is_idle = batch.lines.is_empty();
        let flusher = ring.flusher.take_if(|_| batch.lines.is_empty());
        drop(ring);
        if !batch.lines.is_empty() {
            printer.print(&batch);
            batch.clear();
            continue;
        }
        let again = printer.status.as_mut().and_then(StatusLine::tend);
        if let Some(flusher) = flusher {
            flusher.unpark();
        }
        match again {
            Some(span) => thread::park_timeout(span),
            None => thread::park(),
        }
    }
}

/// Writes to stderr, and counts the lines that it could not write.
struct Printer {
    logger: SimpleLogger,
    /// stderr leads to journald, which keeps the time itself.
    is_journal: bool,
    status: Option<StatusLine>,
    /// Lines lost since the last one that was written.
    dropped: u64,
    /// The last line broke off in its middle.
    is_torn: bool,
}

impl Printer {
    fn new(status: Option<StatusLine>) -> Printer {
        let is_journal = is_journal();
        let has_color = takes_color(&stderr());
        // Left to itself it looks at stdout.
        colored::control::set_override(has_color);
        let logger = SimpleLogger::new().with_colors(has_color);
        let logger = if is_journal { logger.without_timestamps() } else { logger };
        Printer { logger, is_journal, status, dropped: 0, is_torn: false }
    }

    /// Writes lines, above the status line if there is one.
    fn print(&mut self, batch: &Batch) {
        if let Some(status) = &mut self.status {
            status.erase();
        }
        let mut lines = batch.lines.iter().peekable();
        let mut begin = 0;
        while let Some(&Line { kind, mut end, dropped }) = lines.next() {
            self.dropped += dropped;
            // Raw lines that follow each other are one write.
            while let (Kind::Raw, Some(Line { kind: Kind::Raw, end: next, dropped: 0 })) =
                (kind, lines.peek())
            {
                end = *next;
                lines.next();
            }
            self.report_dropped();
            let text = batch.text.get(begin..end).unwrap_or_default();
            begin = end;
            match kind {
                Kind::Raw => self.write(text),
                Kind::Record(level, at) => self.record(level, at, text.trim_end_matches('\n')),
            }
        }
        if let Some(status) = &mut self.status {
            status.redraw();
        }
    }

    fn report_dropped(&mut self) {
        let (count, plural) = (self.dropped, if self.dropped == 1 { "" } else { "s" });
        if count > 0 && self.log(Level::Warn, format_args!("{count} line{plural} dropped")) {
            self.dropped = 0;
        }
    }

    fn record(&mut self, level: Level, at: Instant, message: &str) {
        let age = at.elapsed();
        let is_written = match age > LATE {
            true => self.log(level, format_args!("{message} ({:.1} s ago)", age.as_secs_f64())),
            false => self.log(level, format_args!("{message}")),
        };
        self.dropped += u64::from(!is_written);
    }

    /// Gives a record to simple_logger, which panics if it cannot be written; whether it was.
    fn log(&mut self, level: Level, message: Arguments<'_>) -> bool {
        let record = || {
            if std::mem::take(&mut self.is_torn) {
                eprintln!();
            }
            if self.is_journal {
                eprint!("<{}>", priority(level));
            }
            let record = Record::builder().level(level).target(TARGET).args(message).build();
            self.logger.log(&record);
        };
        catch_unwind(AssertUnwindSafe(record)).is_ok()
    }

    fn write(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match stderr().write(rest) {
                Ok(count @ 1..) => {
                    let (written, left) = rest.split_at_checked(count).unwrap_or_default();
                    self.is_torn = !written.ends_with(b"\n");
                    rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.dropped += rest.iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
}

/// Whether stderr is the stream that journald names. systemd.exec(5), $JOURNAL_STREAM
fn is_journal() -> bool {
    let named = var_os("JOURNAL_STREAM").and_then(|stream| stream.into_string().ok());
    let Ok(status) = std::fs::metadata("/proc/self/fd/2") else { return false };
    named.is_some_and(|named| named == format!("{}:{}", status.st_dev(), status.st_ino()))
}

/// The priority that journald knows a level by. sd-daemon(3)
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_what_fits_and_nothing_else() {
        let mut batch = Batch::with_room();
        let long = "x".repeat(1_000);
        let mut taken = 0;
        while batch.push(Kind::Raw, format_args!("{taken} {long}\n"), 0) {
            taken += 1;
        }
        assert_eq!(taken, batch.lines.len());
        assert!(batch.text.len() <= ROOM && batch.text.len() + 1_010 > ROOM);
        assert!(batch.text.ends_with("x\n"), "a line that does not fit leaves nothing");
        assert!(batch.push(Kind::Raw, format_args!("short\n"), 3), "there is room for a short one");
        assert_eq!(batch.lines.last().map(|line| line.dropped), Some(3));
        batch.clear();
        let many = (0..=LINES).filter(|_| batch.push(Kind::Raw, format_args!("\n"), 0)).count();
        assert_eq!(many, LINES);
        assert_eq!(batch.lines.capacity(), LINES);
    }
}
