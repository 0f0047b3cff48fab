//! What the rude clients do, and what it means if a server cannot bear one of them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::network;
use crate::victim::{PATIENCE, Verdict, Victim, read_until};

/// What it takes to try one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// An address.
    Nothing,
    /// A server that is started, watched and stopped here.
    Process,
    /// The same in a network of its own, with a cable that is slow or can be cut.
    Network,
}

/// A rude client.
pub(crate) struct Rude {
    /// What it does, as the table says it.
    pub(crate) does: &'static str,
    /// What it means if a server does not survive it.
    pub(crate) means: &'static str,
    /// The page below docs/ that explains it.
    pub(crate) page: &'static str,
    pub(crate) needs: Needs,
    pub(crate) act: fn(&Victim) -> Verdict,
}

const ALONE: &str = "While it waits for one client, it serves no other.";
const RESET: &str = "A failed call on one connection ends the whole server.";
const PIECES: &str = "It treats what one recv returns as a message; TCP has no messages.";
const UNSENT: &str = "What the kernel does not take at once is lost, or is waited for.";
const HALF: &str = "It treats EOF as the end of the connection.";
const BOUND: &str = "One client can fill its memory.";
const FULL: &str = "Without free descriptors it uses a whole CPU, or turns clients away.";
const STOP: &str = "A stop cuts off clients that it had accepted or answered.";

const fn rude(
    does: &'static str,
    (means, page): (&'static str, &'static str),
    needs: Needs,
    act: fn(&Victim) -> Verdict,
) -> Rude {
    Rude { does, means, page, needs, act }
}

use Needs::{Network, Nothing, Process};

