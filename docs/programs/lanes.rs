//! A life in lanes: a picture of what one thread did.
//!
//! ```text
//!             start     ░░░░░  a client  ░░░░░  bytes  ░░░░░
//! epoll 4          ╭|||─asleep─|╮ ╭|╮───asleep─|╮ ╭─────────
//! listener 3    |||╯    ░░░░░   ╰|╯ │   ░░░░░   │ │    ░░░░░
//! connection 8          ░░░░░    ○──┴───░░░░░───||┴────░░░░░
//! ```
//!
//! Time runs to the right, one step a call: a lane for each descriptor from the call that
//! made it to its close, a tick for each call on the lane of its descriptor, in the color
//! of the chapter that explains it. A line runs from tick to tick: the thread. While it
//! sleeps in `epoll_wait` the picture is shaded, and that time is folded.
//!
//! It is drawn from the lines of the narrator and from nothing else: [`Life`] is what they
//! tell, [`Picture`] is where that stands.

use super::view::{Call, View, address};
use std::collections::HashMap;
use std::mem;
use std::time::Duration;

/// A line of the narrator, and when it came.
pub(crate) type Told = (Duration, String);

/// More calls than this would be too close to each other. The first ones are drawn.
pub(crate) const MOST: usize = 200;
/// A wait that took longer was a sleep.
const SLEEP: Duration = Duration::from_millis(1);

const TITLE: &str = "The life of a server, call by call";
const NOTE: &str = "Colors: the chapter in docs/ that explains the call. Hollow: it failed. \
    Shaded: the thread sleeps in epoll_wait, drawn shorter than it is.";

const WIDTH: f64 = 800.0;
/// Where the first call stands, and the last.
const LEFT: f64 = 148.0;
const RIGHT: f64 = 776.0;
/// So much of a path fits in front of it.
const ABOUT: usize = 21;
/// Where the lanes begin, and how high one is.
const TOP: f64 = 96.0;
const HEIGHT: f64 = 38.0;

