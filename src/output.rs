//! Lines for people, on stderr and stdout, that can neither stall nor end the server.
//!
//! One thread serves everybody, so a write(2) that waits for whoever reads the
//! log would stop every client. `eprintln!` does wait, on a full pipe, and it
//! panics when the other end is gone or the disk is full. Here instead:
//!
//! 1. poll(2) first, write(2) only what is then sure to be taken: a pipe that
//!    polls writable has room for PIPE_BUF (4096) bytes. pipe(7)
//! 2. A terminal that polls writable may have room for a few bytes only, and
//!    blocks in the middle of a line (a stopped `ssh` shows it). So a terminal
//!    is opened once more, non-blocking, and takes the place of the descriptor
//!    we were given. To set O_NONBLOCK on that one would set it for our parent too.
//! 3. What is refused is lost. On stderr it is counted, and the next line that
//!    goes through is preceded by `(2 lines dropped)`; on stdout, which carries
//!    results, a slow reader is given a moment, and then the caller is told.
//!
//! What is left: another program that writes into the same pipe can take the
//! room between our poll and our write. Then this one write waits for the
//! reader, as a write to a file waits for its disk.

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stderr, dup2_stdout, write};
use std::fmt::{Arguments, Write};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Stderr, Stdout, stderr, stdout};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a pipe takes at once, or not at all.
const PIPE_BUF: usize = 4096;

/// How long a line on stdout waits, all in all, for whoever reads it.
const STDOUT_PATIENCE: Duration = Duration::from_millis(250);

static STDOUT: LazyLock<Stdout> = LazyLock::new(|| {
    let stdout = stdout();
    if let Some(terminal) = reopened_terminal(&stdout) {
        let _ = dup2_stdout(terminal);
    }
    stdout
});

static STDERR: LazyLock<Mutex<Lines<Stderr>>> = LazyLock::new(|| {
    let stderr = stderr();
    if let Some(terminal) = reopened_terminal(&stderr) {
        let _ = dup2_stderr(terminal);
    }
    Mutex::new(Lines::new(stderr))
});

/// Prepares both streams, while descriptors are plenty, and installs the logger:
/// from now on `log::info!` and its kin write to stderr.
pub(crate) fn install(level: LevelFilter) {
    static LOGGER: Logger = Logger;
    LazyLock::force(&STDOUT);
    LazyLock::force(&STDERR);
    log::set_max_level(level);
    let _ = log::set_logger(&LOGGER); // fails only if there is one already: ours
}

/// One line on stderr, as it is.
pub(crate) fn stderr_line(line: Arguments<'_>) {
    STDERR.lock().unwrap_or_else(PoisonError::into_inner).line(line);
}

/// Text on stderr, with or without an end of line.
pub(crate) fn stderr_text(text: Arguments<'_>) {
    STDERR.lock().unwrap_or_else(PoisonError::into_inner).text(text);
}

