//! A chat room: each line goes to all other members.
//!
//! ```text
//!  a member sends      the others get                the member gets
//!  hello               guest1: hello
//!  /name anna          * guest1 is now anna          * you are anna
//!  /who                                              * 3 here: anna bob guest2
//!  /quit               * anna left                   FIN
//! ```
//!
//! A name has no space, colon or asterisk, and a line has no control character, so no
//! member can pose as another member or as the server, or control the terminals of others.
//! No two names look alike: they differ in their skeletons (Unicode's technical standard
//! 39), as written and in small letters, and no name mixes scripts that are not commonly
//! mixed. A name has few marks in a row (accents, vowel points): a skeleton sorts them, and to
//! sort more it would need memory, which may be lacking.
//!
//! A line is sent to a group, with [`Net::send_group`]: it is stored once for all members,
//! and all output of a member is sent in one call. Four rules make it work for thousands:
//!
//! - **A talker waits for members that read slowly, but not for long.** A member whose
//!   output is full holds talkers back, so that no talker can push another member out of
//!   the room. After a tick, talkers no longer wait for that member until it has caught up;
//!   at `max_output` the server closes it.
//! - **No member talks for long**: a talker is full when the output for all members together
//!   has reached its bound, and then the others have their turn.
//! - **No member talks faster than others read**: each has a token bucket, as on IRC servers,
//!   that holds [`BURST`] bytes and fills by [`RATE`] a second. A talker that has emptied it
//!   is paused until it has filled again: its bytes wait in its socket.
//! - **Members that come and go are announced at once while that is cheap**, and otherwise
//!   together, once a tick: a crowd that comes back costs n ticks, not n² lines.
//!
//! Invariants:
//! 1. A member is in `members` under the name in its session, and the skeletons of the name
//!    are in `looks`; or it has left and has no name.
//! 2. A member in `waiting` is paused, and so is one with an empty bucket; its timer resumes
//!    it, unless something does so before.
//! 3. While there is news to send, the timer of a tick is set.

use super::telnet::{self, Lines};
use super::{NO_WEB, is_web, too_long};
use crate::close_reason::CloseReason;
use crate::escape::{is_printable, printable};
use crate::fallible::{Appending, Map, copied, push, put};
use crate::framing::Frame;
use crate::handler::ConnectionHandler;
use crate::net::{Conn, ConnId, Net, TimerId};
use std::collections::HashSet;
use std::fmt::{self, Display, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::iter::once;
use std::mem::{replace, take};
use std::time::Duration;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::canonical_combining_class;
use unicode_security::{RestrictionLevel, RestrictionLevelDetection, skeleton};

/// The group of all members.
const ROOM: &str = "room";
/// A tick: how long talkers wait for a member that is behind, and how long news is kept.
const TICK: Duration = Duration::from_millis(200);
/// The most bytes of memory that the buffer of a line keeps.
const KEPT: usize = 16 << 10;
/// How many bytes a member may send at once, as the others receive them; and how many a second.
const BURST: u64 = 512 << 10;
const RATE: u64 = 256 << 10;
/// How many sends of news in a tick are cheap.
const CHEAP: usize = 1_000;
/// How many members are named in one announcement.
const NAMED: usize = 10;
/// How many names the answer to /who has.
const LISTED: usize = 100;
/// The most characters of a name.
const LONGEST_NAME: usize = 20;
/// How many characters a skeleton sorts without memory.
const SORTED: usize = 4;
/// Bytes of a name in small letters, a guest's too: three characters for one, of four bytes.
const SMALL: usize = 12 * 32;
/// The memory of all news that are told by name.
const NEWS: usize = NAMED * 256;

const COMMANDS: &[u8] = b"error: there are /name NEW, /who and /quit\n";
const BAD_NAME: &[u8] =
    b"error: a name is 1 to 20 letters, digits, - or _, of one script, few marks in a row\n";
const TAKEN: &[u8] = b"error: that name is taken, or looks like one that is\n";
const GOODBYE: &str = "* the server stops\n";

/// Sends each line to all other members, as `NAME: line`.
#[derive(Debug)]
pub struct Chat {
    max_line: usize,
    /// How many bytes a member may send at once, and in a second.
    rate: (u64, u64),
    /// In the order of their names.
    members: Vec<(Box<str>, ConnId)>,
    /// What the names in `members` look like.
    looks: HashSet<u64>,
    guests: u64,
    /// The buffer in which a line is formatted; kept, so that a line allocates nothing.
    line: String,
    /// Whether this callback has sent something to the others.
    has_said: bool,
    news: News,
    /// Members whose output is full, and for which talkers wait; and the talkers.
    behind: Map<ConnId, ()>,
    waiting: Vec<ConnId>,
    /// Members whose output is full, and for which no talker waits any more.
    late: Map<ConnId, ()>,
}

/// The members that came and left.
#[derive(Debug, Default)]
struct News {
    text: String,
    /// How many arrivals and departures wait to be announced.
    count: usize,
    /// How many sends of news were made in this tick.
    sends: usize,
    /// Whether the timer of a tick is set.
    ticks: bool,
}

/// The session of a member.
#[derive(Debug, Default)]
pub struct Member {
    lines: Lines,
    name: Box<str>,
    has_spoken: bool,
    bucket: Bucket,
}

/// The bytes that a member has sent lately; they leak out over time.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    said: u64,
    /// When the leak was last computed.
    at: Duration,
}

