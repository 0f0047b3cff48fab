//! Requests in, answers out: HTTP/1.1, as much of it as a browser needs.
//!
//! | address | answer |
//! |---|---|
//! | /docs/..., /src/... | a page, or a source with its lines numbered; `?raw`, the file as it is |
//! | /search?q=words | the sections with these words |
//! | /live/calls?request=N | the calls that delivered that page; /live/lanes.svg, as a picture |
//! | /live/state | each second, how the server is (Server-Sent Events) |
//! | POST /live/rude?client=NAME | what that client did, and what the server did about it |
//!
//! The number of a request is in the page that it brought and nowhere else, and cannot be guessed,
//! so nobody sees another reader's calls. A request must name this server as its host, so that no
//! name that an attacker controls leads here, and what a page elsewhere sends (`Origin`) is
//! refused: it cannot press the buttons.

use crate::lanes::{self, Told};
use crate::live::{Log, Place, locked};
use crate::pages::{MAP, Pages, SCRIPT, STYLE, escaped};
use crate::rude::{self, Deed, RUDE, Rude};
use crate::view::{Call, now};
use std::any::Any;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use threadbare::{Address, Conn, ConnId, ConnectionHandler, Presence};

const ICON: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path d='M2 8c4-9 8 9 12 0' fill='none' stroke='#c2410c' stroke-width='2.5' stroke-linecap='round'/></svg>";
const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const TOO_LONG: &str = "431 Request Header Fields Too Large";
const ELSEWHERE: &str = "403 Forbidden: to a page elsewhere, and under another name than http://";
/// A longer head is none of a browser.
const MOST: usize = 16 << 10;
/// Most requests remembered.
const REQUESTS: usize = 512;

pub struct Site {
    pages: Arc<Pages>,
    log: Arc<Mutex<Log>>,
    requests: VecDeque<(u64, Place)>,
    /// What makes the numbers of requests.
    secret: RandomState,
    served: u64,
}

#[derive(Default)]
pub struct Session {
    /// The connection in the log.
    life: Option<usize>,
    /// What a reader's corner was told last: when, and the sleep and the waits until then.
    told: Option<(Duration, Duration, u64)>,
}

struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    closes: bool,
    /// It names this server as its host, and comes from no other page.
    is_ours: bool,
    /// No form and no script of these pages sends one.
    has_body: bool,
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn of(kind: &'static str, body: impl Into<String>) -> Answer {
        Answer { status: "200 OK", kind, body: body.into() }
    }

    fn error(status: &'static str) -> Answer {
        Answer { status, kind: PLAIN, body: format!("{status}\n") }
    }
}

impl ConnectionHandler for Site {
    type Session = Session;

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        session.life.get_or_insert_with(|| locked(&self.log).current());
        let mut consumed = 0;
        while !conn.is_full() && session.told.is_none() {
            let rest = input.get(consumed..).unwrap_or_default();
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Request::new(&mut headers);
            match head.parse(rest) {
                Ok(httparse::Status::Complete(length)) => {
                    let request = Request::of(&head, conn.local());
                    consumed += length;
                    if length > MOST {
                        send(conn, &Answer::error(TOO_LONG), &Request::NONE, true);
                    } else if request.has_body {
                        send(conn, &Answer::error("413 Content Too Large"), &request, true);
                    } else {
                        self.answer(conn, session, &request);
                    }
                }
                Ok(httparse::Status::Partial) if rest.len() <= MOST => break,
                Ok(_) => send(conn, &Answer::error(TOO_LONG), &Request::NONE, true),
                Err(_) => send(conn, &Answer::error("400 Bad Request"), &Request::NONE, true),
            }
        }
        if session.told.is_some() { input.len() } else { consumed }
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, _: &mut Session, result: Box<dyn Any + Send>) {
        if let Ok(done) = result.downcast::<(Deed, Place, bool)>() {
            let (deed, place, closes) = *done;
            let answer = self.deed(&deed, place);
            send(conn, &answer, &Request::NONE, closes);
        }
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        let Some((then, slept, woken)) = session.told else { return };
        let (now, net) = (now(), conn.net());
        let ids: Vec<ConnId> = net.ids().collect();
        let waiting: usize = ids.iter().filter_map(|id| Some(net.conn(*id)?.queued())).sum();
        let (asleep, total) = {
            let log = locked(&self.log);
            (log.asleep, log.woken)
        };
        let share =
            (asleep.saturating_sub(slept)).as_secs_f64() / (now - then).as_secs_f64().max(1e-9);
        let (clients, turns, percent) = (ids.len(), total - woken, 100.0 * share.min(1.0));
        write!(
            conn,
            "data: {clients} connections · {waiting} bytes waiting · {turns} wake-ups/s · {percent:.1} % asleep\n\n"
        );
        session.told = Some((now, asleep, total));
        conn.set_timer(Some(Duration::from_secs(1)));
    }
}

