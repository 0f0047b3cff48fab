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
    Content-Security-Policy: default-src 'none'; connect-src 'self'; img-src 'self'; \
    script-src 'self'; style-src 'self' 'unsafe-inline'; form-action 'self'; \
    frame-ancestors 'none'; base-uri 'none'\r\n";

pub struct Site {
    pages: Arc<Pages>,
    log: Arc<Mutex<Log>>,
    requests: VecDeque<(String, Life)>,
    /// What makes the numbers of requests.
    secret: RandomState,
}

type Head<'a, 'b> = httparse::Request<'a, 'b>;

/// What a reader's corner was told last: when, and the sleep and the waits until then.
type Session = Option<(Duration, Duration, u64)>;

/// A status, perhaps with fields of its own; the type of a body, and the body.
type Answer = (String, &'static str, String);

/// A rude client, what it saw and caused, and the connection that let it loose.
type Deed = (&'static Rude, (String, Option<Life>), Option<Life>);

fn error(status: &str) -> Answer {
    (status.to_owned(), PLAIN, format!("{status}\n"))
}

impl ConnectionHandler for Site {
    type Session = Session;

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let answer = match head.parse(input) {
            _ if session.is_some() => None, // it is listening, and has no more to say
            Ok(Partial) if input.len() <= MOST => return 0,
            Ok(Complete(length)) if length <= MOST => self.answer(conn, session, &head),
            Ok(_) => Some(error("431 Request Header Fields Too Large")),
            Err(_) => Some(error("400 Bad Request")),
        };
        let life = locked(&self.log).current();
        if let Some(answer) = answer {
            self.send(conn, answer, life, head.method == Some("HEAD"));
        }
        input.len()
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, _: &mut Session, result: Box<dyn Any + Send>) {
        let Ok(deed) = result.downcast::<Deed>() else { return };
        let (rude, (seen, caused), life) = *deed;
        let number = caused.map(|caused| self.remember(caused)).unwrap_or_default();
        let lines = caused.map_or_else(Vec::new, |caused| locked(&self.log).lines(caused));
        let page = self.pages.deed(rude, &seen, &lines, &number);
        self.send(conn, ("200 OK".to_owned(), HTML, page), life, false);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        let Some((then, slept, woken)) = session.take() else { return };
        let now = self.now();
        let share = (now.1 - slept).div_duration_f64(now.0 - then).min(1.0);
        let (turns, percent, net) = (now.2 - woken, 100.0 * share, conn.net());
        let ids: Vec<ConnId> = net.ids().collect();
        let waiting: usize = ids.iter().filter_map(|id| Some(net.conn(*id)?.queued())).sum();
        write!(
            conn,
            "data: {} connections · {waiting} bytes waiting · {turns} wake-ups/s · {percent:.1} % asleep\n\n",
            ids.len()
        );
        *session = Some(now);
        conn.set_timer(Some(Duration::from_secs(1)));
    }
}

impl Site {
    pub fn new(pages: Arc<Pages>, log: Arc<Mutex<Log>>) -> Site {
        Site { pages, log, requests: VecDeque::new(), secret: RandomState::new() }
    }

    fn now(&self) -> (Duration, Duration, u64) {
        let log = locked(&self.log);
        (now(), log.asleep, log.woken)
    }

    /// The answer to a request; none if it comes later.
    fn answer(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Session,
        head: &Head<'_, '_>,
    ) -> Option<Answer> {
        let field = |name: &str| {
            let found = head.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name));
            found.map(|it| String::from_utf8_lossy(it.value).to_ascii_lowercase())
        };
        let Some(&Address::Tcp(address)) = conn.local() else { return None };
        let (host, origin) = (field("host").unwrap_or_default(), field("origin"));
        let names = [address.to_string(), format!("localhost:{}", address.port())];
        let is_posted = head.method == Some("POST");
        let is_foreign = origin.map_or(is_posted, |origin| origin != format!("http://{host}"));
        if is_foreign || !names.contains(&host) {
            return Some(error(&format!("403 Forbidden: to others than http://{address}/")));
        }
        let (path, query) = head.path.and_then(|it| it.split_once('?')).unwrap_or((head.path?, ""));
        let word = form_urlencoded::parse(query.as_bytes()).next().map(|it| it.1.into_owned());
        let (word, found) = (word.unwrap_or_default(), "200 OK".to_owned());
        let answer = match (head.method?, path) {
            ("POST", "/live/rude") => return self.let_loose(conn, &word, address),
            ("GET", "/live/state") => {
                *session = Some(self.now());
                conn.set_timer(Some(Duration::from_millis(300)));
                conn.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
                return None;
            }
            ("GET" | "HEAD", "/") => Some(error("303 See Other\r\nLocation: /docs/README.md")),
            ("GET" | "HEAD", "/search") => Some((found, HTML, self.pages.search(&word))),
            ("GET" | "HEAD", "/live/calls" | "/live/lanes.svg") => self.calls(path, &word),
            ("GET" | "HEAD", _) => {
                let page = self.pages.get(path.trim_matches('/'), query == "raw");
                page.map(|(kind, text)| (found, kind, text))
            }
            _ => Some(error("405 Method Not Allowed")),
        };
        answer.or_else(|| Some(error("404 Not Found")))
    }

    /// The calls of a request, to be read or as a picture.
    fn calls(&self, path: &str, number: &str) -> Option<Answer> {
        let (_, life) = self.requests.iter().find(|it| it.0 == number)?;
        let log = locked(&self.log);
        let lines = log.lines(*life);
        let (found, is_read) = ("200 OK".to_owned(), path == "/live/calls");
        if is_read {
            return Some((found, HTML, self.pages.calls(number, &lines)));
        }
        let all = log.start.iter().cloned().chain(lines).map(|line| (line.at, line.text));
        Some((found, "image/svg+xml", lanes::draw(&all.collect::<Vec<_>>())))
    }

    /// Lets a rude client loose: one at a time, for there is one worker.
    fn let_loose(&self, conn: &mut Conn<'_>, name: &str, at: SocketAddr) -> Option<Answer> {
        let Some(rude) = RUDE.iter().find(|rude| rude.0 == name) else {
            return Some(error("404 Not Found"));
        };
        let (log, life) = (Arc::clone(&self.log), locked(&self.log).current());
        let job =
            move |_: &mut (), _: &Presence| -> Deed { (rude, let_loose(rude, at, &log), life) };
        (!conn.work(job)).then(|| error("503 Service Unavailable"))
    }

    /// Gives a request its number, by which whoever has it asks for its calls.
    fn remember(&mut self, life: Life) -> String {
        let number = self.secret.hash_one(now()).to_string();
        self.requests.push_back((number.clone(), life));
        if self.requests.len() > REQUESTS {
            self.requests.pop_front();
        }
        number
    }

    /// Sends an answer, a page with the number of its request, and the end.
    fn send(&mut self, conn: &mut Conn<'_>, answer: Answer, life: Option<Life>, is_head: bool) {
        let (status, kind, mut body) = answer;
        if let (HTML, Some(life)) = (kind, life) {
            body = body.replace(NUMBER, &self.remember(life));
        }
        let length = body.len();
        write!(
            conn,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{FIELDS}\r\n"
        );
        if !is_head {
            conn.write(body.as_bytes());
        }
        conn.close();
    }
}