pub(crate) const RUDE: [Rude; 32] = [
    rude(
        "100 clients connect and leave without a word",
        (RESET, "story/02-many-clients.md"),
        Nothing,
        |v| v.repeat(100, |_| Ok(())),
    ),
    rude("100 clients connect and reset", (RESET, "story/02-many-clients.md"), Nothing, |v| {
        v.repeat(100, reset)
    }),
    rude(
        "100 clients ask and leave before the answer",
        (RESET, "story/02-many-clients.md"),
        Nothing,
        |v| v.repeat(100, |c| c.write_all(b"bye\n")),
    ),
    rude(
        "100 clients ask and reset before the answer",
        (RESET, "story/02-many-clients.md"),
        Nothing,
        |v| v.repeat(100, ask_and_reset),
    ),
    rude(
        "a client ends its side before it has asked",
        (HALF, "story/06-half-close.md"),
        Nothing,
        |v| v.expect(b"", 0),
    ),
    rude(
        "a client asks, ends its side, waits for the answer",
        (HALF, "story/06-half-close.md"),
        Nothing,
        |v| v.expect(b"half\n", 1),
    ),
    rude(
        "a line that comes a byte at a time",
        (PIECES, "story/03-whole-lines.md"),
        Nothing,
        byte_at_a_time,
    ),
    rude(
        "10,000 lines at once, and the end of the client's side",
        (HALF, "story/06-half-close.md"),
        Nothing,
        pipelined,
    ),
    rude(
        "600,000 empty lines and the end, answers read late",
        (HALF, "story/06-half-close.md"),
        Nothing,
        empty_lines,
    ),
    rude("bytes that are no text", (PIECES, "story/03-whole-lines.md"), Nothing, |v| {
        v.flood_and_look(b"\0\xff\xfe\x80\r\r\n\x1b[2J\0\n")
    }),
    rude("a line of 4 MB", (BOUND, "story/05-bounds.md"), Nothing, |v| {
        v.flood_and_look(&vec![b'x'; 4 << 20])
    }),
    rude("urgent data", (RESET, "09-receiving.md"), Nothing, urgent),
    rude("a client that never reads", (UNSENT, "story/04-unsent-bytes.md"), Nothing, |v| {
        v.beside(1, deaf)
    }),
    rude("20 clients that never read", (UNSENT, "story/04-unsent-bytes.md"), Nothing, |v| {
        v.beside(20, deaf)
    }),
    rude(
        "200 clients that send half a line and stop",
        (ALONE, "story/02-many-clients.md"),
        Nothing,
        |v| v.beside(200, |c| c.write_all(b"half a li")),
    ),
    rude("500 clients at once, each answered", (ALONE, "story/02-many-clients.md"), Nothing, crowd),
    rude(
        "a client that reads a byte at a time, through a small window",
        (UNSENT, "story/04-unsent-bytes.md"),
        Nothing,
        small_window,
    ),
    rude(
        "a client that resets in the middle of a long answer",
        (RESET, "story/02-many-clients.md"),
        Nothing,
        reset_in_an_answer,
    ),
    rude(
        "a client that ends both directions and stays",
        (RESET, "story/06-half-close.md"),
        Nothing,
        |v| v.beside(1, |c| c.shutdown(Shutdown::Both)),
    ),
    rude(
        "2,000 short connections, one after the other",
        (ALONE, "story/02-many-clients.md"),
        Nothing,
        |v| v.repeat(2_000, ask_once),
    ),
    rude(
        "16 MB of answers, read late and counted to the byte",
        (UNSENT, "story/04-unsent-bytes.md"),
        Nothing,
        late_reader,
    ),
    rude(
        "an answer in front of a line without end, read late",
        (
            "It closes with input unread: the kernel resets, and the reset destroys the answer.",
            "story/07-lingering-close.md",
        ),
        Nothing,
        refused,
    ),
    rude(
        "clients that are silent, deaf, half gone: is it at rest?",
        (
            "It watches for events that it does not handle, and is woken again and again.",
            "story/05-bounds.md",
        ),
        Process,
        rests_beside,
    ),
    rude(
        "the end, then a reset: is the connection closed?",
        (
            "A connection that is not watched stays open, or the loop spins.",
            "story/06-half-close.md",
        ),
        Process,
        end_then_reset,
    ),
    rude(
        "a line without end, and 20 clients that never read: memory",
        (BOUND, "story/05-bounds.md"),
        Process,
        memory,
    ),
    rude(
        "more clients than it has descriptors",
        (FULL, "story/08-out-of-descriptors.md"),
        Process,
        out_of_descriptors,
    ),
    rude(
        "silent clients in every place, and one that asks",
        ("A silent client keeps its place forever.", "story/09-time.md"),
        Process,
        silent_crowd,
    ),
    rude(
        "5 clients whose questions take long",
        ("A question that takes long stops everybody.", "story/10-slow-work.md"),
        Process,
        |v| v.beside(5, |c| c.write_all(b"slow\n")),
    ),
    rude(
        "10 clients whose questions take long, and who reset",
        ("An answer goes to another client, who has the number now.", "story/11-names.md"),
        Process,
        answers_of_others,
    ),
    rude(
        "SIGTERM with questions under way",
        (STOP, "story/12-a-stop-that-loses-nothing.md"),
        Process,
        stopped,
    ),
    rude("SIGTERM with a handshake under way", (STOP, "14-stopping.md"), Network, |v| {
        network::slow_handshake(v)
    }),
    rude(
        "SIGTERM with the cable cut amid a long answer",
        ("A client that has vanished keeps the server from exiting.", "14-stopping.md"),
        Network,
        network::cut_cable,
    ),
];

/// Lets the close that follows be a reset.
fn reset(client: &mut TcpStream) -> io::Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(client, sockopt::Linger, &at_once)?)
}

fn ask_and_reset(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"bye\n")?;
    reset(client)
}

fn ask_once(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"once\n")?;
    read_until(client, b"once")?;
    reset(client) // so that the client's ports last
}

/// Sends until nothing more is taken, and never reads.
pub(crate) fn deaf(client: &mut TcpStream) -> io::Result<()> {
    client.set_write_timeout(Some(Duration::from_millis(100)))?;
    for _ in 0..256 {
        client.write_all(&b"does anybody listen?\n".repeat(1_000))?;
    }
    Ok(())
}

