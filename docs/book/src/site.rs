//! Requests in, answers out: HTTP, one request a connection.
//!
//! | address | answer |
//! |---|---|
//! | /docs/..., /src/... | a page, or a source with its lines numbered; `?raw`, the file as it is |
//! | /all | all pages in one, to be printed |
//! | /search?q=words | the sections with these words |
//! | /live/calls?request=N | the calls that delivered that page; /live/lanes.svg, as a picture |
//! | /live/state | each second, how the server is (Server-Sent Events) |
//! | POST /live/rude?client=NAME | what that client did, and what the server did about it |
//!
//! The number of a request is in the page that it brought and nowhere else, and cannot be guessed,
//! so nobody sees another reader's calls. A request must name this server as its host, so that no
//! name that an attacker controls leads here, and what a page elsewhere sends (`Origin`) is
//! refused: it cannot press the buttons.

use crate::lanes;
use crate::live::{Life, Log, locked};
use crate::pages::{HTML, NUMBER, PLAIN, Pages};
use crate::rude::{RUDE, Rude, let_loose};
use crate::view::now;
use httparse::Status::{Complete, Partial};
use std::any::Any;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use threadbare::{Address, Conn, ConnId, ConnectionHandler, Presence};

/// A longer head is none of a browser.
const MOST: usize = 16 << 10;
/// Most requests remembered.
const REQUESTS: usize = 512;
/// Fields of every answer: nothing is kept, and nothing comes from elsewhere.
const FIELDS: &str = "Connection: close\r\nCache-Control: no-store\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\
    Content-Security-Policy: default-src 'self'; style-src 'self' 'unsafe-inline'; \
    object-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'\r\n";

pub struct Site {
    pub pages: Arc<Pages>,
    pub log: Arc<Mutex<Log>>,
    /// The connections that carried them, by their numbers.
    pub requests: VecDeque<(String, Life)>,
}

#[derive(Default)]
pub struct Session {
    /// The connection in the log, once it has been received from.
    life: Option<Life>,
    /// What a reader's corner was told last: when, and the sleep and the waits until then.
    told: Told,
}

type Told = Option<(Duration, Duration, u64)>;
type Head<'a, 'b> = httparse::Request<'a, 'b>;

/// A status, perhaps with fields of its own; the type of a body, and the body.
type Answer = (&'static str, &'static str, String);