impl Bucket {
    /// Whether the member has used up its rate and must wait. (A line is always sent whole.)
    fn is_over(&mut self, (burst, a_second): (u64, u64), now: Duration) -> bool {
        let leaked = now.saturating_sub(self.at).as_millis() * u128::from(a_second) / 1_000;
        self.said = self.said.saturating_sub(u64::try_from(leaked).unwrap_or(u64::MAX));
        self.at = now;
        self.said > burst
    }

    fn fill(&mut self, bytes: usize) {
        self.said = self.said.saturating_add(bytes as u64);
    }
}

impl Chat {
    /// `max_line` bounds a line in bytes, its ending not counted.
    #[must_use]
    pub fn new(max_line: usize) -> Chat {
        Chat {
            max_line,
            rate: (BURST, RATE),
            members: Vec::new(),
            looks: HashSet::new(),
            guests: 0,
            line: String::new(),
            has_said: false,
            news: News { text: String::with_capacity(NEWS), ..News::default() },
            behind: Map::default(),
            waiting: Vec::new(),
            late: Map::default(),
        }
    }

    /// Sets how many bytes a member may send at once and a second, names included (512 KiB,
    /// 256 KiB).
    #[must_use]
    pub fn rate(mut self, burst: u64, a_second: u64) -> Chat {
        self.rate = (burst, a_second);
        self
    }

    // ---- lines of members ------------------------------------------------------------

    /// Handles a line. Returns whether the member stays.
    fn hear(&mut self, conn: &mut Conn<'_>, member: &mut Member, line: &[u8]) -> bool {
        let Some(line) = telnet::clean(line) else { return lacks_memory(conn) };
        let line = &*line;
        if !replace(&mut member.has_spoken, true) && is_web(line) {
            conn.write(NO_WEB);
            return false;
        }
        member.bucket.fill(member.name.len() + line.len() + 3);
        match line.first() {
            None => {}
            Some(b'/') => return self.obey(conn, member, line),
            Some(_) => {
                return self.say(conn, format_args!("{}: {}", member.name, printable(line)));
            }
        }
        true
    }