fn byte_at_a_time(victim: &Victim) -> Verdict {
    const LINE: &[u8] = b"one by one\n";
    let talk = || {
        let mut client = victim.connect()?;
        for byte in LINE {
            client.write_all(std::slice::from_ref(byte))?;
            thread::sleep(Duration::from_millis(2)); // each is to be a segment of its own
        }
        client.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer)?;
        Ok(answer)
    };
    match talk().map_err(|error: io::Error| error.to_string())? {
        answer if answer.ends_with(LINE) => Ok(()),
        answer => Err(format!("the answer is {:?}", String::from_utf8_lossy(&answer))),
    }
}

/// Writes and reads at the same time, as a client must that sends more than fits on the way.
fn pipelined(victim: &Victim) -> Verdict {
    whole_lines(victim, b"line\n", 10_000, Duration::ZERO)
}

/// Says much in little, ends its side, and takes the answers late: more than a kernel keeps.
fn empty_lines(victim: &Victim) -> Verdict {
    whole_lines(victim, b"\n", 600_000, Duration::from_millis(300))
}

/// Sends a line `count` times and then the end, and reads, after a pause, an answer to each.
fn whole_lines(victim: &Victim, line: &'static [u8], count: usize, pause: Duration) -> Verdict {
    let talk = || {
        let mut client = victim.connect()?;
        let mut reader = client.try_clone()?;
        if !pause.is_zero() {
            client.set_write_timeout(Some(Duration::from_secs(10)))?;
        }
        let reading = thread::spawn(move || {
            thread::sleep(pause);
            let mut answer = Vec::new();
            reader.read_to_end(&mut answer)?;
            Ok::<_, io::Error>(answer)
        });
        client.write_all(&line.repeat(count))?;
        client.shutdown(Shutdown::Write)?;
        reading.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    };
    let answer = talk().map_err(|error: io::Error| error.to_string())?;
    let lines = answer.split_inclusive(|&byte| byte == b'\n');
    match lines.filter(|answer| answer.ends_with(line)).count() {
        whole if whole == count => Ok(()),
        whole => Err(format!("{whole} of {count} answers")),
    }
}

/// Clients ask what takes long and reset, and others come in their places, who ask nothing yet.
fn answers_of_others(victim: &Victim) -> Verdict {
    victim.start_with("")?; // so that nothing is under way from before
    victim.answers()?;
    let settled = Instant::now() + PATIENCE;
    let free = victim.descriptors()?;
    let mut asking = victim.connect_many(10)?;
    for client in &mut asking {
        let _ = client.write_all(b"slow: a secret\n");
    }
    thread::sleep(Duration::from_millis(200)); // they are read
    asking.iter_mut().for_each(|client| drop(reset(client)));
    drop(asking);
    while victim.descriptors()? > free && Instant::now() < settled {
        thread::sleep(Duration::from_millis(10));
    }
    let mut silent = victim.connect_many(5)?;
    thread::sleep(Duration::from_millis(1_500));
    for client in &mut silent {
        client.set_nonblocking(true).map_err(|error| error.to_string())?;
        if let Ok(1..) = client.read(&mut [0; 64]) {
            return Err("a client hears what it has not asked".into());
        }
    }
    Ok(())
}

fn urgent(victim: &Victim) -> Verdict {
    use nix::sys::socket::{MsgFlags, send};
    use std::os::fd::AsRawFd;
    let client = victim.connect().map_err(|error| error.to_string())?;
    let _ = send(client.as_raw_fd(), b"now!\n", MsgFlags::MSG_OOB);
    victim.answers()
}

fn crowd(victim: &Victim) -> Verdict {
    let clients: io::Result<Vec<TcpStream>> = (0..500).map(|_| victim.connect()).collect();
    let mut clients = clients.map_err(|error| format!("connect: {error}"))?;
    let mut all = || {
        clients.iter_mut().try_for_each(|client| client.write_all(b"one of many\n"))?;
        clients.iter_mut().try_for_each(|client| read_until(client, b"one of many"))
    };
    all().map_err(|error: io::Error| error.to_string())
}

fn small_window(victim: &Victim) -> Verdict {
    let talk = || {
        let mut client = victim.connect()?;
        setsockopt(&client, sockopt::RcvBuf, &1)?; // the kernel's least
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        client.write_all(&b"step by step\n".repeat(100))?;
        client.shutdown(Shutdown::Write)?;
        let (mut lines, mut byte) = (0, [0]);
        while client.read(&mut byte)? > 0 {
            lines += usize::from(byte == *b"\n");
        }
        Ok(lines)
    };
    match talk().map_err(|error: io::Error| error.to_string())? {
        100 => Ok(()),
        seen => Err(format!("{seen} of 100 answers")),
    }
}

