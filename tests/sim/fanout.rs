//! Output to many, under the simulated kernel: what goes in one call, whatever the kernel takes
//! of it and fails with; and how much one packet can make the server do.

use crate::simulation::journal::{errnos, is_a_lie};
use crate::simulation::stage::TIMES;
use crate::simulation::{Report, World};
use std::time::Duration;
use threadbare::framing::{Frame, Lines};
use threadbare::kernel::sim::{At, Client, Method, Short, Simulated, Times};
use threadbare::{CloseReason, Conn, ConnectionHandler, Errno, Limits, Net, Signal};

/// The handler that everybody writes first: each line goes to all the others, and its talker
/// is told that it was heard.
#[derive(Default)]
struct Naive {
    /// How often somebody had to stop because it was full, and was told to go on.
    stopped: usize,
    drained: usize,
    /// It waits for [`END`].
    waits: bool,
}

/// Stands behind all lines of somebody, for one that waits for them.
const END: &[u8] = b"\0";

impl ConnectionHandler for Naive {
    type Session = Lines;

    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        if self.waits && !input.ends_with(END) {
            return 0;
        }
        let mut rest = input;
        while !conn.is_full() {
            let Frame::Whole { raw, body } = lines.next(&mut rest, 1 << 20) else { break };
            let id = conn.id();
            let net = conn.net();
            let others: Vec<_> = net.ids().filter(|other| *other != id).collect();
            others.into_iter().for_each(|other| assert!(net.send(other, raw)));
            if !body.is_empty() {
                writeln!(conn, "heard {}", body.len());
            }
        }
        self.stopped += usize::from(conn.is_full());
        input.len() - if rest == END { 0 } else { rest.len() }
    }

    fn on_drain(&mut self, _: &mut Conn<'_>, _: &mut Lines) {
        self.drained += 1;
    }
}

fn room(count: usize, limits: Limits) -> (World<Naive>, Vec<Client>) {
    let sim = Simulated::new(1);
    sim.set_limits(4_096, 4_096);
    let mut world = World::on(sim, Naive::default(), limits).unwrap();
    let members = (0..count).map(|_| world.client()).collect();
    world.rest();
    (world, members)
}

fn heard(member: &mut Client) -> String {
    String::from_utf8(member.recv()).unwrap()
}

/// 20 lines in one packet to 49 members were 980 sends.
#[test]
fn everything_for_one_goes_in_one_call() {
    let (mut world, mut members) = room(50, Limits::default());
    let lines: String = (0..20).map(|at| format!("line {at}\n")).collect();
    let before = world.sim.count(Method::Send);
    members[0].send(lines.as_bytes());
    world.rest();
    assert_eq!(world.sim.count(Method::Send) - before, 50);
    assert_eq!(heard(&mut members[0]).lines().count(), 20);
    assert!(members[1..].iter_mut().all(|member| heard(member) == lines));
    world.stop();
}

/// It does not matter who talks, and whether in one packet: what comes in one batch goes at its
/// end, to everybody once.
#[test]
fn a_batch_of_talkers_is_joined() {
    let (mut world, mut members) = room(100, Limits::default());
    let before = world.sim.count(Method::Send);
    members.iter_mut().take(60).for_each(|member| assert_eq!(member.send(b"hi\nho\n"), 6));
    world.rest();
    assert_eq!(world.sim.count(Method::Send) - before, 100);
    for (at, member) in members.iter_mut().enumerate() {
        let text = heard(member);
        let (talks, others) = if at < 60 { (2, 59) } else { (0, 60) };
        assert_eq!(text.matches("heard 2\n").count(), talks);
        assert_eq!(text.matches("hi\nho\n").count(), others);
    }
    world.stop();
}

/// Lines of which the longer ones are pieces of their own.
fn lines() -> Vec<u8> {
    let lengths = [10, 3_000, 20, 30, 5_000, 4_000, 1];
    let line =
        |(at, length): (usize, usize)| [vec![b'a' + at as u8; length], b"\n".into()].concat();
    lengths.into_iter().enumerate().flat_map(line).collect()
}

/// What one case came to: how many times the fault struck. Nobody is told anything before all
/// lines are there, however short the transfers.
fn play(errno: Option<Errno>, times: Times, short: Short) -> usize {
    let limits = Limits { write_timeout: Some(Duration::from_secs(20)), ..Limits::default() };
    let (mut world, mut members) = room(3, limits);
    world.server.handle().call(|naive: &mut Naive, _: &mut Net| naive.waits = true).unwrap();
    world.rest();
    world.sim.take_trace();
    world.sim.shorten(short);
    if let Some(errno) = errno {
        world.sim.fail(At::Of(Method::Sendmsg, 0), errno, times);
    }
    members[0].send(&lines());
    members[0].send(END);
    let (due, mut received) = (lines(), vec![Vec::new(); 3]);
    for round in 0..20 {
        if round == 10 {
            world.sim.heal();
        }
        world.pass(Duration::from_millis(500));
        let members = members.iter_mut().zip(&mut received);
        members.for_each(|(member, received)| received.extend(member.recv()));
    }
    for (member, received) in members.iter().zip(&received).skip(1) {
        let ended = member.saw_reset() || member.saw_eof();
        assert!(due.starts_with(received), "wrong bytes, after {} of them", received.len());
        assert!(*received == due || ended, "stuck after {} of {}", received.len(), due.len());
        assert!(errno.is_some() || !ended);
    }
    assert!(world.sim.count(Method::Sendmsg) >= 2);
    world.sim.trace().iter().filter(|call| call.injected).count()
}

