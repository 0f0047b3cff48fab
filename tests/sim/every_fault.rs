//! Layer L1 of the tests of faults: scenarios × every call × every errno of that call ×
//! once, in a burst, until healed × whole, one-byte and random transfers, and links that
//! take their time; and pairs (see `simulation/case.rs`).
//!
//! A failure prints a line that replays it alone:
//! `CASE='dialogue:31:EPIPE:once:full' cargo test --test sim every_fault::`;
//! a second fault of a pair stands behind: `…:full+35:EMFILE`.

use crate::proxy;
use crate::simulation::case::{Case, Repertoire};
use crate::simulation::judge::judge_start;
use crate::simulation::parts::{Chorus, OneGuest, Part};
use crate::simulation::stage::{FRONT, Outcome, Stage, TCP, UNIX, Verdict, WAYS, leave_stale_file};
use std::time::Duration;
use threadbare::handlers::Framing;
use threadbare::kernel::sim::Simulated;
use threadbare::{CloseReason, Limits, Signal};

struct Scenario {
    name: &'static str,
    addresses: &'static [&'static str],
    max_connections: u32,
    max_per_address: u32,
    script: Script,
}

/// What happens, and to which handler.
enum Script {
    Chorus(fn(&mut Stage<Chorus>)),
    OneGuest(fn(&mut Stage<OneGuest>)),
}

const fn scenario(name: &'static str, script: fn(&mut Stage<Chorus>)) -> Scenario {
    let (max_connections, max_per_address) = (4, 0);
    let script = Script::Chorus(script);
    Scenario { name, addresses: &[TCP], max_connections, max_per_address, script }
}

const SCENARIOS: [Scenario; 24] = [
    scenario("dialogue", dialogue),
    scenario("pipelined", pipelined),
    scenario("half-close", half_close),
    scenario("reset", reset),
    scenario("slow-reader", slow_reader),
    Scenario { max_connections: 2, ..scenario("full-house", full_house) },
    Scenario { max_connections: 2, ..scenario("drain", drain) },
    scenario("deadline", deadline),
    scenario("second-signal", second_signal),
    scenario("broadcast", broadcast),
    scenario("fan-out", fan_out),
    scenario("timers", timers),
    Scenario { addresses: &[UNIX], ..scenario("unix", dialogue) },
    Scenario { addresses: &[TCP, UNIX], max_connections: 2, ..scenario("doors", doors) },
    scenario("handle", handle),
    scenario("held", held),
    scenario("leaps", leaps),
    scenario("goodbyes", goodbyes),
    scenario("finished", finished),
    Scenario { script: Script::OneGuest(once), ..scenario("once", dialogue) },
    Scenario { max_per_address: 2, ..scenario("neighbours", neighbours) },
    scenario("clogged", clogged),
    Scenario { addresses: &[FRONT], ..scenario("front", dialogue) },
    Scenario { addresses: &[FRONT], max_per_address: 2, ..scenario("front-crowd", neighbours) },
];

fn dialogue(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">");
    stage.pass(10);
    stage.hesitate(one);
    stage.say(other, ">");
    stage.listen(10);
    stage.end(one);
    stage.listen(10);
}

/// Many lines at once, and answers that fill all there is.
fn pipelined(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">>*>>");
    stage.say(other, ">>>>");
    stage.pass(10);
    stage.say(one, ">*>");
    stage.listen(10);
}

/// The end is sent before the first byte is read.
fn half_close(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">>");
    stage.mumble(one, ">00 rest");
    stage.end(one);
    stage.end(other);
    stage.listen(10);
    // What the end made a message is answered after a while.
    let patient = stage.join();
    stage.mumble(patient, "z00 rest");
    stage.end(patient);
    stage.pass(10);
    stage.listen(2_000);
    // The end comes when answers wait, and a reset soon after.
    for turns in 0..4 {
        let rude = stage.join();
        stage.say(rude, "**>");
        stage.pass(10);
        stage.hear(rude, 200);
        stage.end(rude);
        (0..turns).for_each(|_| stage.turn());
        stage.leave(rude, true);
        stage.pass(10);
    }
}

fn reset(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    let early = stage.join();
    stage.leave(early, true);
    stage.say(one, ">>");
    stage.pass(10);
    stage.say(other, ">");
    stage.last_words(one);
    stage.pass(10);
    let last = stage.join(); // in the descriptor of the other
    stage.say(last, "*");
    stage.pass(10);
    stage.leave(last, false);
    stage.listen(10);
}

