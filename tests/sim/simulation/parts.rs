//! Handlers that a stage can play: of each it can be told what a client is owed, from
//! nothing but the bytes that the client sent.

use super::stage::broadcast;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use threadbare::escape::printable;
use threadbare::handlers::{Chat, Echo, Framing, Greet, Once};
use threadbare::{CloseReason, Conn, ConnId, ConnectionHandler, Net, Peer};

pub trait Part: ConnectionHandler + Sized + 'static {
    /// Whether its answers are whole lines, so that lines for all can come between them.
    const IN_LINES: bool = true;
    /// Whether it serves whoever comes.
    const SERVES_ALL: bool = true;
    /// Whether everybody hears what the others say, from the first line of each on.
    const TELLS_ALL: bool = false;
    /// Lines that only it understands; `#` stands for a number.
    const COMMANDS: &[&str] = &[];

    /// What a client is owed that sent this, and then ended its direction or not.
    fn due(&self, client: Option<Peer>, sent: &[u8], ended: bool) -> Due;

    /// What others may hear of a client that sent this.
    fn told(&self, sent: &[u8], _ended: bool) -> Vec<Vec<u8>> {
        let lines = sent.split_inclusive(|&byte| byte == b'\n');
        lines.filter(|line| line.starts_with(b"!")).map(<[u8]>::to_vec).collect()
    }

    /// What was received without what depends on how the bytes were cut on their way, or on
    /// who else was there.
    fn essence(&self, received: &[u8]) -> Vec<u8> {
        received.to_vec()
    }

    /// Whether it has stopped the server.
    fn has_stopped(&self) -> bool {
        false
    }
}

/// What a client is owed.
#[derive(Default)]
pub struct Due {
    /// In order.
    pub answers: Vec<Vec<u8>>,
    /// The last of them is to a rest that only the end made a message: a stop drops it.
    pub to_rest: bool,
    /// The handler ends it, whether or not the client does.
    pub ending: Option<Ending>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Ending {
    Close,
    Abort,
    /// Behind a FIN, which may have told all before it.
    LateAbort,
}

/// A handler, and the accounts of what it was told.
pub struct Watched<P> {
    pub part: P,
    pub opened: u64,
    pub closed: Vec<CloseReason>,
    /// Whom it has met.
    pub met: Vec<Peer>,
    /// Calls from a handle that were made.
    pub jobs: u64,
    /// All lines that it took.
    pub heard: BTreeSet<Vec<u8>>,
}

impl<P> Watched<P> {
    pub fn new(part: P) -> Watched<P> {
        let (closed, met, heard) = Default::default();
        Watched { part, opened: 0, closed, met, jobs: 0, heard }
    }
}

impl<P: Part> ConnectionHandler for Watched<P> {
    type Session = P::Session;

    fn on_open(&mut self, conn: &mut Conn<'_>, session: &mut P::Session) {
        self.opened += 1;
        self.met.push(conn.peer());
        self.part.on_open(conn, session);
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut P::Session, input: &[u8]) -> usize {
        let consumed = self.part.on_data(conn, session, input);
        let lines = input[..consumed].split_inclusive(|&byte| byte == b'\n');
        self.heard.extend(lines.map(<[u8]>::to_vec));
        consumed
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, session: &mut P::Session, rest: &[u8]) {
        self.part.on_eof(conn, session, rest);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_>, session: &mut P::Session) {
        self.part.on_drain(conn, session);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut P::Session) {
        self.part.on_timer(conn, session);
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, session: P::Session, why: CloseReason) {
        self.closed.push(why);
        self.part.on_close(net, id, session, why);
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.part.on_shutdown(net);
    }
}

// ---- one that can do everything -------------------------------------------------------

/// A line that begins with `*` is answered so often.
const ECHOES: usize = 8;

/// Answers each line with itself, in a way that its first byte chooses.
#[derive(Default)]
pub struct Chorus;

impl ConnectionHandler for Chorus {
    /// A line that is answered later.
    type Session = Vec<u8>;

    fn on_data(&mut self, conn: &mut Conn<'_>, later: &mut Vec<u8>, input: &[u8]) -> usize {
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            if conn.is_full() || !line.ends_with(b"\n") || !later.is_empty() {
                break;
            }
            consumed += line.len();
            match line[0] {
                b'*' => (0..ECHOES).for_each(|_| conn.write(line)),
                b'!' => broadcast(conn.net(), line),
                b'z' => {
                    later.extend(line);
                    conn.pause();
                    conn.set_timer(Some(Duration::from_secs(1)));
                }
                b'x' => {
                    conn.write(line);
                    conn.close();
                    break;
                }
                b'a' => {
                    conn.abort();
                    break;
                }
                b'f' => {
                    (0..ECHOES).for_each(|_| conn.write(line));
                    conn.finish(); // what comes behind it is taken, and not answered
                }
                _ => conn.write(line),
            }
        }
        consumed
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, later: &mut Vec<u8>) {
        let line = std::mem::take(later);
        conn.write(&line);
        match line.ends_with(b"\n") {
            true => conn.resume(),
            false => self.on_eof(conn, later, b"\n"),
        }
    }

