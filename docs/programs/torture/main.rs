//! Rude clients for any TCP server whose answer to a line contains the line.
//!
//! ```text
//! make torture ADDR=127.0.0.1:1234              a server that runs already
//! make torture CMD='python3 server.py'          starts it, watches it and stops it, too
//! make torture CMD='./server' ADDR=[::1]:7000   for one that prints no address
//! ```
//!
//! Each client does what real networks and real people do: it leaves without a word,
//! resets, does not read, sends a byte at a time, floods. A server survives it if the
//! rude client is treated as it deserves, and if a polite one is answered while it goes
//! on and afterwards. What is sent are lines of printable text unless the point is that
//! they are not, and never more than some megabytes.
//!
//! Rooms: [`victim`] is the server under test, [`rude`] the clients, [`network`] those
//! that need a network of their own.

mod network;
mod rude;
mod victim;

use std::io::{self, IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rude::{Needs, RUDE, Rude};
use threadbare::kernel::window_columns;
use victim::{Verdict, Victim};

/// How often the seconds are written anew.
const TICK: Duration = Duration::from_millis(200);

const USAGE: &str = "Usage: torture [HOST:PORT] [--start COMMAND]";

fn main() -> ExitCode {
    match run() {
        Ok(all) => ExitCode::from(u8::from(!all)),
        Err(wrong) => {
            eprintln!("error: {wrong}");
            ExitCode::from(2)
        }
    }
}

/// Whether the server survives all that could be tried.
fn run() -> Result<bool, String> {
    let (mut word, mut command, mut case) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(next) = words.next() {
        match next.as_str() {
            "--start" => command = Some(words.next().ok_or(USAGE)?),
            network::CASE => case = Some(words.next().ok_or(USAGE)?),
            _ if word.is_none() && !next.starts_with('-') => word = Some(next),
            _ => return Err(USAGE.into()),
        }
    }
    let command = command.filter(|command| !command.is_empty());
    if word.is_none() && command.is_none() {
        word = Some("127.0.0.1:1234".to_owned());
    }
    let nowhere =
        |word: &str| format!("{word}: no such address; try make torture ADDR=127.0.0.1:1234");
    let asked = match &word {
        Some(word) => Some(victim::address(word).ok_or_else(|| nowhere(word))?),
        None => None,
    };
    let victim = match (&command, asked) {
        (Some(command), asked) => Victim::started_by(command, asked),
        (None, Some(address)) => Victim::at(address),
        (None, None) => return Err(USAGE.into()),
    };
    victim.start()?;
    if let Some(case) = case {
        return network::inside(&victim, &case).map(|()| true);
    }
    victim.answers().map_err(|why| {
        let takes = "any server will do whose answer to a line contains the line: make run";
        format!("{}: {why}; {takes}", word.as_deref().or(command.as_deref()).unwrap_or_default())
    })?;
    match torture(&victim) {
        Ok(all) => Ok(all),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true), // `| head`
        Err(error) => Err(format!("stdout: {error}")),
    }
}

/// Whether the server survives all of them. An error is one of stdout.
fn torture(victim: &Victim) -> io::Result<bool> {
    writeln!(stdout(), "{:<60} a polite one waits", "Rude clients")?;
    let (mut survived, mut tried) = (0, 0);
    for rude in &RUDE {
        let does = rude.does;
        if let Some(why) = cannot_try(victim, rude) {
            writeln!(stdout(), "{does:<60} not tried: {why}")?;
            continue;
        }
        victim.waited.take();
        let verdict = watched(does, || {
            victim.start()?;
            (rude.act)(victim)?;
            victim.start()?;
            victim.answers()
        });
        tried += 1;
        survived += usize::from(verdict.is_ok());
        let waited = victim.waited.get();
        match verdict {
            Ok(()) => {
                let millis = 1e3 * waited.as_secs_f32();
                writeln!(stdout(), "{does:<60} survived {} {millis:.1} ms", bar(waited))?;
            }
            Err(why) => {
                writeln!(stdout(), "{does:<60} LOST: {why}")?;
                writeln!(stdout(), "    {} See docs/{}.", rude.means, rude.page)?;
                victim.kill(); // the next one meets a fresh server
            }
        }
    }
    let not_tried = match RUDE.len() - tried {
        0 => String::new(),
        count => format!(", {count} not tried"),
    };
    writeln!(stdout(), "survived {survived} of {tried}{not_tried}")?;
    Ok(survived == tried)
}

/// Why a client cannot be tried.
fn cannot_try(victim: &Victim, rude: &Rude) -> Option<String> {
    match rude.needs {
        Needs::Nothing => None,
        _ if !victim.is_ours() => Some("needs CMD='what starts it'".to_owned()),
        Needs::Process => None,
        Needs::Network => network::lacks(),
    }
}

/// Acts; on a terminal the seconds run meanwhile, where the verdict will stand.
fn watched(what: &str, act: impl FnOnce() -> Verdict) -> Verdict {
    if !stdout().is_terminal() {
        return act();
    }
    thread::scope(|scope| {
        let (acting, acted) = channel::<()>();
        scope.spawn(move || {
            let begun = Instant::now();
            loop {
                // In a narrow window the seconds stand further to the left.
                let width = window_columns(stdout()).map_or(60, |it| it.saturating_sub(8).min(60));
                let seconds = begun.elapsed().as_secs_f32();
                let _ = write!(stdout(), "\r{what:<width$.width$} {seconds:.1} s\r");
                let _ = stdout().flush();
                if acted.recv_timeout(TICK) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        let verdict = act();
        drop(acting);
        verdict
    })
}

/// A wait as one letter: each step is a little more than three times as long.
fn bar(waited: Duration) -> char {
    let steps = [1, 3, 10, 30, 100, 300, 1000];
    let longer = steps.iter().filter(|&&step| waited.as_millis() >= step).count();
    "▁▂▃▄▅▆▇█".chars().nth(longer).unwrap_or('█')
}