fn slow_reader(stage: &mut Stage) {
    let (slow, other, rude) = (stage.join(), stage.join(), stage.join());
    stage.say(slow, "**>");
    stage.say(rude, "**>");
    for _ in 0..4 {
        stage.pass(100);
        stage.hear(slow, 40);
    }
    stage.say(other, ">");
    stage.leave(rude, true);
    stage.say(slow, ">");
    stage.end(slow);
    stage.pass(100);
    stage.hear(slow, 60);
    stage.listen(100);
}

/// More clients than there is room for: the others wait until somebody goes.
fn full_house(stage: &mut Stage) {
    let all: Vec<usize> = (0..5).map(|_| stage.join()).collect();
    all.iter().for_each(|&who| stage.say(who, ">"));
    stage.listen(10);
    stage.leave(all[0], false);
    stage.pass(10);
    for who in &all[1..] {
        stage.end(*who);
        stage.listen(10);
    }
}

/// A stop while some are served, some wait for their answers, and some in the queue.
fn drain(stage: &mut Stage) {
    let all: Vec<usize> = (0..4).map(|_| stage.join()).collect();
    stage.pass(10);
    all.iter().for_each(|&who| stage.say(who, ">"));
    stage.mumble(all[1], "half a li");
    stage.say(all[2], "*");
    stage.signal(Signal::SIGTERM);
    stage.pass(5);
    stage.join();
    stage.listen(30);
    stage.end(all[0]);
    stage.listen(30);
}

/// A stop in which one does not hear, and one goes on for ever.
fn deadline(stage: &mut Stage) {
    let (deaf, paused, other) = (stage.join(), stage.join(), stage.join());
    stage.talkers[deaf].deaf = true;
    stage.say(deaf, "***");
    stage.say(paused, ">z");
    stage.say(other, "*");
    stage.pass(10);
    stage.signal(Signal::SIGTERM);
    stage.listen(1_100);
    stage.pass(3_000);
}

/// A second signal, while one does not hear and one has not finished.
fn second_signal(stage: &mut Stage) {
    let (deaf, other) = (stage.join(), stage.join());
    stage.talkers[deaf].deaf = true;
    stage.say(deaf, "***");
    stage.say(other, ">z");
    stage.pass(10);
    stage.listen(10);
    stage.signal(Signal::SIGTERM);
    stage.join();
    stage.listen(500);
    stage.signal(Signal::SIGINT);
    stage.expect = |summary| summary.forced && summary.cut > 0;
    stage.listen(10);
}

fn broadcast(stage: &mut Stage) {
    let (one, other, deaf) = (stage.join(), stage.join(), stage.join());
    stage.talkers[deaf].deaf = true;
    stage.pass(10);
    stage.say(one, ">!");
    stage.say(other, "!>!");
    stage.listen(10);
    stage.leave(other, true);
    stage.say(one, "!!");
    stage.listen(10);
}

/// All tell all, in one batch: what is for one connection stands in many places.
fn fan_out(stage: &mut Stage) {
    let all = [stage.join(), stage.join(), stage.join(), stage.join()];
    stage.talkers[all[3]].deaf = true;
    stage.pass(10);
    all.into_iter().for_each(|who| stage.say(who, "!>!!"));
    stage.listen(10);
    stage.say(all[0], "!");
    stage.leave(all[0], false);
    stage.say(all[1], "!>x");
    stage.listen(10);
}

/// Pauses and what comes meanwhile, a message that never ends, silence.
fn timers(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">z>");
    stage.say(other, "z");
    stage.end(other);
    stage.listen(500);
    stage.say(one, ">");
    let loud = stage.join();
    stage.say(loud, "!"); // those who pause hear it too
    stage.listen(1_000);
    stage.say(loud, ">z");
    stage.pass(10);
    stage.leave(loud, true);
    let (slow, _silent) = (stage.join(), stage.join());
    stage.mumble(slow, ">and then");
    stage.listen(6_000);
    stage.listen(20_000);
}

fn handle(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.announce();
    stage.say(one, ">");
    stage.listen(10);
    stage.announce();
    stage.announce();
    stage.say(other, "!");
    stage.listen(10);
    stage.ask_for_report();
    stage.listen(10);
    stage.ask_for_report();
    stage.end(one);
    stage.listen(10);
}