fn reset_in_an_answer(victim: &Victim) -> Verdict {
    let mut client = victim.connect().map_err(|error| error.to_string())?;
    let _ = deaf(&mut client);
    let _ = client.read(&mut [0; 100]);
    reset(&mut client).map_err(|error| error.to_string())
}

/// Asks for 16 MB, and reads only when the server has had time to fill every buffer.
fn late_reader(victim: &Victim) -> Verdict {
    const LINES: usize = 16_000;
    let line = |number: usize| format!("{number:06} {:993}\n", "of many");
    let mut client = victim.connect().map_err(|error| format!("connect: {error}"))?;
    let mut writer = client.try_clone().map_err(|error| error.to_string())?;
    let asking = thread::spawn(move || {
        // The server may stop reading until its answers are read; it is not to blame for that.
        let _ = writer.set_write_timeout(Some(Duration::from_secs(10)));
        let asked = (0..LINES).try_for_each(|number| writer.write_all(line(number).as_bytes()));
        let _ = writer.shutdown(Shutdown::Write);
        asked
    });
    thread::sleep(Duration::from_millis(500));
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    let asked = asking.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
    let lines: Vec<&[u8]> = answer.split_inclusive(|&byte| byte == b'\n').collect();
    let is_whole = |(number, it): (usize, &&[u8])| it.ends_with(line(number).as_bytes());
    let whole = lines.iter().enumerate().take_while(|it| is_whole(*it)).count();
    match (whole, read.and(asked)) {
        (LINES, Ok(())) if lines.len() == LINES => Ok(()),
        (whole, Err(error)) => Err(format!("{whole} of {LINES} answers, then {error}")),
        (whole, Ok(())) => Err(format!("{whole} of {LINES} answers are whole")),
    }
}

/// A whole line, then one that does not end; a client that writes all before it reads, and
/// gives up when it cannot write, as most do.
fn refused(victim: &Victim) -> Verdict {
    let mut client = victim.connect().map_err(|error| format!("connect: {error}"))?;
    let mut talk = || {
        client.write_all(b"first things first\n")?;
        client.set_write_timeout(Some(Duration::from_secs(2)))?;
        match client.write_all(&vec![b'x'; 8 << 20]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // an echo, read by nobody
            written => written?,
        }
        read_until(&mut client, b"first things first")
    };
    talk().map_err(|error: io::Error| format!("the answer to the line before it: {error}"))
}

/// Three that stay, and the server has nothing to do for any of them.
fn rests_beside(victim: &Victim) -> Verdict {
    let mut clients = victim.connect_many(3)?;
    for (client, act) in clients.iter_mut().zip([ask, deaf, finish_and_stay]) {
        let _ = act(client);
    }
    victim.answers()?;
    victim.rests()
}

fn ask(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"and now silence\n")?;
    read_until(client, b"and now silence")
}

/// Ends its side while the answers that it does not read are still to come.
fn finish_and_stay(client: &mut TcpStream) -> io::Result<()> {
    deaf(client)?;
    client.shutdown(Shutdown::Write)
}

/// As `finish_and_stay`, and then resets: nobody is there any more.
fn end_then_reset(victim: &Victim) -> Verdict {
    victim.answers()?;
    thread::sleep(Duration::from_millis(200));
    let before = victim.descriptors()?;
    for _ in 0..10 {
        let mut client = victim.connect().map_err(|error| format!("connect: {error}"))?;
        let _ = deaf(&mut client);
        let _ = client.shutdown(Shutdown::Write);
        thread::sleep(Duration::from_millis(20)); // so that the end is seen first
        let _ = reset(&mut client);
    }
    victim.answers()?;
    until("it to close the connections of clients that have gone", || {
        Ok(victim.descriptors()? <= before)
    })?;
    victim.rests()
}