    /// A rest that begins with `z` is answered later, too, on a half-closed connection.
    fn on_eof(&mut self, conn: &mut Conn<'_>, later: &mut Vec<u8>, rest: &[u8]) {
        match rest {
            [] | b"\n" => conn.write(rest),
            [b'z', ..] => {
                later.extend(rest);
                return conn.set_timer(Some(Duration::from_secs(1)));
            }
            _ => {
                conn.write(rest);
                conn.write(b"\n");
            }
        }
        conn.close();
    }
}

impl Part for Chorus {
    fn due(&self, _: Option<Peer>, sent: &[u8], ended: bool) -> Due {
        let mut due = Due::default();
        let mut finished = false;
        for line in sent.split_inclusive(|&byte| byte == b'\n') {
            let times = match line[0] {
                _ if finished => 0,
                b'a' => 0,
                b'*' | b'f' if line.ends_with(b"\n") => ECHOES,
                _ => 1,
            };
            match line[0] {
                _ if !line.ends_with(b"\n") => {
                    let answers = (ended && !finished).then(|| [line, b"\n"].concat());
                    due.to_rest = answers.is_some();
                    due.answers.extend(answers);
                    break;
                }
                b'a' if finished => due.ending = Some(Ending::LateAbort),
                b'a' => due.ending = Some(Ending::Abort),
                b'x' => due.ending = Some(Ending::Close),
                b'f' => finished = true,
                _ => {}
            }
            due.answers.extend((0..times).map(|_| line.to_vec()));
            if due.ending.is_some() {
                break;
            }
        }
        due
    }
}

// ---- those of the program --------------------------------------------------------------

impl Part for Echo {
    const IN_LINES: bool = false;

    fn due(&self, _: Option<Peer>, sent: &[u8], _: bool) -> Due {
        let lines = sent.split_inclusive(|&byte| byte == b'\n');
        Due { answers: lines.map(<[u8]>::to_vec).collect(), ..Due::default() }
    }
}

const THANKS: &[u8] = b"Thank you for your message ";
const ANSWER: &[u8] = b"Good talking to you\n";

/// The longest line that [`greet`] and [`once`] take.
pub const MAX_LINE: usize = 24;

const TOO_LONG: &[u8] = b"error: line longer than 24 bytes\n";

/// What the sender of `line` is to be told, which has its ending if it has one.
fn thanks(line: &[u8], ended: bool) -> Option<Result<Vec<u8>, Vec<u8>>> {
    let whole = line.ends_with(b"\n");
    let text = match line.strip_suffix(b"\n") {
        Some(text) => text.strip_suffix(b"\r").unwrap_or(text),
        // A CR may yet belong to the ending.
        None if !ended => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    };
    match whole || ended {
        _ if text.len() > MAX_LINE => Some(Err(TOO_LONG.to_vec())),
        true => Some(Ok([THANKS, line, if whole { b"" } else { b"\n" }].concat())),
        false => None,
    }
}

/// `greet`, by lines.
pub fn greet() -> Greet {
    Greet::new(Framing::Line, MAX_LINE)
}

impl Part for Greet {
    fn due(&self, _: Option<Peer>, sent: &[u8], ended: bool) -> Due {
        let mut due = Due::default();
        for line in sent.split_inclusive(|&byte| byte == b'\n') {
            due.to_rest = !line.ends_with(b"\n") && ended;
            match thanks(line, ended) {
                Some(Ok(answer)) => due.answers.push(answer),
                Some(Err(complaint)) => {
                    due.answers.push(complaint);
                    due.ending = Some(Ending::Close);
                    break;
                }
                None => {}
            }
        }
        due
    }
}

/// `greet`, by chunks: what it says depends on how the bytes came.
pub struct Chunks(Greet);

impl Chunks {
    pub fn new() -> Chunks {
        Chunks(Greet::new(Framing::Chunk, MAX_LINE))
    }
}

impl ConnectionHandler for Chunks {
    type Session = <Greet as ConnectionHandler>::Session;

    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Self::Session, input: &[u8]) -> usize {
        self.0.on_data(conn, lines, input)
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, lines: &mut Self::Session, rest: &[u8]) {
        self.0.on_eof(conn, lines, rest);
    }
}

impl Part for Chunks {
    const IN_LINES: bool = false;

    fn due(&self, client: Option<Peer>, sent: &[u8], ended: bool) -> Due {
        Echo.due(client, sent, ended)
    }

    /// All thanks left out, also one that was cut; no client sends the letter it begins with.
    fn essence(&self, received: &[u8]) -> Vec<u8> {
        let mut thanked = received.split(|&byte| byte == THANKS[0]);
        assert_eq!(thanked.next().unwrap_or_default(), b"", "an answer without thanks");
        let chunk = |thanked: &[u8]| {
            let rest = thanked.strip_prefix(&THANKS[1..]);
            assert!(rest.is_some() || THANKS[1..].starts_with(thanked), "thanks in pieces");
            rest.unwrap_or_default().to_vec()
        };
        thanked.flat_map(chunk).collect()
    }
}