/// Calls from outside pause clients and let them go on, while they talk and leave.
fn held(stage: &mut Stage) {
    let (one, other, gone) = (stage.join(), stage.join(), stage.join());
    stage.pass(10);
    stage.hold(one, true);
    stage.hold(gone, true);
    stage.pass(10);
    stage.say(one, ">*>");
    stage.say(other, "!");
    stage.say(gone, ">");
    stage.listen(10);
    stage.leave(gone, true);
    stage.hold(other, true);
    stage.listen(100);
    stage.end(one);
    stage.hold(one, false);
    stage.listen(10);
    stage.hold(other, false);
    stage.say(other, ">");
    stage.listen(10);
    stage.end(other);
    let idle = stage.join();
    stage.pass(10);
    stage.hold(idle, true);
    stage.listen(39_985);
    stage.announce(); // which may fail just before its time is up
    stage.listen(1_000);
    stage.hold(idle, false);
}

/// The clock leaps, as when the process was stopped: bytes, ends, calls and all deadlines
/// come in one turn.
fn leaps(stage: &mut Stage) {
    let (one, other, third) = (stage.join(), stage.join(), stage.join());
    for millis in [15, 50, 1_200] {
        stage.pass(10);
        stage.say(one, ">z");
        stage.say(other, "*>");
        stage.say(third, "!");
        stage.leap(millis);
        stage.announce();
        stage.say(other, ">");
        stage.leap(millis);
        stage.listen(millis);
    }
    stage.say(one, ">x>");
    stage.say(other, "*x");
    stage.announce();
    stage.leap(30);
    stage.end(third);
    stage.pass(0);
    stage.announce();
    stage.leap(2_500);
    stage.listen(10_000);
    let (slow, stuck) = (stage.join(), stage.join());
    stage.talkers[stuck].deaf = true;
    stage.mumble(slow, ">and then");
    stage.say(stuck, "***");
    stage.pass(10);
    stage.announce();
    stage.leap(60_000);
    stage.listen(10);
}

/// Two listeners, and together more clients than there is room for.
fn doors(stage: &mut Stage) {
    let all: Vec<usize> = (0..4).map(|number| stage.join_at(number % 2)).collect();
    all.iter().for_each(|&who| stage.say(who, ">"));
    stage.listen(10);
    stage.leave(all[0], true);
    stage.end(all[1]);
    stage.listen(10);
    let late = stage.join_at(1);
    stage.say(late, "*");
    stage.listen(10);
    stage.end(all[2]);
    stage.listen(10);
    stage.signal(Signal::SIGTERM);
    stage.listen(30);
}

/// One message of several clients, the first of whom leaves without.
fn once(stage: &mut Stage<OneGuest>) {
    let (silent, slow, other) = (stage.join(), stage.join(), stage.join());
    stage.pass(10);
    stage.end(silent);
    stage.mumble(slow, "half a li");
    stage.listen(10);
    stage.mumble(slow, "ne\nand more");
    stage.say(other, ">");
    stage.expect = |summary| summary.stopped_by.is_none();
    stage.listen(100);
}

/// At most two from one address; whoever has left makes room.
fn neighbours(stage: &mut Stage) {
    let (one, other) = (stage.join_from(1), stage.join_from(1));
    stage.pass(10);
    let (third, stranger) = (stage.join_from(1), stage.join_from(2));
    for who in [one, other, third, stranger] {
        stage.say(who, ">");
    }
    stage.listen(10);
    stage.leave(one, true);
    stage.end(other);
    stage.listen(10);
    let (again, more) = (stage.join_from(1), stage.join_from(1));
    stage.say(again, "*");
    stage.listen(10);
    stage.say(more, "x");
    stage.expect = |summary| summary.counters.closed_for(CloseReason::AddressLimit) == 1;
    stage.listen(10);
}

/// Links clog one after another, and are free again in another order, while much is under
/// way: lines, answers, an end, a reset, room.
fn clogged(stage: &mut Stage) {
    let (one, other, third) = (stage.join(), stage.join(), stage.join());
    stage.pass(10);
    stage.clog(one, 60_000);
    stage.say(one, ">*");
    stage.say(other, "*>*");
    stage.pass(10);
    stage.clog(other, 300);
    stage.listen(100);
    stage.say(third, "!>");
    stage.clog(third, 600);
    stage.say(third, ">");
    stage.end(other);
    stage.unclog(one);
    stage.listen(10);
    stage.clog(one, 100);
    stage.say(one, ">x");
    stage.listen(400);
    stage.last_words(third);
    stage.listen(500);
}

