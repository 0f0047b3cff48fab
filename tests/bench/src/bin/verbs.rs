//! Does something with the library so many times, for the bench to count what one costs.
//!
//! `verbs NAME COUNT` sets everything up, does it COUNT times, and ends. The same with another
//! COUNT differs in nothing else, so the difference is what these cost. The server, and the
//! clients that there have to be, are on one thread, except for `ask`.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use threadbare::{Address, Conn, ConnectionHandler, Net, Server, TimerId};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Timers that there are already, and members of the group.
const TIMERS: u64 = 10_000;
const MEMBERS: usize = 200;
/// What is sent to all of them.
const LINE: &[u8] = b"a line as people write them, 33 b\n";

/// Sends each message back.
#[derive(Default)]
struct Counted {
    /// Each message sets the timer of its connection.
    sets_timer: bool,
    ticks: u64,
}

impl ConnectionHandler for Counted {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        if self.sets_timer {
            conn.set_timer(Some(DAY));
        }
        conn.write(input);
        input.len()
    }

    fn on_tick(&mut self, _: &mut Net, _: TimerId, _: u64) {
        self.ticks += 1;
    }
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = &words[..] else { return Err("usage: verbs NAME COUNT".into()) };
    let count = count.parse()?;
    let mut server = Server::builder(Counted::default()).bind("127.0.0.1:0")?;
    match &**name {
        "message" => messages(server, count),
        "message_beside_timers" => {
            with(&mut server, |_, net| _ = fill(net))?;
            messages(server, count)
        }
        "message_that_sets_a_timer" => {
            server.handler_mut().sets_timer = true;
            messages(server, count)
        }
        "after" => with(&mut server, move |_, net| {
            fill(net);
            (0..count).for_each(|token| _ = net.after(delay(token), token));
        }),
        "cancel" => with(&mut server, move |_, net| {
            fill(net).into_iter().take(count as usize).for_each(|timer| _ = net.cancel(timer));
        }),
        "on_tick" => rings(server, count),
        "join" => group(server, move |net| {
            let ids: Vec<_> = net.ids().collect();
            for at in 0..count as usize {
                net.join("other", ids[at % MEMBERS]);
                net.leave("other", ids[at % MEMBERS]);
            }
        }),
        "send_group" => group_lines(server, count, 1),
        "send_group_20" => group_lines(server, count, 20),
        "call" => with(&mut server, |_, _| ()).and_then(|()| {
            (0..count).try_for_each(|_| with(&mut server, |counted, _| counted.ticks += 1))
        }),
        "ask" => ask(server, count),
        _ => Err("no verb is called so".into()),
    }
}

/// Calls into the server, and lets it make the call.
fn with(
    server: &mut Server<Counted>,
    act: impl FnOnce(&mut Counted, &mut Net) + Send + 'static,
) -> Outcome<()> {
    server.handle().call(act)?;
    server.turn()?;
    Ok(())
}

/// Later than a day, and in no order.
fn delay(token: u64) -> Duration {
    DAY + Duration::from_millis(token.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)
}

fn fill(net: &mut Net) -> Vec<TimerId> {
    (0..TIMERS).map(|token| net.after(delay(token), token)).collect()
}

/// The first of twice as many as there are already.
fn rings(mut server: Server<Counted>, count: u64) -> Outcome<()> {
    with(&mut server, move |_, net| {
        let at = |token| if token < count { Duration::ZERO } else { delay(token) };
        (0..2 * TIMERS).for_each(|token| _ = net.after(at(token), token));
    })?;
    while server.handler().ticks < count {
        server.turn()?;
    }
    Ok(())
}

fn connect(server: &mut Server<Counted>, count: usize) -> Outcome<Vec<TcpStream>> {
    let Some(Address::Tcp(address)) = server.addresses().first().cloned() else {
        return Err("no address".into());
    };
    let mut clients = Vec::new();
    while clients.len() < count {
        clients.push(TcpStream::connect(address)?);
        while server.open() < clients.len() {
            server.turn()?;
        }
    }
    Ok(clients)
}

fn messages(mut server: Server<Counted>, count: u64) -> Outcome<()> {
    let clients = connect(&mut server, 1)?;
    for _ in 0..count {
        (&clients[0]).write_all(LINE)?;
        server.turn()?;
        (&clients[0]).read_exact(&mut [0; LINE.len()])?;
    }
    Ok(())
}

fn group(mut server: Server<Counted>, act: impl FnOnce(&mut Net) + Send + 'static) -> Outcome<()> {
    let clients = connect(&mut server, MEMBERS)?;
    with(&mut server, |_, net| net.ids().for_each(|id| _ = net.join("room", id)))?;
    with(&mut server, move |_, net| act(net))?;
    drop(clients);
    Ok(())
}

/// So many turns, in each of which all members are sent some lines.
fn group_lines(mut server: Server<Counted>, count: u64, lines: usize) -> Outcome<()> {
    let mut clients = connect(&mut server, MEMBERS)?;
    with(&mut server, |_, net| net.ids().for_each(|id| _ = net.join("room", id)))?;
    for _ in 0..count / lines as u64 {
        with(&mut server, move |_, net| {
            (0..lines).for_each(|_| _ = net.send_group("room", LINE, None));
        })?;
    }
    for client in &mut clients {
        client.shutdown(Shutdown::Write)?;
    }
    Ok(())
}

fn ask(server: Server<Counted>, count: u64) -> Outcome<()> {
    let server = server.spawn()?;
    let handle = server.handle();
    for _ in 0..count {
        handle.ask(|counted, _| counted.ticks)?;
    }
    handle.stop();
    server.join()?;
    Ok(())
}