/// `chat`, with the same lines.
pub fn chat() -> Chat {
    Chat::new(MAX_LINE)
}

impl Part for Chat {
    const TELLS_ALL: bool = true;
    const COMMANDS: &[&str] = &["/who", "/name x#", "/quit"];

    /// Answers to what nobody else hears.
    fn due(&self, _: Option<Peer>, sent: &[u8], ended: bool) -> Due {
        let mut due = Due::default();
        for line in sent.split_inclusive(|&byte| byte == b'\n') {
            let complaint = thanks(line, ended).and_then(Result::err);
            due.to_rest = complaint.is_some() && !line.ends_with(b"\n") && ended;
            if complaint.is_some() || line.starts_with(b"/quit") {
                due.answers.extend(complaint);
                due.ending = Some(Ending::Close);
                break;
            }
        }
        due
    }

    fn told(&self, sent: &[u8], ended: bool) -> Vec<Vec<u8>> {
        let lines = sent.split_inclusive(|&byte| byte == b'\n');
        let heard = lines.take_while(|line| {
            let is_whole = line.ends_with(b"\n") || ended;
            is_whole && matches!(thanks(line, ended), Some(Ok(_))) && !line.starts_with(b"/quit")
        });
        let said = heard.filter(|line| !line.starts_with(b"/") && line.trim_ascii() != b"");
        said.map(|line| format!("{}\n", printable(line)).into_bytes()).collect()
    }

    /// Without who came and went, and the names of those who speak.
    fn essence(&self, received: &[u8]) -> Vec<u8> {
        let lines = received.split_inclusive(|&byte| byte == b'\n');
        let said = lines.filter(|line| !line.starts_with(b"*")).map(|line| {
            let length = line.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            match (&line[..length], &line[length..]) {
                (b"error", _) => line,
                (_, [b':', b' ', words @ ..]) => words,
                (name, b"" | b":") if !name.is_empty() => b"", // cut behind a name, or in it
                _ => line,
            }
        });
        said.collect::<Vec<_>>().concat()
    }
}

type Print = Box<dyn FnMut(&[u8])>;

/// `once`, and to whom it said something.
pub struct OneGuest {
    once: Once<Print>,
    framing: Framing,
    printed: Rc<RefCell<Vec<Vec<u8>>>>,
    answered: Vec<Peer>,
}

impl OneGuest {
    pub fn new(framing: Framing) -> OneGuest {
        let printed = Rc::<RefCell<Vec<_>>>::default();
        let print = Rc::clone(&printed);
        let print: Print = Box::new(move |text| print.borrow_mut().push(text.into()));
        OneGuest { once: Once::new(framing, MAX_LINE, print), framing, printed, answered: vec![] }
    }

    fn watch<T>(
        &mut self,
        conn: &mut Conn<'_>,
        act: impl FnOnce(&mut Self, &mut Conn<'_>) -> T,
    ) -> T {
        let queued = conn.queued();
        let result = act(self, conn);
        self.answered.extend((conn.queued() > queued).then(|| conn.peer()));
        result
    }
}

impl ConnectionHandler for OneGuest {
    type Session = <Once<Print> as ConnectionHandler>::Session;

    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Self::Session, input: &[u8]) -> usize {
        self.watch(conn, |this, conn| this.once.on_data(conn, lines, input))
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, lines: &mut Self::Session, rest: &[u8]) {
        self.watch(conn, |this, conn| this.once.on_eof(conn, lines, rest));
    }
}

impl Part for OneGuest {
    const SERVES_ALL: bool = false;

    /// Who was not the first is owed nothing, and who was is known by its address.
    fn due(&self, client: Option<Peer>, sent: &[u8], ended: bool) -> Due {
        let printed = self.printed.borrow();
        assert_eq!(printed.len(), usize::from(self.once.done()), "printed {printed:?}");
        let came_late = client.is_none_or(|client| !self.answered.contains(&client));
        if self.once.done() && came_late {
            return Due { ending: Some(Ending::Close), ..Due::default() };
        }
        let first = sent.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
        let told = match self.framing {
            Framing::Line => thanks(first, ended && !first.is_empty()),
            Framing::Chunk => (!first.is_empty()).then(|| Ok(Vec::new())),
        };
        if let (Some(Ok(_)), Some(message)) = (&told, printed.first()) {
            assert!(sent.starts_with(message), "printed {printed:?}");
        }
        let answers = told.map(|told| told.map_or_else(|complaint| complaint, |_| ANSWER.to_vec()));
        let ending = answers.is_some().then_some(Ending::Close);
        let to_rest = self.framing == Framing::Line && !first.ends_with(b"\n");
        Due { answers: answers.into_iter().collect(), to_rest, ending }
    }

    fn has_stopped(&self) -> bool {
        self.once.done()
    }
}
