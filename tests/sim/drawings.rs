//! Drawings of the docs that cannot lie: the states and their arrows come from the declaration,
//! how often each arrow is taken from random plays, and what bounds a buffer from the limits.
//!
//! `make docs-update` writes them; the test compares. Only where something stands is drawn by
//! hand: an arrow that is declared and has no place fails the test, and so does the opposite.

use crate::simulation::dice::Dice;
use crate::simulation::play::Play;
use crate::simulation::whim::{self, Way};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use threadbare::{Limits, TRANSITIONS, taken};

/// So many plays are counted.
const PLAYS: u64 = 1_000;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 }
.state { font-size: 14px; font-weight: 600; text-anchor: middle }
.soft { fill: #59636e; font-size: 11.5px }
.mid { text-anchor: middle }
.end { text-anchor: end }
.mono { font-family: ui-monospace, monospace; font-size: 12px }
.card { fill: #fff; stroke: #d1d9e0 }
.box { fill: #eaf2fb; stroke: #3b82f6; stroke-width: 1.5 }
.last { fill: #fbeaea; stroke: #e5484d; stroke-width: 1.5 }
.kernel { fill: #f3eefc; stroke: #8b5cf6; stroke-width: 1.5 }
.full { fill: #3b82f6; opacity: .35 }
.way { fill: none; stroke: #59636e; stroke-linecap: round }
.tip { fill: #59636e }
.edge { stroke: #8b949e; stroke-dasharray: 4 4; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .soft { fill: #9198a1 }
  .card { fill: #0d1117; stroke: #3d444d }
  .box { fill: #12233c; stroke: #5b9bff }
  .last { fill: #35171a; stroke: #ff7b80 }
  .kernel { fill: #231a3a; stroke: #a78bfa }
  .way { stroke: #9198a1 }
  .tip { fill: #9198a1 }
}";

/// A picture that grows.
struct Svg(String);

impl Svg {
    fn new(height: u32, title: &str, summary: &str) -> Svg {
        let mut svg = Svg(format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 800 {height}' width='800' \
            height='{height}' role='img' aria-labelledby='title summary'>\n\
            <title id='title'>{title}</title>\n<desc id='summary'>{summary}</desc>\n\
            <style>\n{STYLE}\n</style>\n"
        ));
        svg.put(&format!(
            "<rect class='card' x='.5' y='.5' width='799' height='{}' rx='8'/>",
            height - 1
        ));
        svg.text("title", 24.0, 36.0, title);
        svg
    }

    fn put(&mut self, element: &str) {
        writeln!(self.0, "{element}").unwrap();
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        self.put(&format!("<text class='{class}' x='{x}' y='{y}'>{text}</text>"));
    }

    fn rect(&mut self, class: &str, [x, y, width, height]: [f64; 4]) {
        self.put(&format!(
            "<rect class='{class}' x='{x}' y='{y}' width='{width}' height='{height}' rx='7'/>"
        ));
    }

    /// An arrow through these points, so many pixels wide.
    fn arrow(&mut self, points: &[(f64, f64)], width: f64) {
        let [.., before, end] = points else { return };
        let (dx, dy) = (end.0 - before.0, end.1 - before.1);
        let length = dx.hypot(dy);
        let (dx, dy) = (dx / length, dy / length);
        let size = 6.0 + width;
        let foot = (end.0 - dx * size, end.1 - dy * size);
        let mut way = String::new();
        for (at, (x, y)) in points[..points.len() - 1].iter().chain([&foot]).enumerate() {
            way += &format!("{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" });
        }
        self.put(&format!("<path class='way' stroke-width='{width:.1}' d='{way}'/>"));
        let half = size * 0.55;
        self.put(&format!(
            "<path class='tip' d='M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z'/>",
            end.0,
            end.1,
            foot.0 - dy * half,
            foot.1 + dx * half,
            foot.0 + dy * half,
            foot.1 - dx * half
        ));
    }

    fn end(mut self) -> String {
        self.put("</svg>");
        self.0
    }
}

// ---- the states of a connection ------------------------------------------------------

/// Where each state stands, and what TCP calls the socket meanwhile.
const STATES: [(&str, f64, f64, &str); 7] = [
    ("Connecting", 84.0, 110.0, "SYN_SENT"),
    ("Preface", 150.0, 244.0, "ESTABLISHED"),
    ("Open", 306.0, 110.0, "ESTABLISHED, CLOSE_WAIT"),
    ("Broken", 262.0, 300.0, "CLOSED, by a reset"),
    ("Delivering", 440.0, 270.0, "ESTABLISHED, CLOSE_WAIT"),
    ("Closing", 540.0, 110.0, "ESTABLISHED, CLOSE_WAIT"),
    ("Lingering", 716.0, 110.0, "FIN_WAIT_1, FIN_WAIT_2"),
];
const GONE: f64 = 430.0;

/// From where to where an arrow goes, and where its words stand.
type Arrow = (&'static str, &'static str, [(f64, f64); 2], (f64, f64, &'static str));

const ARROWS: [Arrow; 15] = [
    ("Connecting", "Open", [(142.0, 103.0), (242.0, 103.0)], (192.0, 78.0, "mid")),
    ("Connecting", "Gone", [(42.0, 134.0), (42.0, GONE)], (50.0, 352.0, "")),
    ("Preface", "Open", [(176.0, 220.0), (262.0, 134.0)], (206.0, 204.0, "")),
    ("Preface", "Gone", [(150.0, 268.0), (150.0, GONE)], (158.0, 392.0, "")),
    ("Open", "Broken", [(300.0, 134.0), (300.0, 276.0)], (294.0, 252.0, "end")),
    ("Open", "Gone", [(338.0, 134.0), (338.0, GONE)], (346.0, 352.0, "")),
    ("Open", "Delivering", [(354.0, 134.0), (420.0, 246.0)], (402.0, 182.0, "")),
    ("Open", "Closing", [(370.0, 103.0), (476.0, 103.0)], (423.0, 78.0, "mid")),
    ("Open", "Lingering", [(340.0, 86.0), (690.0, 86.0)], (520.0, 66.0, "mid")),
    ("Broken", "Gone", [(262.0, 324.0), (262.0, GONE)], (270.0, 392.0, "")),
    ("Delivering", "Gone", [(440.0, 294.0), (440.0, GONE)], (448.0, 392.0, "")),
    ("Closing", "Delivering", [(516.0, 134.0), (462.0, 246.0)], (500.0, 204.0, "")),
    ("Closing", "Gone", [(566.0, 134.0), (566.0, GONE)], (574.0, 352.0, "")),
    ("Closing", "Lingering", [(604.0, 103.0), (650.0, 103.0)], (628.0, 78.0, "mid")),
    ("Lingering", "Gone", [(716.0, 134.0), (716.0, GONE)], (724.0, 352.0, "")),
];

type Counts = BTreeMap<(String, String), u64>;

/// How often random plays take each arrow.
fn counts() -> Counts {
    taken();
    for seed in 0..PLAYS / 2 {
        Play::new(Dice::Seed(seed)).play().unwrap_or_else(|why| panic!("SEED={seed}: {why}"));
        whim::play(&Way(vec![(0, seed)])).unwrap_or_else(|why| panic!("WAY={seed}: {why}"));
    }
    taken().into_iter().map(|(from, to, count)| ((from.into(), to.into()), count)).collect()
}

/// The counts in a picture.
fn shown(svg: &str) -> Counts {
    let arrows = svg.split("<g data-arrow='").skip(1).filter_map(|it| {
        let mut words = it.split('\'').next()?.split(' ');
        let names = (words.next()?.to_owned(), words.next()?.to_owned());
        Some((names, words.next()?.parse().ok()?))
    });
    arrows.collect()
}

fn thousands(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        _ => format!("{},{:03}", count / 1_000, count % 1_000),
    }
}

fn states(counts: &Counts) -> String {
    let summary = "Each box is a state, with what TCP calls the socket meanwhile. Each arrow has \
        the events that take it, and how often random plays of the simulation took it.";
    let mut svg = Svg::new(530, "The states of a connection", summary);
    let mut declared: Vec<(&str, &str)> = TRANSITIONS.iter().map(|it| (it.from, it.to)).collect();
    declared.sort_unstable();
    declared.dedup();
    let mut drawn: Vec<(&str, &str)> = ARROWS.iter().map(|it| (it.0, it.1)).collect();
    drawn.sort_unstable();
    assert_eq!(drawn, declared, "give each arrow that is declared its place");
    for (from, to, points, (x, y, side)) in ARROWS {
        let count = counts.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default();
        let width = 1.0 + ((count + 1) as f64).log10() * 0.7;
        svg.put(&format!("<g data-arrow='{from} {to} {count}'>"));
        svg.arrow(&points, width);
        let mut events: Vec<&str> = TRANSITIONS
            .iter()
            .filter(|it| (it.from, it.to) == (from, to))
            .map(|it| it.event)
            .collect();
        events.dedup();
        for (line, event) in events.iter().enumerate() {
            let above = (events.len() - 1 - line) as f64 * 15.0;
            let y = if to == "Gone" { y - above } else { y - above - 2.0 };
            svg.text(side, x, y, event);
        }
        svg.text(&format!("soft {side}"), x, y + 14.0, &thousands(count));
        svg.put("</g>");
    }
    for (name, x, y, tcp) in STATES {
        let width = if tcp.len() > 17 { 128.0 } else { 116.0 };
        svg.rect("box", [x - width / 2.0, y - 24.0, width, 48.0]);
        svg.text("state", x, y - 3.0, name);
        let tcp = tcp.replace("ESTABLISHED, CLOSE_WAIT", "ESTAB, CLOSE_WAIT");
        let tcp = tcp.replace("FIN_WAIT_1, FIN_WAIT_2", "FIN_WAIT_1, _2");
        svg.text("soft mid", x, y + 14.0, &tcp);
    }
    svg.rect("last", [24.0, GONE, 752.0, 46.0]);
    svg.text("state", 400.0, GONE + 19.0, "Gone");
    svg.text(
        "soft mid",
        400.0,
        GONE + 36.0,
        "TIME_WAIT at the side that sent FIN first, LAST_ACK at the other; after a reset, neither",
    );
    svg.text(
        "soft",
        24.0,
        508.0,
        &format!("Numbers: how often {} random runs of the simulation took the arrow. Small print: the state of TCP.", thousands(PLAYS)),
    );
    svg.end()
}

// ---- the queues of a listener, and what waits where ----------------------------------

fn queues() -> String {
    let backlog = Limits::default().backlog;
    let summary = "A SYN is answered from the SYN queue; the ACK moves the connection to the \
        accept queue, and accept4 takes it from there.";
    let mut svg = Svg::new(300, "The two queues of a listener", summary);
    svg.text("soft", 24.0, 60.0, "client");
    svg.text("soft", 250.0, 60.0, "kernel");
    svg.text("soft", 700.0, 60.0, "server");
    for x in [190.0, 668.0] {
        svg.put(&format!("<path class='edge' d='M{x} 52V226'/>"));
    }
    svg.rect("kernel", [250.0, 84.0, 130.0, 92.0]);
    svg.text("state", 315.0, 116.0, "SYN queue");
    svg.text("soft mid", 315.0, 136.0, "SYN_RECV");
    svg.rect("kernel", [470.0, 84.0, 140.0, 92.0]);
    svg.text("state", 540.0, 116.0, "accept queue");
    svg.text("soft mid", 540.0, 136.0, "ESTABLISHED,");
    svg.text("soft mid", 540.0, 151.0, "bytes may be there");
    svg.text("mid", 120.0, 96.0, "SYN");
    svg.arrow(&[(50.0, 102.0), (246.0, 102.0)], 1.8);
    svg.text("mid", 120.0, 126.0, "SYN+ACK");
    svg.arrow(&[(246.0, 132.0), (50.0, 132.0)], 1.8);
    svg.text("mid", 120.0, 156.0, "ACK");
    svg.arrow(&[(50.0, 162.0), (246.0, 162.0)], 1.8);
    svg.arrow(&[(384.0, 130.0), (466.0, 130.0)], 1.8);
    svg.text("mono mid", 722.0, 122.0, "accept4");
    svg.arrow(&[(614.0, 130.0), (772.0, 130.0)], 1.8);
    svg.text("soft mid", 315.0, 200.0, "full: a SYN cookie is sent,");
    svg.text("soft mid", 315.0, 216.0, "and nothing is stored");
    svg.text(
        "soft mid",
        540.0,
        200.0,
        &format!("room for {} (backlog {backlog} + 1)", backlog + 1),
    );
    svg.text("soft mid", 540.0, 216.0, "full: SYNs and ACKs are dropped");
    svg.text("", 24.0, 254.0, "The client is connected when it has the SYN+ACK,");
    svg.text("", 24.0, 272.0, "whether the server has accepted it or not.");
    svg.end()
}

fn waits() -> String {
    let limits = Limits::default();
    let kb = |bytes: usize| match bytes {
        it if it.is_multiple_of(1 << 20) => format!("{} MiB", it >> 20),
        it => format!("{} KiB", it >> 10),
    };
    let trace = fs::read_to_string("docs/traces/hello.txt").unwrap();
    let unsent = trace.split("TCP_NOTSENT_LOWAT, [").nth(1).unwrap();
    let unsent = unsent.split(']').next().unwrap().parse().unwrap();
    let summary = "Bytes on their way: from the client through the receive buffer, the input, the \
        handler, the outbox and the send buffer back to the client, and what bounds each.";
    let mut svg = Svg::new(372, "What waits where", summary);
    svg.rect("box", [440.0, 66.0, 336.0, 242.0]);
    svg.text("soft", 453.0, 88.0, "the process: all of it bounded by --max-memory");
    svg.rect("kernel", [190.0, 66.0, 190.0, 242.0]);
    svg.text("soft", 203.0, 88.0, "the kernel, for each socket");
    for (x, y, width, name, bound, then) in [
        (203.0, 104.0, 164.0, "receive buffer", "tcp_rmem".to_owned(), "full: the window closes"),
        (203.0, 222.0, 164.0, "send buffer", format!("unsent: {}", kb(unsent)), "below: EPOLLOUT"),
        (
            453.0,
            104.0,
            150.0,
            "input",
            format!("at most {}", kb(limits.max_input)),
            "more: it is closed",
        ),
        (
            453.0,
            222.0,
            150.0,
            "outbox",
            format!("at most {}", kb(limits.max_output)),
            &*format!("from {}: not read", kb(limits.high_water)),
        ),
    ] {
        svg.rect("card", [x, y, width, 70.0]);
        svg.rect("full", [x, y, width * 0.45, 70.0]);
        svg.text("state", x + width / 2.0, y + 22.0, name);
        svg.text("soft mid", x + width / 2.0, y + 42.0, &bound);
        svg.text("soft mid", x + width / 2.0, y + 58.0, then);
    }
    svg.rect("card", [660.0, 104.0, 100.0, 188.0]);
    svg.text("state", 710.0, 194.0, "handler");
    svg.text("state", 82.0, 194.0, "client");
    svg.rect("way", [36.0, 104.0, 92.0, 188.0]);
    for (from, to, y, call, x) in [
        (130.0, 201.0, 139.0, "bytes", 159.0),
        (369.0, 451.0, 139.0, "recv", 410.0),
        (605.0, 658.0, 139.0, "on_data", 631.0),
        (658.0, 605.0, 257.0, "write", 631.0),
        (451.0, 369.0, 257.0, "send", 410.0),
        (201.0, 130.0, 257.0, "bytes", 159.0),
    ] {
        svg.arrow(&[(from, y), (to, y)], 2.0);
        svg.text("mono mid", x, y - 10.0, call);
    }
    svg.text("", 24.0, 340.0, "A client that does not read fills its receive buffer, then the send buffer, then the outbox:");
    svg.text("", 24.0, 358.0, "then it is not read, and what it sends fills the receive buffer. So nothing grows without a bound.");
    svg.end()
}

/// The drawings show what is declared, and the numbers are those of the simulation.
#[test]
fn the_drawings_are_true() {
    let path = "docs/charts/states.svg";
    let old = fs::read_to_string(path).unwrap_or_default();
    // A number is replaced when it is no more about right: it moves with every change.
    let (shown, found) = (shown(&old), counts());
    let is_right = ARROWS.iter().all(|it| {
        let arrow = (it.0.to_owned(), it.1.to_owned());
        let new = found.get(&arrow).copied().unwrap_or_default();
        shown.get(&arrow).is_some_and(|old| *old <= new * 2 + 20 && new <= old * 2 + 20)
    });
    let due = states(if is_right { &shown } else { &found });
    for (path, due) in
        [(path, due), ("docs/charts/queues.svg", queues()), ("docs/charts/waits.svg", waits())]
    {
        if std::env::var("UPDATE").is_ok() {
            fs::write(path, &due).unwrap();
        }
        let is_same = fs::read_to_string(path).is_ok_and(|old| old == due);
        assert!(is_same, "{path} differs from what is true; `make docs-update` mends it");
    }
}