/// Waits for a condition, and says what has not come.
fn until(what: &str, is_so: impl Fn() -> Result<bool, String>) -> Verdict {
    let end = Instant::now() + Duration::from_secs(5);
    while !is_so()? {
        if Instant::now() > end {
            return Err(format!("waited 5 s for {what}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What one sends without a line end, and what 20 do not read, must not all be kept.
fn memory(victim: &Victim) -> Verdict {
    const MOST: usize = 48;
    let before = victim.megabytes()?;
    let mut clients = victim.connect_many(21)?;
    for (number, client) in clients.iter_mut().enumerate() {
        client.set_write_timeout(Some(Duration::from_millis(200))).map_err(|it| it.to_string())?;
        let line = vec![if number == 0 { b'x' } else { b'\n' }; 65_536];
        // 64 MB of one line; or 2 MB of empty lines, which are 28 times as much in answers.
        let pieces = if number == 0 { 1_000 } else { 32 };
        let _ = (0..pieces).try_for_each(|_| client.write_all(&line));
    }
    match victim.megabytes()?.saturating_sub(before) {
        0..MOST => Ok(()),
        more => Err(format!("it uses {more} MB more")),
    }
}

/// With 40 descriptors, 60 clients: those that fit are answered, the others when some leave.
fn out_of_descriptors(victim: &Victim) -> Verdict {
    victim.start_with("ulimit -n 40")?;
    let mut clients = victim.connect_many(60)?;
    for client in &mut clients {
        client.write_all(b"let me in\n").map_err(|error| error.to_string())?;
    }
    let verdict = victim.rests().and_then(|()| {
        let mut answered = 0;
        // Each that is served leaves, and makes a place.
        while let Some(mut client) = (!clients.is_empty()).then(|| clients.remove(0)) {
            read_until(&mut client, b"let me in")
                .map_err(|error| format!("{answered} of 60 were answered, then {error}"))?;
            answered += 1;
        }
        victim.answers()
    });
    victim.kill();
    verdict
}

/// As many as there are descriptors, none of which says a word.
fn silent_crowd(victim: &Victim) -> Verdict {
    victim.start_with("ulimit -n 40")?;
    let silent = victim.connect_many(60)?;
    let end = Instant::now() + Duration::from_secs(10);
    let mut asks = victim.connect().map_err(|error| format!("connect: {error}"))?;
    asks.write_all(b"is there no place?\n").map_err(|error| error.to_string())?;
    let mut verdict = Err("no place within 10 s".to_owned());
    while verdict.is_err() && Instant::now() < end {
        verdict = read_until(&mut asks, b"is there no place?").map_err(|it| it.to_string());
    }
    drop(silent);
    victim.kill();
    verdict.map_err(|why| format!("one that asks: {why}"))
}

/// Questions of clients it has, questions in its queue, and a long answer, all under way when
/// SIGTERM comes. Each gets what it asked for, and then an orderly end.
fn stopped(victim: &Victim) -> Verdict {
    victim.answers()?;
    let mut clients = victim.connect_many(20)?;
    for client in &mut clients {
        ask(client).map_err(|error| format!("a polite client: {error}"))?;
    }
    victim.signal(Signal::SIGSTOP)?;
    clients.extend(victim.connect_many(5)?);
    for client in &mut clients {
        client.write_all(b"one last question\n").map_err(|error| error.to_string())?;
    }
    victim.signal(Signal::SIGTERM)?;
    victim.signal(Signal::SIGCONT)?;
    let mut lost = 0;
    for client in &mut clients {
        let mut answer = Vec::new();
        let is_orderly = client.read_to_end(&mut answer).is_ok();
        lost += usize::from(!is_orderly || !answer.ends_with(b"one last question\n"));
    }
    if lost > 0 {
        return Err(format!("{lost} of 25 clients had no answer, or a reset behind it"));
    }
    victim.ends()?;
    victim.start()?;
    let pid = Pid::from_raw(victim.pid()?);
    let stopping = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        kill(pid, Signal::SIGTERM)
    });
    whole_lines(victim, b"\n", 65_536, Duration::from_millis(600))?;
    let _ = stopping.join();
    victim.ends()?;
    victim.start()
}