/// In both schemes these stand out from the background.
pub(crate) const COLORS: [(&str, &str); 14] = [
    ("signals", "#8b5cf6"),
    ("full", "#a07d4a"),
    ("listening", "#3b82f6"),
    ("loop", "#848d97"),
    ("time", "#c94fd6"),
    ("waking", "#e0559b"),
    ("accepting", "#0e9cbb"),
    ("receiving", "#1fa255"),
    ("sending", "#dd7f0d"),
    ("connecting", "#6366f1"),
    ("files", "#7a9c26"),
    ("stopping", "#238f83"),
    ("production", "#7a6a2f"),
    ("closing", "#e5484d"),
];

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 }
.name { font-weight: 600 }
.soft { fill: #59636e; font-size: 11px }
.tiny { fill: #59636e; font-size: 9px }
.mid { text-anchor: middle }
.card { fill: #fff; stroke: #d1d9e0 }
.row { stroke: #d1d9e0; stroke-dasharray: 1 4 }
.life { fill: #eaeef2 }
.made { fill: #fff; stroke: #59636e; stroke-width: 1.5 }
.failed { fill: #fff }
.night { fill: #32415e; opacity: .13 }
.thread { fill: none; stroke: #1f2328; stroke-width: 1.4; stroke-linejoin: round; opacity: .6 }
.asleep { stroke-dasharray: 2 3 }
.break { fill: none; stroke: #59636e; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .soft, .tiny { fill: #9198a1 }
  .card { fill: #0d1117; stroke: #3d444d }
  .row { stroke: #3d444d }
  .life { fill: #262c36 }
  .made { fill: #0d1117; stroke: #9198a1 }
  .failed { fill: #0d1117 }
  .night { fill: #7d9bd6; opacity: .15 }
  .thread { stroke: #f0f6fc }
  .break { stroke: #9198a1 }
}
@media (max-width: 560px) {
  text { font-size: 18px }
  .title { font-size: 24px }
  .name { font-size: 17px }
  .soft { font-size: 15px }
  .wide, .tiny { display: none }
}";

/// A descriptor from the call that made it to its close; the first one is none, for calls
/// on nothing.
struct Lane {
    number: String,
    kind: &'static str,
    about: String,
    made: usize,
    closed: Option<usize>,
}

struct Tick<'a> {
    /// As the narrator has it, shown when one points at the tick.
    line: &'a str,
    call: Call<'a>,
    /// Since the first one.
    moment: Duration,
    lane: usize,
    /// The lane that the first event of a wait is about.
    woken_by: Option<usize>,
    /// How long the sleep before it was, if the wait was one.
    slept: Option<Duration>,
}

/// What the lines report: when each descriptor was open, and what was done to it.
struct Life<'a> {
    lanes: Vec<Lane>,
    ticks: Vec<Tick<'a>>,
}

impl<'a> Life<'a> {
    fn of(calls: &[(Duration, &'a str, Call<'a>)]) -> Life<'a> {
        let mut life = Life { lanes: Vec::new(), ticks: Vec::new() };
        life.lane("", "process", "no descriptor", 0);
        let mut open: HashMap<String, usize> = HashMap::new();
        let mut view = View::new(Duration::ZERO, false);
        let first = calls.first().map_or(Duration::ZERO, |call| call.0);
        let mut before = Duration::ZERO;
        for (at, &(moment, line, call)) in calls.iter().enumerate() {
            let Call { name, arguments, result, .. } = call;
            let descriptor = arguments.split(',').next().unwrap_or_default();
            let mut lane = open.get(descriptor).copied().unwrap_or_default();
            let words = address(arguments);
            let place = words.split(", ").nth(1).unwrap_or_default();
            let made = match name {
                "socket" => Some(("socket", "")),
                "epoll_create1" => Some(("epoll", "the loop")),
                "signalfd4" => Some(("signalfd", "signals")),
                "timerfd_create" => Some(("timerfd", "deadlines")),
                "eventfd2" => Some(("eventfd", "other threads")),
                "accept4" => Some(("connection", place)),
                "openat2" => Some(("file", place)),
                _ => None,
            };
            if let (Some((kind, about)), false) = (made, result.starts_with('-')) {
                let new = life.lane(result, kind, about, at);
                open.insert(result.to_owned(), new);
                lane = if name == "accept4" { lane } else { new };
            }
            if let Some(lane) = life.lanes.get_mut(lane) {
                match name {
                    "listen" => lane.kind = "listener",
                    "connect" => (lane.kind, lane.about) = ("connection", format!("to {place}")),
                    "getsockname" => lane.about = place.to_owned(),
                    "close" => lane.closed = open.remove(descriptor).map(|_| at),
                    _ => {}
                }
            }
            let told = view.shorter(name, arguments, moment);
            let event = told.split_once('[').and_then(|(_, events)| events.split(' ').next());
            let since = moment.saturating_sub(first);
            let pause = since.saturating_sub(mem::replace(&mut before, since));
            let waits = name == "epoll_wait" && arguments.ends_with("-1");
            let slept = Some(pause).filter(|pause| waits && *pause >= SLEEP);
            let woken_by = event.and_then(|number| open.get(number)).copied().filter(|_| waits);
            let moment = since;
            life.ticks.push(Tick { line, call, moment, lane, woken_by, slept });
        }
        life
    }

    fn moment(&self, at: usize) -> String {
        let moment = self.ticks.get(at).map_or(Duration::ZERO, |tick| tick.moment);
        format!("{:.3} s", moment.as_secs_f64())
    }

    fn sleeps(&self) -> usize {
        self.ticks.iter().filter(|tick| tick.slept.is_some()).count()
    }

    fn lane(&mut self, number: &str, kind: &'static str, about: &str, made: usize) -> usize {
        let (number, about) = (number.to_owned(), about.to_owned());
        self.lanes.push(Lane { number, kind, about, made, closed: None });
        self.lanes.len() - 1
    }

    /// From top to bottom: the loop, then as they were made, then what is on no descriptor.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.lanes.len()).collect();
        order.sort_by_key(|&at| match self.lanes.get(at).map(|lane| lane.kind) {
            Some("epoll") => 0,
            Some("process") => 2,
            _ => 1,
        });
        order
    }

    /// What the thread woke for, in a word or two.
    fn reason(&self, at: usize) -> &'static str {
        let woken_by = self.ticks.get(at).and_then(|tick| self.lanes.get(tick.woken_by?));
        let next = self.ticks.get(at + 1).map(|tick| (tick.call.name, tick.call.result));
        match (woken_by.map(|lane| lane.kind), next) {
            (Some("listener"), _) => "a client",
            (Some("signalfd"), _) => "a signal",
            (Some("timerfd"), _) => "a deadline",
            (Some("eventfd"), _) => "a call",
            (Some("connection"), Some(("recvfrom", "0"))) => "its end",
            (Some("connection"), Some(("recvfrom", _))) => "bytes",
            (Some("connection"), Some(("sendto" | "sendfile", _))) => "room",
            _ => "",
        }
    }
}

/// The picture of the calls among these lines.
pub(crate) fn draw(told: &[Told]) -> String {
    let calls = told.iter().filter_map(|(at, line)| {
        let call = Call::of(line).filter(|call| COLORS.iter().any(|it| it.0 == call.chapter))?;
        Some((*at, line.as_str(), call))
    });
    let calls: Vec<_> = calls.collect();
    let life = Life::of(calls.get(..MOST).unwrap_or(&calls));
    Picture::of(&life).draw(calls.len())
}

/// Where everything stands.
struct Picture<'a> {
    life: &'a Life<'a>,
    /// The lanes from top to bottom.
    order: Vec<usize>,
    /// Where each call stands.
    places: Vec<f64>,
    /// How far two calls are from each other, and how far if a sleep is between them.
    pitch: f64,
    fold: f64,
    bottom: f64,
    svg: String,
}

impl<'a> Picture<'a> {
    fn of(life: &'a Life<'a>) -> Picture<'a> {
        let sleeps = life.sleeps() as f64;
        let steps = (life.ticks.len() as f64 - 1.0 - sleeps).max(1.0);
        let fold = (0.5 * (RIGHT - LEFT) / sleeps.max(1.0)).min(54.0);
        let pitch = ((RIGHT - LEFT - fold * sleeps) / steps).min(16.0);
        let mut x = LEFT - pitch;
        let step = |tick: &Tick<'_>| {
            x += if tick.slept.is_some() { fold } else { pitch };
            x
        };
        let places = life.ticks.iter().map(step).collect();
        let order = life.order();
        let bottom = TOP + HEIGHT * order.len() as f64;
        Picture { life, order, places, pitch, fold, bottom, svg: String::new() }
    }

    fn x(&self, call: usize) -> f64 {
        self.places.get(call).or(self.places.last()).copied().unwrap_or(LEFT)
    }

    /// The middle of a lane.
    fn y(&self, lane: usize) -> f64 {
        let row = self.order.iter().position(|&it| it == lane).unwrap_or_default();
        TOP + HEIGHT * (row as f64 + 0.5)
    }

    fn put(&mut self, element: String) {
        self.svg += &element;
        self.svg += "\n";
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = escaped(text);
        self.put(format!("<text class='{class}' x='{x:.1}' y='{y:.1}'>{text}</text>"));
    }

    fn draw(mut self, all: usize) -> String {
        let is_used = |chapter: &&(&str, &str)| {
            self.life.ticks.iter().any(|tick| tick.call.chapter == chapter.0)
        };
        let chapters: Vec<_> = COLORS.iter().filter(is_used).collect();
        let height = self.bottom + 76.0 + 24.0 * chapters.len().div_ceil(6) as f64;
        self.frame(height, all);
        self.lanes();
        self.turns();
        self.thread();
        self.ticks();
        self.legend(&chapters);
        self.svg + "</svg>\n"
    }

    /// What it is, for all who look at it and for those who cannot.
    fn frame(&mut self, height: f64, all: usize) {
        let (calls, sleeps) = (self.life.ticks.len(), self.life.sleeps());
        let descriptors = self.life.lanes.len() - 1;
        let which =
            if all > calls { format!("the first {calls} of {all}") } else { calls.to_string() };
        let sleeps = match sleeps {
            0 => "never asleep".to_owned(),
            1 => "asleep once".to_owned(),
            _ => format!("asleep {sleeps} times"),
        };
        let summary =
            format!("one thread, {which} system calls on {descriptors} descriptors, {sleeps}");
        self.put(format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' \
            width='{WIDTH}' height='{height}' role='img' aria-labelledby='title summary'>"
        ));
        self.put(format!("<title id='title'>{TITLE}</title>"));
        self.put(format!(
            "<desc id='summary'>A lane for each descriptor, a tick for each call: {summary}. \
            The thread goes from tick to tick, and back to epoll_wait, where it sleeps until \
            something is ready.</desc>"
        ));
        let colors = COLORS.map(|(name, it)| format!(".{name} {{ fill: {it}; stroke: {it} }}"));
        self.put(format!("<style>\n{}\n{STYLE}\n</style>", colors.join("\n")));
        let (width, height) = (WIDTH - 1.0, height - 1.0);
        self.put(format!(
            "<rect class='card' x='.5' y='.5' width='{width}' height='{height}' rx='8'/>"
        ));
        self.text("title", 24.0, 36.0, TITLE);
        self.text("soft", 24.0, 57.0, &summary);
    }

    fn lanes(&mut self) {
        self.text("soft", 24.0, TOP - 9.0, "awake for");
        for at in self.order.clone() {
            let Some(lane) = self.life.lanes.get(at) else { continue };
            let (y, begin) = (self.y(at), self.x(lane.made));
            self.text("name", 24.0, y - 1.0, &format!("{} {}", lane.kind, lane.number));
            let about: String = lane.about.chars().take(ABOUT).collect();
            self.text("soft wide", 24.0, y + 13.0, &about);
            self.put(format!("<path class='row' d='M{LEFT:.1} {y:.1}H{RIGHT:.1}'/>"));
            if lane.number.is_empty() {
                continue;
            }
            let (end, closed) = match lane.closed {
                Some(at) => (self.x(at), format!("closed at {}", self.life.moment(at))),
                None => (RIGHT, "not closed".to_owned()),
            };
            let (width, top, made) = (end - begin, y - 13.0, self.life.moment(lane.made));
            self.put(format!(
                "<rect class='life' x='{begin:.1}' y='{top:.1}' width='{width:.1}' height='26' \
                rx='4'><title>{} {}: made at {made}, {closed}</title></rect>",
                lane.kind, lane.number
            ));
            if lane.kind == "connection" {
                self.put(format!("<circle class='made' cx='{begin:.1}' cy='{y:.1}' r='3.5'/>"));
            }
        }
    }

    /// What each turn was for, and the sleep before it.
    fn turns(&mut self) {
        let ticks = &self.life.ticks;
        let mut begins: Vec<usize> = (1..ticks.len())
            .filter(|&at| ticks.get(at).is_some_and(|tick| tick.slept.is_some()))
            .collect();
        begins.insert(0, 0);
        for (number, &begin) in begins.iter().enumerate() {
            let end = begins.get(number + 1).map_or(ticks.len(), |next| *next).saturating_sub(1);
            let (from, to) = (self.x(begin), self.x(end));
            let reason = if begin == 0 { "start" } else { self.life.reason(begin) };
            if to - from + self.fold > 7.0 * reason.len() as f64 {
                let middle = ((from + to) / 2.0).min(WIDTH - 8.0 - 4.5 * reason.len() as f64);
                self.text("mid", middle, TOP - 9.0, reason);
            }
            let Some(tick) = ticks.get(begin) else { continue };
            let Some(slept) = tick.slept else { continue };
            let (left, width, y) =
                (self.dusk(begin), self.fold - 1.2 * self.pitch, self.y(tick.lane));
            let (height, long) = (self.bottom - TOP, how_long(slept));
            self.put(format!(
                "<rect class='night' x='{left:.1}' y='{TOP}' width='{width:.1}' \
                height='{height}'><title>asleep for {long}</title></rect>"
            ));
            let middle = left + width / 2.0;
            if width > 36.0 {
                self.text("soft mid", middle, y - 6.0, "asleep");
                self.text("soft mid", middle, y + 15.0, &long);
            } else if width > 20.0 {
                self.text("tiny mid", middle, self.bottom + 16.0, &long);
            }
            let (left, right) = (middle - 5.0, middle + 1.0);
            let bottom = self.bottom + 5.0;
            self.put(format!(
                "<path class='break' d='M{left:.1} {bottom:.1}l4 -10M{right:.1} {bottom:.1}l4 -10'/>"
            ));
        }
    }

    /// Where the sleep before a call begins.
    fn dusk(&self, call: usize) -> f64 {
        self.x(call) - self.fold + 0.6 * self.pitch
    }

    /// From tick to tick, and into the loop to sleep.
    fn thread(&mut self) {
        let (mut path, mut sleep) = (String::new(), String::new());
        let mut from: Option<(f64, f64)> = None;
        for (at, tick) in self.life.ticks.iter().enumerate() {
            let (to, y) = (self.x(at), self.y(tick.lane));
            let x = if tick.slept.is_some() { self.dusk(at) } else { to };
            path += &match from {
                None => format!("M{x:.1} {y:.1}"),
                Some((from, before)) => {
                    let half = (from + x) / 2.0;
                    format!("C{half:.1} {before:.1} {half:.1} {y:.1} {x:.1} {y:.1}")
                }
            };
            if tick.slept.is_some() {
                sleep += &format!("M{x:.1} {y:.1}H{to:.1}");
                path += &format!("M{to:.1} {y:.1}");
            }
            from = Some((to, y));
        }
        self.put(format!("<path class='thread' d='{path}'/>"));
        self.put(format!("<path class='thread asleep' d='{sleep}'/>"));
    }

    fn ticks(&mut self) {
        let width = (self.pitch * 0.6).clamp(1.5, 7.0);
        for (at, tick) in self.life.ticks.iter().enumerate() {
            let (x, y) = (self.x(at) - width / 2.0, self.y(tick.lane) - 9.0);
            let failed = if tick.call.result.starts_with('-') { " failed" } else { "" };
            let (chapter, line) = (tick.call.chapter, escaped(tick.line));
            self.put(format!(
                "<rect class='tick {chapter}{failed}' x='{x:.1}' y='{y:.1}' width='{width:.1}' \
                height='18' rx='2'><title>{line}</title></rect>"
            ));
        }
    }

    fn legend(&mut self, chapters: &[&(&str, &str)]) {
        for (at, (name, _)) in chapters.iter().enumerate() {
            let x = 24.0 + 126.0 * (at % 6) as f64;
            let y = self.bottom + 30.0 + 24.0 * (at / 6) as f64;
            self.put(format!(
                "<rect class='{name}' x='{x}' y='{y:.1}' width='7' height='14' rx='2'/>"
            ));
            self.text("", x + 14.0, y + 12.0, name);
        }
        let y = self.bottom + 56.0 + 24.0 * chapters.len().div_ceil(6) as f64;
        self.text("soft wide", 24.0, y, NOTE);
    }
}

fn how_long(slept: Duration) -> String {
    match slept.as_millis() {
        ms @ ..1000 => format!("{ms} ms"),
        ms @ ..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        ms => format!("{} min", ms / 60_000),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