/// The server ends it, while the client still talks.
fn goodbyes(stage: &mut Stage) {
    let (one, other, cut) = (stage.join(), stage.join(), stage.join());
    stage.say(one, ">x>");
    stage.say(other, "*x>");
    stage.say(cut, ">a>");
    stage.pass(10);
    stage.say(one, ">");
    stage.hear(one, 100);
    for _ in 0..6 {
        stage.hear(other, 15);
        stage.pass(10);
        stage.say(other, ">"); // must not cost it what is still under way
        stage.pass(10);
    }
    stage.end(other);
    stage.listen(3_000);
}

/// Our direction is ended while much of it waits, and the client talks on; it ends its own
/// before it has heard all, behind it, or never hears it.
fn finished(stage: &mut Stage) {
    let (one, other, rude) = (stage.join(), stage.join(), stage.join());
    stage.say(one, ">f>");
    stage.say(other, "*f");
    stage.say(rude, "*f");
    stage.pass(10);
    stage.say(one, "z>");
    stage.end(one);
    for _ in 0..4 {
        stage.pass(100);
        stage.hear(one, 30);
        stage.hear(other, 50);
    }
    stage.leave(rude, true);
    stage.listen(1_100);
    stage.say(other, ">");
    stage.listen(10);
    stage.end(other);
    stage.listen(10);
}

// ---- the sweep -----------------------------------------------------------------------

fn repertoire() -> Repertoire {
    Repertoire { scenarios: SCENARIOS.iter().map(|scenario| scenario.name).collect(), play }
}

fn play(case: &Case) -> Verdict<Outcome> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == case.scenario).unwrap();
    match scenario.script {
        Script::Chorus(script) => play_part(case, scenario, Chorus, script),
        Script::OneGuest(script) => play_part(case, scenario, OneGuest::new(Framing::Line), script),
    }
}

fn play_part<P: Part>(
    case: &Case,
    scenario: &Scenario,
    part: P,
    script: fn(&mut Stage<P>),
) -> Verdict<Outcome> {
    let limits = Limits {
        max_connections: scenario.max_connections,
        max_per_address: scenario.max_per_address,
        give_way: None,
        high_water: 64,
        idle_timeout: Some(Duration::from_secs(40)),
        message_timeout: Some(Duration::from_secs(15)),
        write_timeout: Some(Duration::from_secs(15)),
        drain_timeout: Some(Duration::from_secs(3)),
        ..Limits::default()
    };
    let sim = Simulated::new(7);
    if scenario.addresses.contains(&UNIX) {
        leave_stale_file(&sim);
        sim.take_trace();
    }
    case.plan(&sim);
    match Stage::open(part, &sim, scenario.addresses, limits, WAYS[case.way]) {
        Ok(mut stage) => {
            script(&mut stage);
            stage.finale()
        }
        Err(error) => judge_start(&sim, &error),
    }
}

/// A sample of all single faults and pairs, in all scenarios, breaks no promise.
#[test]
fn faults_in_a_sample() {
    if !repertoire().replay() {
        repertoire().sweep([7, 401, 41, 23], [41, 20_011, 401, 401]).conclude(15_000, 2_300);
    }
}

/// All single faults, and many pairs, break no promise.
#[test]
#[ignore = "half a minute; `make check` runs it"]
fn every_fault() {
    if !repertoire().replay() {
        let [cases, errnos] = LEAST;
        repertoire().sweep([1, 37, 2, 1], [3, 20_011, 17, 31]).conclude(cases, errnos);
    }
}

/// Cases of a whole sweep, and errnos at places.
const LEAST: [usize; 2] = [250_000, 3_000];

/// What docs/22-promises.md says of the sweeps is what they find at least.
#[test]
fn the_figures_that_are_promised() {
    let page = std::fs::read_to_string("docs/22-promises.md").unwrap();
    let written = |number: usize| format!("{},{:03}", number / 1_000, number % 1_000);
    let ([cases, errnos], [proxied, proxied_errnos]) =
        (LEAST.map(written), proxy::LEAST.map(written));
    for words in [
        format!("In {} scenarios each call fails", SCENARIOS.len()),
        format!("in {} scenarios of the proxy", proxy::SCENARIOS.len()),
        format!("more than {errnos} errnos, and for the proxy more than {proxied_errnos}."),
        format!("more than {cases} simulated cases, {proxied} of the proxy,"),
    ] {
        assert!(page.contains(&words), "docs/22-promises.md does not say: {words}");
    }
}

/// What a failure prints is what the replay reads.
#[test]
fn a_replay_line_names_its_case() {
    let pair = "unix:3:EXDEV:healed:late+40:EMFILE";
    for text in ["once:full", "drain:12:EPIPE:burst:byte", pair, &format!("{pair}+41:EINTR")] {
        assert!(repertoire().reads(text), "{text}");
    }
}