    fn obey(&mut self, conn: &mut Conn<'_>, member: &mut Member, line: &[u8]) -> bool {
        let mut words = str::from_utf8(line).unwrap_or_default().split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("/name"), Some(name), None) => {
                return self.rename(conn, member, name).unwrap_or_else(|| lacks_memory(conn));
            }
            (Some("/who"), None, None) => self.list(conn),
            (Some("/quit"), None, None) => return false,
            _ => conn.write(COMMANDS),
        }
        true
    }

    /// Gives a member another name, if it may have that. `None` if there is no memory for it.
    fn rename(&mut self, conn: &mut Conn<'_>, member: &mut Member, name: &str) -> Option<bool> {
        if !is_name(name) {
            conn.write(BAD_NAME);
            return Some(true);
        }
        // A member may change the case of its own name.
        let own = looks(&member.name);
        let is_others = |look| self.looks.contains(look) && !own.contains(look);
        if *name == *member.name || looks(name).iter().any(is_others) {
            conn.write(TAKEN);
            return Some(true);
        }
        let [name, copy] = self.room_for(name)?;
        self.forget(&member.name);
        self.note(copy, conn.id());
        let before = replace(&mut member.name, name);
        let stays = self.say(conn, format_args!("* {before} is now {}", member.name));
        writeln!(conn, "* you are {}", member.name);
        Some(stays)
    }

    /// Room for a member with this name, and two copies of it.
    fn room_for(&mut self, name: &str) -> Option<[Box<str>; 2]> {
        self.members.try_reserve(1).ok()?;
        self.looks.try_reserve(2).ok()?;
        Some([text_of(name)?, text_of(name)?])
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.members.binary_search_by(|(other, _)| (**other).cmp(name))
    }

    /// A member has this name from now on, for which there is room,
    fn note(&mut self, name: Box<str>, id: ConnId) {
        self.looks.extend(looks(&name));
        let (Ok(place) | Err(place)) = self.place(&name);
        self.members.insert(place, (name, id));
    }

    /// Takes this name away from its member.
    fn forget(&mut self, name: &str) {
        if let Ok(place) = self.place(name) {
            self.members.remove(place);
        }
        looks(name).iter().for_each(|look| _ = self.looks.remove(look));
    }

    fn list(&self, conn: &mut Conn<'_>) {
        let here = self.members.len();
        write!(conn, "* {here} here:");
        for (name, _) in self.members.iter().take(LISTED) {
            write!(conn, " {name}");
        }
        match here.saturating_sub(LISTED) {
            0 => writeln!(conn),
            more => writeln!(conn, " and {more} more"),
        }
    }

    /// Sends a line to the others; whether there is memory for it.
    fn say(&mut self, conn: &mut Conn<'_>, line: fmt::Arguments<'_>) -> bool {
        self.has_said = true;
        let mut text = take(&mut self.line);
        let is_whole = append(&mut text, line);
        let id = conn.id();
        if is_whole {
            self.tell_news(conn.net(), None); // that was before
            self.tell(conn.net(), &text, Some(id));
        }
        self.line = emptied(text);
        is_whole || lacks_memory(conn)
    }

    /// Whether a talker has to wait for other members.
    fn must_wait(&self) -> bool {
        self.has_said && !self.behind.is_empty()
    }

    fn wait(&mut self, conn: &mut Conn<'_>) {
        let _ = push(&mut self.waiting, conn.id()); // without memory its timer resumes it
        conn.pause();
        conn.set_timer(Some(TICK));
    }

    /// Sends `text` to all members but one, and notes those that do not keep up.
    fn tell(&mut self, net: &mut Net, text: &str, except: Option<ConnId>) {
        if net.send_group(ROOM, text.as_bytes(), except).full == 0 {
            return;
        }
        for &(_, id) in self.members.iter().filter(|(_, id)| Some(*id) != except) {
            let is_full = net.conn(id).is_some_and(|conn| conn.is_full());
            if is_full && !self.late.contains_key(&id) {
                let _ = put(&mut self.behind, id, ()); // without memory it is not waited for
            }
        }
    }

    fn caught_up(&mut self, net: &mut Net, id: ConnId) {
        self.late.remove(&id);
        if self.behind.remove(&id).is_some() && self.behind.is_empty() {
            self.go_on(net);
        }
    }

    fn go_on(&mut self, net: &mut Net) {
        for id in self.waiting.drain(..) {
            if let Some(mut conn) = net.conn(id) {
                conn.resume();
            }
        }
    }

    // ---- members that come and go ----------------------------------------------------------

    /// `None` if there is no memory for a member.
    fn join(&mut self, conn: &mut Conn<'_>, member: &mut Member) -> Option<()> {
        let mut guest = String::new();
        while guest.is_empty() || looks(&guest).iter().any(|it| self.looks.contains(it)) {
            self.guests += 1;
            guest.clear();
            write!(Appending(&mut guest), "guest{}", self.guests).ok()?;
        }
        let [name, copy] = self.room_for(&guest)?;
        let id = conn.id();
        self.note(copy, id);
        member.name = name;
        let (name, here) = (&member.name, self.members.len());
        writeln!(conn, "* you are {name}, one of {here}: /name NEW, /who, /quit");
        conn.net().join(ROOM, id);
        self.announce(conn.net(), id, format_args!("* {name} joined"));
        Some(())
    }

    fn leave(&mut self, net: &mut Net, id: ConnId, member: &mut Member, why: impl Display) {
        let name = take(&mut member.name);
        if name.is_empty() {
            return; // it has left already
        }
        self.forget(&name);
        net.leave(ROOM, id); // it may still read for a while
        self.waiting.retain(|&other| other != id);
        self.caught_up(net, id);
        self.announce(net, id, format_args!("* {name} left{why}"));
    }

    fn announce(&mut self, net: &mut Net, whom: ConnId, news: fmt::Arguments<'_>) {
        self.news.count += 1;
        if self.news.count <= NAMED {
            append(&mut self.news.text, news);
        }
        if self.news.sends < CHEAP {
            self.tell_news(net, Some(whom));
        }
        self.begin_tick(net);
    }

    fn tell_news(&mut self, net: &mut Net, except: Option<ConnId>) {
        let count = take(&mut self.news.count);
        if count == 0 {
            return;
        }
        let (mut text, here) = (take(&mut self.news.text), self.members.len());
        if count > NAMED {
            text.clear();
            append(&mut text, format_args!("* {count} came or left, {here} are here"));
        }
        self.news.sends += here;
        self.tell(net, &text, except);
        self.news.text = emptied(text);
    }

    fn begin_tick(&mut self, net: &mut Net) {
        if !replace(&mut self.news.ticks, true) {
            net.after(TICK, 0);
        }
    }
}