/// Text on stdout: a line, or several. If it cannot be written, why.
pub(crate) fn stdout_text(text: &str) -> Result<(), Errno> {
    send(&*STDOUT, text.as_bytes(), STDOUT_PATIENCE).map_err(|refused| refused.errno)
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            stderr_line(format_args!("{level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// A descriptor that takes lines, and how many it did not take.
struct Lines<F> {
    fd: F,
    /// Where a line is put together; kept, so that logging allocates nothing.
    text: String,
    /// Lines lost since the last one that went through.
    dropped: u64,
    /// The last line broke off in its middle.
    torn: bool,
}

impl<F: AsFd> Lines<F> {
    fn new(fd: F) -> Lines<F> {
        Lines { fd, text: String::new(), dropped: 0, torn: false }
    }

    fn line(&mut self, line: Arguments<'_>) {
        self.text(format_args!("{line}\n"));
    }

    fn text(&mut self, text: Arguments<'_>) {
        self.text.clear();
        if self.torn {
            self.text.push('\n');
        }
        let _ = match self.dropped {
            0 => Ok(()),
            1 => writeln!(self.text, "(1 line dropped)"),
            n => writeln!(self.text, "({n} lines dropped)"),
        };
        let _ = write!(self.text, "{text}");
        match send(&self.fd, self.text.as_bytes(), Duration::ZERO) {
            Ok(()) => (self.dropped, self.torn) = (0, false),
            Err(refused) => {
                self.dropped += 1;
                self.torn |= refused.taken > 0;
            }
        }
    }
}

/// A write that was not finished: how much was taken, and why no more.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    taken: usize,
    errno: Errno,
}

/// Writes `bytes`, for at most `patience`, which may be nothing at all.
fn send(fd: &impl AsFd, bytes: &[u8], patience: Duration) -> Result<(), Refused> {
    let deadline = Instant::now() + patience;
    let mut taken = 0;
    while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
        let piece = rest.get(..PIPE_BUF).unwrap_or(rest);
        match wait_writable(fd, deadline).and_then(|()| write(fd, piece)) {
            Ok(0) => {
                return Err(Refused { taken, errno: Errno::EAGAIN });
            }
            Ok(n) => taken += n,
            Err(errno) => return Err(Refused { taken, errno }),
        }
    }
    Ok(())
}

/// Waits until `fd` takes bytes, or has an error for write(2) to report.
fn wait_writable(fd: &impl AsFd, deadline: Instant) -> Result<(), Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], timeout) {
            Ok(0) | Err(Errno::EINTR) if left.is_zero() => return Err(Errno::EAGAIN),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// The terminal behind `fd`, opened once more and non-blocking; `None` if there
/// is none, or it may not be opened (after `su`, say): then rule 1 has to do.
fn reopened_terminal(fd: &(impl AsRawFd + IsTerminal)) -> Option<File> {
    if !fd.is_terminal() {
        return None;
    }
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, PipeReader, PipeWriter, Read};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn pipe() -> io::Result<(PipeReader, Lines<PipeWriter>)> {
        let (reader, writer) = io::pipe()?;
        Ok((reader, Lines::new(writer)))
    }

    #[test]
    fn a_line_is_one_line() -> Outcome {
        let (mut reader, mut lines) = pipe()?;
        lines.line(format_args!("listening on {}", 1234));
        lines.line(format_args!("bye"));
        drop(lines);
        assert_eq!(io::read_to_string(&mut reader)?, "listening on 1234\nbye\n");
        Ok(())
    }

    #[test]
    fn a_full_pipe_drops_lines_and_says_so_later() -> Outcome {
        let (mut reader, mut lines) = pipe()?;
        let long = "x".repeat(1000);
        while lines.dropped < 2 {
            lines.line(format_args!("{long}"));
        }
        let mut some = vec![0; 20_000];
        reader.read_exact(&mut some)?;
        lines.line(format_args!("after"));
        lines.line(format_args!("again"));
        drop(lines);
        let rest = io::read_to_string(&mut reader)?;
        assert!(rest.ends_with("x\n(2 lines dropped)\nafter\nagain\n"), "{rest}");
        Ok(())
    }

    #[test]
    fn a_line_that_broke_off_is_ended_before_the_next() -> Outcome {
        let (mut reader, mut lines) = pipe()?;
        let huge = "x".repeat(1 << 20); // more than any pipe holds
        lines.line(format_args!("{huge}"));
        assert_eq!((lines.dropped, lines.torn), (1, true));
        let mut some = vec![0; 20_000];
        reader.read_exact(&mut some)?;
        lines.line(format_args!("after"));
        drop(lines);
        assert!(io::read_to_string(&mut reader)?.ends_with("x\n(1 line dropped)\nafter\n"));
        Ok(())
    }

    #[test]
    fn a_closed_pipe_and_a_full_disk_are_survived() -> Outcome {
        let (reader, mut lines) = pipe()?;
        drop(reader);
        lines.line(format_args!("nobody reads this"));
        assert_eq!((lines.dropped, lines.torn), (1, false));
        let refused = |errno| Err(Refused { taken: 0, errno });
        assert_eq!(send(&lines.fd, b"x", STDOUT_PATIENCE), refused(Errno::EPIPE));

        let full = OpenOptions::new().write(true).open("/dev/full")?;
        assert_eq!(send(&full, b"x", STDOUT_PATIENCE), refused(Errno::ENOSPC));
        Ok(())
    }

    #[test]
    fn a_slow_reader_is_waited_for_but_not_for_ever() -> Outcome {
        let (mut reader, writer) = io::pipe()?;
        let long = vec![b'x'; 300_000];
        let started = Instant::now();
        let refused = send(&writer, &long, Duration::from_millis(50));
        assert!(refused.is_err_and(|refused| refused.errno == Errno::EAGAIN && refused.taken > 0));
        assert!(started.elapsed() >= Duration::from_millis(50));

        let reading = std::thread::spawn(move || io::read_to_string(&mut reader));
        assert_eq!(send(&writer, &long, Duration::from_secs(60)), Ok(()));
        drop(writer);
        assert!(reading.join().is_ok_and(|text| text.is_ok_and(|text| text.len() >= long.len())));
        Ok(())
    }
}