impl Request<'_> {
    const NONE: Request<'static> = Request {
        method: "GET",
        path: "",
        query: "",
        closes: true,
        is_ours: false,
        has_body: false,
    };

    fn of<'a>(head: &'a httparse::Request<'_, '_>, local: Option<&Address>) -> Request<'a> {
        let field = |name: &str| {
            let found = head.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name));
            found.and_then(|it| std::str::from_utf8(it.value).ok())
        };
        let (path, query) =
            head.path.map_or(("", ""), |path| path.split_once('?').unwrap_or((path, "")));
        let method = head.method.unwrap_or_default();
        let host = field("host").unwrap_or_default();
        let names = match local {
            Some(Address::Tcp(address)) => {
                vec![address.to_string(), format!("localhost:{}", address.port())]
            }
            _ => Vec::new(),
        };
        let origin = field("origin").map(|it| it.strip_prefix("http://").unwrap_or_default());
        let is_same = origin.map_or(method != "POST", |origin| origin == host);
        let has_length = field("content-length").is_some_and(|length| length != "0");
        Request {
            method,
            path,
            query,
            closes: head.version == Some(0)
                || field("connection").is_some_and(|it| it.eq_ignore_ascii_case("close")),
            is_ours: is_same && names.iter().any(|name| name.eq_ignore_ascii_case(host)),
            has_body: has_length || field("transfer-encoding").is_some(),
        }
    }

    /// A word of the query.
    fn word(&self, name: &str) -> Option<String> {
        let mut words = form_urlencoded::parse(self.query.as_bytes());
        words.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// Sends an answer; and then, perhaps, the end.
fn send(conn: &mut Conn<'_>, answer: &Answer, request: &Request<'_>, closes: bool) {
    let Answer { status, kind, body } = answer;
    let connection = if closes { "Connection: close\r\n" } else { "" };
    let moved =
        if status.starts_with("303") { format!("Location: /{MAP}\r\n") } else { String::new() };
    write!(
        conn,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{connection}{moved}\
        Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\
        Content-Security-Policy: default-src 'none'; connect-src 'self'; img-src 'self'; \
        script-src 'self'; style-src 'self' 'unsafe-inline'; form-action 'self'; \
        frame-ancestors 'none'; base-uri 'none'\r\n\r\n",
        body.len()
    );
    if request.method != "HEAD" {
        conn.write(body.as_bytes());
    }
    if closes {
        conn.close();
    }
}

impl Site {
    pub fn new(pages: Arc<Pages>, log: Arc<Mutex<Log>>) -> Site {
        let (requests, secret) = (VecDeque::new(), RandomState::new());
        Site { pages, log, requests, secret, served: 0 }
    }

    fn answer(&mut self, conn: &mut Conn<'_>, session: &mut Session, request: &Request<'_>) {
        let place = locked(&self.log).request(session.life.unwrap_or_default());
        let answer = match (request.method, request.path) {
            _ if !request.is_ours => Answer {
                body: format!(
                    "{ELSEWHERE}{}/\n",
                    conn.local().map_or(String::new(), Address::to_string)
                ),
                ..Answer::error("403 Forbidden")
            },
            ("POST", "/live/rude") => match self.let_loose(conn, request, place) {
                Some(answer) => answer,
                None => return, // it comes when the client is done
            },
            ("GET", "/live/state") => {
                let log = locked(&self.log);
                session.told = Some((now(), log.asleep, log.woken));
                conn.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n");
                return conn.set_timer(Some(Duration::from_millis(300)));
            }
            ("GET" | "HEAD", path) => self.get(path, request, place),
            _ => Answer::error("405 Method Not Allowed"),
        };
        send(conn, &answer, request, request.closes);
    }

    fn get(&mut self, path: &str, request: &Request<'_>, place: Place) -> Answer {
        let file = path.trim_matches('/');
        match path {
            "/" => Answer::error("303 See Other"),
            "/book.css" => Answer::of("text/css", self.pages.raw(STYLE).unwrap_or_default()),
            "/book.js" => Answer::of("text/javascript", self.pages.raw(SCRIPT).unwrap_or_default()),
            "/icon.svg" => Answer::of("image/svg+xml", ICON),
            "/search" => {
                let query = request.word("q").unwrap_or_default();
                let found = self.pages.search(&query);
                self.page(
                    place,
                    "",
                    &query,
                    "Search",
                    &format!("<h1>Search: {}</h1>{found}", escaped(&query)),
                )
            }
            "/live/calls" | "/live/lanes.svg" => {
                let number = request.word("request").and_then(|it| it.parse::<u64>().ok());
                let found = self.requests.iter().find(|it| Some(it.0) == number);
                let Some((number, of)) = found.copied() else {
                    return Answer::error("404 Not Found");
                };
                let (before, lines) = locked(&self.log).lines(of);
                if path == "/live/lanes.svg" {
                    let mut all = [before, lines].concat();
                    all.iter_mut()
                        .for_each(|it| it.1.truncate(it.1.find('\t').unwrap_or(it.1.len())));
                    return Answer::of("image/svg+xml", lanes::draw(&all));
                }
                let count = lines.len();
                let text = format!(
                    "<h1>The calls that delivered a page</h1><section class=told><p>The server \
                    asked its kernel {count} times to bring you this page, and these are the calls \
                    of this request alone:</p>{}{}</section>",
                    self.told(&lines),
                    picture(number)
                );
                self.page(place, "", "", "Calls", &text)
            }
            _ => match (self.pages.page(file), self.pages.raw(file)) {
                (_, Some(raw)) if request.query == "raw" => Answer::of(PLAIN, raw),
                (_, Some(raw)) if file.ends_with(".svg") => Answer::of("image/svg+xml", raw),
                (Some((title, text)), _) => self.page(place, file, "", &title, &text),
                (None, _) => Answer::error("404 Not Found"),
            },
        }
    }

    /// Lets a rude client loose: one at a time, for there is one worker.
    fn let_loose(
        &mut self,
        conn: &mut Conn<'_>,
        request: &Request<'_>,
        place: Place,
    ) -> Option<Answer> {
        let name = request.word("client").unwrap_or_default();
        let Some(rude) = RUDE.iter().find(|rude| rude.name == name) else {
            return Some(Answer::error("404 Not Found"));
        };
        let Some(Address::Tcp(address)) = conn.local().cloned() else {
            return Some(Answer::error("404 Not Found"));
        };
        let (log, closes) = (Arc::clone(&self.log), request.closes);
        let job =
            move |_: &mut (), _: &Presence| (rude::let_loose(rude, address, &log), place, closes);
        (!conn.work(job)).then(|| Answer::error("503 Service Unavailable"))
    }

    /// What a rude client did, and what the server did about it.
    fn deed(&mut self, deed: &Deed, place: Place) -> Answer {
        let lines = deed.caused.map_or_else(Vec::new, |it| locked(&self.log).lines(it).1);
        let picture = deed.caused.map_or(String::new(), |it| picture(self.remember(it)));
        let (does, seen, count) = (deed.rude.does, escaped(&deed.seen), lines.len());
        let text = format!(
            "<h1>A rude client</h1><section class=told><p>A client {does}. It saw: {seen}. \
            What the server did about it, in {count} calls:</p>{}{picture}</section>",
            self.told(&lines)
        );
        self.page(place, "", "", "A rude client", &text)
    }

    /// Gives a request its number, by which whoever has it asks for its calls.
    fn remember(&mut self, place: Place) -> u64 {
        self.served += 1;
        let number = self.secret.hash_one(self.served);
        self.requests.push_back((number, place));
        if self.requests.len() > REQUESTS {
            self.requests.pop_front();
        }
        number
    }

    /// Lines of the narrator, each with a link to its chapter.
    fn told(&self, lines: &[Told]) -> String {
        let first = lines.first().map_or(Duration::ZERO, |it| it.0);
        let lines = lines.iter().map(|(at, line)| {
            let mut parts = line.split('\t');
            let line = parts.next().unwrap_or_default();
            let call = line.split("  # docs/").next().unwrap_or_default();
            let chapter = Call::of(line).map_or("", |call| call.chapter);
            let page = self.pages.chapter(chapter);
            let link = page.map(|path| format!("<a href='/{path}'>{chapter}</a>"));
            let gap = " ".repeat(12_usize.saturating_sub(chapter.len()));
            let held = parts.next().zip(parts.next());
            let held = held.map(|(receive, send)| format!(" data-held='{receive} {send}'"));
            let ms = at.saturating_sub(first).as_secs_f64() * 1e3;
            let (link, held, call) =
                (link.unwrap_or_default(), held.unwrap_or_default(), escaped(call));
            format!("<small>{ms:8.3}</small>  {link}{gap}<code{held}>{call}</code>\n")
        });
        format!("<pre class=c tabindex=0>{}</pre>", lines.collect::<String>())
    }

    /// The frame around a text.
    fn page(&mut self, place: Place, path: &str, query: &str, title: &str, text: &str) -> Answer {
        let button = |rude: &Rude| {
            let (name, does) = (rude.name, rude.does);
            format!("<button formaction='/live/rude?client={name}'>{does}</button>")
        };
        let is_file = self.pages.raw(path).is_some();
        let raw = if is_file { "<p><a href='?raw'>The file as it is</a></p>" } else { "" };
        let body = format!(
            include_str!("page.html"),
            number = self.remember(place),
            title = escaped(title),
            query = escaped(query),
            text = text,
            raw = raw,
            buttons = RUDE.iter().map(button).collect::<String>(),
            contents = self.pages.contents(path),
        );
        Answer::of(HTML, body)
    }
}

fn picture(number: u64) -> String {
    format!(
        "<img class=lanes src='/live/lanes.svg?request={number}' \
        alt='The same in lanes: one for each descriptor, a tick for each call'>"
    )
}