impl ConnectionHandler for Chat {
    type Session = Member;

    fn on_open(&mut self, conn: &mut Conn<'_>, member: &mut Member) {
        if self.join(conn, member).is_none() {
            conn.out_of_memory();
        }
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, member: &mut Member, input: &[u8]) -> usize {
        let (mut rest, mut stays) = (input, true);
        self.has_said = false;
        let now = conn.net().now();
        while stays
            && !conn.is_full()
            && !self.must_wait()
            && !member.bucket.is_over(self.rate, now)
        {
            match member.lines.next(&mut rest, self.max_line, |answer| conn.write(answer)) {
                Frame::Whole { body, .. } => stays = self.hear(conn, member, body),
                Frame::Partial => break,
                Frame::TooLong => {
                    too_long(conn, self.max_line);
                    stays = false;
                }
            }
        }
        if self.must_wait() {
            self.wait(conn);
        } else if stays && member.bucket.is_over(self.rate, now) {
            conn.pause();
            conn.set_timer(Some(TICK));
        }
        if !stays {
            let id = conn.id();
            self.leave(conn.net(), id, member, "");
            conn.close();
        }
        input.len() - rest.len()
    }

    /// A line without its end is a line too if the client has sent FIN.
    fn on_eof(&mut self, conn: &mut Conn<'_>, member: &mut Member, rest: &[u8]) {
        if rest.len() > self.max_line {
            too_long(conn, self.max_line);
        } else {
            self.hear(conn, member, rest);
        }
        conn.close();
    }

    fn on_drain(&mut self, conn: &mut Conn<'_>, _: &mut Member) {
        let id = conn.id();
        self.caught_up(conn.net(), id);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, member: &mut Member) {
        if self.waiting.contains(&conn.id()) {
            let has_room = self.late.try_reserve(self.behind.len()).is_ok();
            self.late.extend(self.behind.drain().take(if has_room { usize::MAX } else { 0 }));
            self.go_on(conn.net());
        } else if member.bucket.is_over(self.rate, conn.net().now()) {
            conn.set_timer(Some(TICK));
        } else {
            conn.resume();
        }
    }