/// Pieces in several places go with one call, and it may end within any of them.
#[test]
fn pieces_go_together_wherever_the_kernel_cuts() {
    play(None, Times::Once, Short::Full);
    let total = lines().len();
    for most in (3..60).step_by(2).chain((60..total).step_by(97)).chain([total - 1, total]) {
        let case = format!("at most {most} bytes");
        let _report = Report(&case);
        play(None, Times::Once, Short::AtMost(most));
    }
}

#[test]
fn every_errno_of_sendmsg() {
    let mut struck = 0;
    for &errno in errnos(Method::Sendmsg) {
        for (name, times) in TIMES {
            for short in [Short::Full, Short::AtMost(700), Short::Random] {
                let case = format!("{errno:?} {name} {short:?}");
                let _report = Report(&case);
                if !is_a_lie(Method::Sendmsg, errno, times) {
                    struck += play(Some(errno), times, short);
                }
            }
        }
    }
    assert!(struck >= 200, "{struck} faults struck");
}

/// 64 KiB of empty lines by one of 200: what waits is bounded, the talker is held up and goes
/// on when it is sent, and nobody else waits.
#[test]
fn a_packet_of_empty_lines_is_bounded() {
    const COUNT: usize = 200;
    let limits = Limits { max_memory: 16 << 20, ..Limits::default() };
    let (mut world, mut members) = room(COUNT, limits);
    world.sim.set_buffers(4 << 20, 4 << 20);
    members[1].send(&[b'\n'; 65_536]);
    members[2].send(b"and me\n");
    let (mut received, mut others, mut turns, mut most) = (0, 0, 0, 0);
    while received < 65_536 {
        world.turn();
        let text = heard(&mut members[0]);
        turns += 1;
        others += text.matches("and me\n").count();
        // The talker spends a whole turn's share of work: the next turn goes on with the others.
        assert!(others == 1 || turns < 2, "it waits for all the others' lines");
        received += text.matches('\n').count() - text.matches("and me\n").count();
        most = most.max(text.len());
        assert!(turns < 1_000);
    }
    // A share of the budget: an eighth of what is left, and each line counts 17 bytes.
    assert!((300..1_000).contains(&most), "{most} in one turn");
    let handler = world.server.handler();
    assert!(handler.stopped > 10 && handler.drained >= handler.stopped, "{}", handler.drained);
    assert!(members[3..].iter_mut().all(|member| heard(member).len() == 65_536 + 7));
    assert_eq!(world.server.memory().0, world.server.memory().1);
    world.stop();
}

/// What many do not take would be kept for each of them: the budget bounds that, too.
#[test]
fn what_many_do_not_take_is_bounded() {
    const COUNT: usize = 100;
    let limits = Limits { max_memory: 4 << 20, ..Limits::default() };
    let (mut world, mut members) = room(COUNT, limits);
    world.sim.set_buffers(1_000, 1_000);
    let line = [&[b'x'; 59_999][..], b"\n"].concat();
    let mut most = 0;
    for _ in 0..60 {
        members[0].send(&line);
        world.turn();
        members[0].recv();
        most = most.max(world.server.memory().0);
    }
    world.rest();
    assert!(most <= 4 << 20, "{most} bytes");
    let counters = world.stop().counters;
    assert!(counters.closed_for(CloseReason::MemoryBudget) > 0);
}

/// Writes as much as it is asked for, at once.
struct Large;

impl ConnectionHandler for Large {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let length = std::str::from_utf8(input).unwrap().trim().parse().unwrap();
        conn.write(&vec![b'x'; length]);
        input.len()
    }
}

/// A client that owes nothing gets an answer whole, though it be longer than what may wait; the
/// next, which finds the rest of it waiting, is too much.
#[test]
fn one_large_answer_is_taken() {
    let limits = Limits { max_output: 1 << 20, ..Limits::default() };
    let mut world = World::new(Large, limits);
    let mut client = world.client();
    for _ in 0..2 {
        let mut received = world.ask(&mut client, b"5000000\n").len();
        for _ in 0..1_000 {
            world.rest();
            received += client.recv().len();
        }
        assert_eq!(received, 5_000_000);
    }
    client.send(b"5000000\n");
    world.rest();
    let more = |_: &mut Large, net: &mut Net| {
        let id = net.ids().next().unwrap();
        assert!(net.send(id, b"x"));
    };
    world.server.handle().call(more).unwrap();
    world.rest();
    assert!(world.sim.signal(Signal::SIGTERM));
    world.pass(Duration::from_secs(20));
    let counters = world.server.finish().unwrap().counters;
    assert_eq!(counters.closed_for(CloseReason::OutputLimit), 1);
}
