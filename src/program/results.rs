//! Text on stdout: what scripts read. A slow reader is waited for only a moment.
//!
//! These are results and not lines of a log, so they do not queue behind a log that
//! nobody reads: the thread that has them writes them. poll(2) first, write(2) only what
//! is then sure to be taken: a pipe that polls writable has room for PIPE_BUF (4096)
//! bytes. pipe(7)

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use std::io::stdout;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What a pipe takes at once, or not at all.
const PIPE_BUF: usize = 4096;
/// How long a text waits, all in all, for its reader.
const PATIENCE: Duration = Duration::from_millis(250);

/// Writes to stdout.
///
/// # Errors
///
/// Why it was not written, or not all of it: EAGAIN if its reader is too slow.
pub(crate) fn print(text: &str) -> Result<(), Errno> {
    send(&stdout(), text.as_bytes(), PATIENCE)
}

fn send(fd: &impl AsFd, mut bytes: &[u8], patience: Duration) -> Result<(), Errno> {
    let deadline = Instant::now() + patience;
    while !bytes.is_empty() {
        wait_writable(fd, deadline)?;
        match write(fd, bytes.get(..PIPE_BUF).unwrap_or(bytes))? {
            0 => return Err(Errno::EAGAIN),
            taken => bytes = bytes.get(taken..).unwrap_or_default(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_closed_pipe_and_a_full_disk_are_told() -> Outcome {
        let (reader, writer) = io::pipe()?;
        drop(reader);
        assert_eq!(send(&writer, b"x", PATIENCE), Err(Errno::EPIPE));
        let full = OpenOptions::new().write(true).open("/dev/full")?;
        assert_eq!(send(&full, b"x", PATIENCE), Err(Errno::ENOSPC));
        Ok(())
    }

    #[test]
    fn a_slow_reader_is_waited_for_but_not_for_ever() -> Outcome {
        let (mut reader, writer) = io::pipe()?;
        let long = vec![b'x'; 300_000];
        let started = Instant::now();
        assert_eq!(send(&writer, &long, Duration::from_millis(50)), Err(Errno::EAGAIN));
        assert!(started.elapsed() >= Duration::from_millis(50));

        let reading = std::thread::spawn(move || io::read_to_string(&mut reader));
        assert_eq!(send(&writer, &long, Duration::from_secs(60)), Ok(()));
        drop(writer);
        assert!(reading.join().is_ok_and(|text| text.is_ok_and(|text| text.len() >= long.len())));
        Ok(())
    }
}