    fn on_tick(&mut self, net: &mut Net, _: TimerId, _: u64) {
        self.news.ticks = false;
        self.news.sends = 0;
        if self.news.count > 0 {
            self.tell_news(net, None);
            self.begin_tick(net);
        }
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, mut member: Member, why: CloseReason) {
        match why {
            CloseReason::PeerClosed | CloseReason::Handler => self.leave(net, id, &mut member, ""),
            other => self.leave(net, id, &mut member, format_args!(" ({other})")),
        }
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.tell(net, GOODBYE, None);
    }
}

/// Whether a name has only visible letters and digits, of one script or of several that are
/// commonly mixed, and does not look like the beginning of the server's own lines.
fn is_name(name: &str) -> bool {
    let fits = |c: char| matches!(c, '-' | '_') || c.is_alphanumeric() && is_printable(c);
    (1..=LONGEST_NAME).contains(&name.chars().take(LONGEST_NAME + 1).count())
        && name.chars().all(fits)
        && name.check_restriction_level(RestrictionLevel::HighlyRestrictive)
        && has_few_marks(name.chars())
        && has_few_marks(name.chars().flat_map(char::to_lowercase))
        && !looks(name).iter().any(|look| looks("error").contains(look))
}

/// Whether a skeleton of `text` takes no memory. It sorts marks twice, as they are written and as
/// they look, and each time it keeps them until the letter behind them has come.
fn has_few_marks(text: impl Iterator<Item = char> + Clone) -> bool {
    let (mut written, mut seen) = (0, 0);
    text.clone().all(|c| wait(&mut written, c.nfd()))
        && text
            .nfd()
            .all(|c| skeleton(c.encode_utf8(&mut [0; 4])).all(|look| wait(&mut seen, once(look))))
}

/// A letter with its own marks comes behind `marks` that wait to be sorted. Returns whether there
/// is a place for all of them.
fn wait(marks: &mut usize, letter: impl Iterator<Item = char>) -> bool {
    let mut places = *marks;
    for c in letter {
        places += 1;
        *marks = if canonical_combining_class(c) == 0 { 0 } else { *marks + 1 };
    }
    places <= SORTED
}

/// What a name looks like, as it is written and in small letters: "paypaI" is like "paypal",
/// and "Anna" like "anna". Each look is a hash, which takes no memory; to find a name with that of
/// another takes 2^64 tries.
fn looks(name: &str) -> [u64; 2] {
    let mut small = [0; SMALL];
    let mut rest = &mut small[..];
    for c in name.chars().flat_map(char::to_lowercase) {
        let _ = io::Write::write_all(&mut rest, c.encode_utf8(&mut [0; 4]).as_bytes()); // it fits
    }
    let length = SMALL - rest.len();
    let small = small.get(..length).and_then(|small| str::from_utf8(small).ok());
    [name, small.unwrap_or(name)].map(|name| {
        let mut hasher = DefaultHasher::new();
        skeleton(name).for_each(|c| c.hash(&mut hasher));
        hasher.finish()
    })
}

/// Appends a line; `false` if there is no memory for all of it.
fn append(text: &mut String, line: fmt::Arguments<'_>) -> bool {
    writeln!(Appending(text), "{line}").is_ok()
}

/// There is no memory for what a member says: it leaves.
fn lacks_memory(conn: &mut Conn<'_>) -> bool {
    conn.out_of_memory();
    false
}

/// The string, emptied; its memory is kept unless it is large.
fn emptied(mut text: String) -> String {
    text.clear();
    if text.capacity() > KEPT { String::new() } else { text }
}

/// A copy of a string, if there is memory. It takes no more than its length.
fn text_of(text: &str) -> Option<Box<str>> {
    let copy = copied(text.as_bytes())?;
    String::from_utf8(copy).ok().map(String::into_boxed_str)
}