/// A rude client, what it saw, and what it caused.
type Deed = (&'static Rude, (String, Option<Life>));

const OK: &str = "200 OK";

fn error(status: &'static str) -> Answer {
    (status, PLAIN, format!("{status}\n"))
}

impl ConnectionHandler for Site {
    type Session = Session;

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        if session.told.is_some() {
            return input.len(); // it listens, and has no more to say
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        session.life = locked(&self.log).current();
        let answer = match head.parse(input) {
            Ok(Partial) if input.len() <= MOST => return 0,
            Ok(Complete(length)) if length <= MOST => self.answer(conn, &mut session.told, &head),
            Ok(_) => Some(error("431 Request Header Fields Too Large")),
            Err(_) => Some(error("400 Bad Request")),
        };
        if let Some(answer) = answer {
            self.send(conn, session.life, answer, head.method == Some("HEAD"));
        }
        input.len()
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, session: &mut Session, it: Box<dyn Any + Send>) {
        let Ok((rude, (seen, caused))) = it.downcast::<Deed>().map(|it| *it) else { return };
        let number = caused.map_or_else(String::new, |caused| self.remember(caused));
        let lines = caused.map_or_else(Vec::new, |caused| locked(&self.log).lines(caused));
        let page = self.pages.deed(rude, &seen, &lines, &number);
        self.send(conn, session.life, (OK, HTML, page), false);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        let Some((then, slept, woken)) = session.told else { return };
        let (now, asleep, total) = self.slept();
        let percent = 100.0 * (asleep - slept).div_duration_f64(now - then).min(1.0);
        let (net, turns) = (conn.net(), total - woken);
        let ids: Vec<ConnId> = net.ids().collect();
        let waiting: usize = ids.iter().filter_map(|id| Some(net.conn(*id)?.queued())).sum();
        write!(conn, "data: connections {} · bytes waiting {waiting} · ", ids.len());
        write!(conn, "wake-ups/s {turns} · asleep {percent:.1} %\n\n");
        session.told = Some((now, asleep, total));
        conn.set_timer(Some(Duration::from_secs(1)));
    }
}

impl Site {
    /// Now, how long the server has slept until now, and how often it has woken.
    fn slept(&self) -> (Duration, Duration, u64) {
        let log = locked(&self.log);
        (now(), log.asleep, log.woken)
    }

    /// The answer to a request; none if it comes later.
    fn answer(&mut self, conn: &mut Conn, told: &mut Told, head: &Head) -> Option<Answer> {
        let field = |name: &str| {
            let found = head.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name));
            found.map(|it| String::from_utf8_lossy(it.value).to_ascii_lowercase())
        };
        let Some(&Address::Tcp(address)) = conn.local() else { return None };
        let (method, host) = (head.method?, field("host").unwrap_or_default());
        let names = [address.to_string(), format!("localhost:{}", address.port())];
        let is_foreign = |origin| origin != format!("http://{host}");
        if !names.contains(&host) || field("origin").map_or(method == "POST", is_foreign) {
            let why = format!("403 Forbidden: this is http://{address}/, for its own pages\n");
            return Some(("403 Forbidden", PLAIN, why));
        }
        let (path, query) = head.path.and_then(|it| it.split_once('?')).unwrap_or((head.path?, ""));
        let word = form_urlencoded::parse(query.as_bytes()).next();
        let word = word.map_or(String::new(), |it| it.1.into_owned());
        let found = match (method, path) {
            ("POST", "/live/rude") => return self.let_loose(conn, &word, address),
            ("GET", "/live/state") => {
                *told = Some(self.slept());
                conn.set_timer(Some(Duration::from_millis(300)));
                conn.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
                return None;
            }
            ("GET" | "HEAD", "/") => Some(error("303 See Other\r\nLocation: /docs/README.md")),
            ("GET" | "HEAD", "/live/calls" | "/live/lanes.svg") => self.calls(path, &word),
            ("GET" | "HEAD", _) => self.pages.get(path, query, &word).map(|it| (OK, it.0, it.1)),
            _ => Some(error("405 Method Not Allowed")),
        };
        Some(found.unwrap_or_else(|| error("404 Not Found")))
    }

    /// The calls of a request, to be read or as a picture.
    fn calls(&self, path: &str, number: &str) -> Option<Answer> {
        let (_, life) = self.requests.iter().find(|it| it.0 == number)?;
        let log = locked(&self.log);
        let lines = log.lines(*life);
        if path == "/live/calls" {
            return Some((OK, HTML, self.pages.calls(number, &lines)));
        }
        let all = log.start.iter().cloned().chain(lines).map(|line| (line.at, line.text));
        Some((OK, "image/svg+xml", lanes::draw(&all.collect::<Vec<_>>())))
    }

    /// Lets a rude client loose: one at a time, for there is one worker.
    fn let_loose(&self, conn: &mut Conn<'_>, name: &str, at: SocketAddr) -> Option<Answer> {
        let Some(rude) = RUDE.iter().find(|rude| rude.0 == name) else {
            return Some(error("404 Not Found"));
        };
        let log = Arc::clone(&self.log);
        let job = move |_: &mut (), _: &Presence| -> Deed { (rude, let_loose(rude, at, &log)) };
        (!conn.work(job)).then(|| error("503 Service Unavailable"))
    }

    /// Gives a request its number, by which whoever has it asks for its calls.
    fn remember(&mut self, life: Life) -> String {
        let number = RandomState::new().hash_one(now()).to_string();
        self.requests.push_front((number.clone(), life));
        self.requests.truncate(REQUESTS);
        number
    }

    /// Sends an answer, a page with the number of its request, and the end.
    fn send(&mut self, conn: &mut Conn<'_>, life: Option<Life>, answer: Answer, is_head: bool) {
        let (status, kind, mut body) = answer;
        if let (HTML, Some(life)) = (kind, life) {
            body = body.replace(NUMBER, &self.remember(life));
        }
        write!(conn, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n");
        write!(conn, "Content-Length: {}\r\n{FIELDS}\r\n", body.len());
        if !is_head {
            conn.write(body.as_bytes());
        }
        conn.close();
    }
}
