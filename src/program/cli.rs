//! The command line: words in, [`Command`] out.
//!
//! Options may stand anywhere; of one that is given twice the last counts, and
//! `-l` adds. Whatever cannot be understood ends in a [`Usage`] error: one line
//! that quotes the word, names what was probably meant, and is never followed by
//! a half-configured server. What can be written is in the [table](super::table), which
//! a test holds against the parser.

use super::{explain, guess, help, table};
use lexopt::Arg::{Long, Short, Value};
use lexopt::Parser;
use log::LevelFilter;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use threadbare::address::{Place, leads_to};
use threadbare::escape::escaped;
use threadbare::handlers::Framing;
use threadbare::{Address, AddressError, Limits, MAX_LISTENERS, ToAddresses};

pub(crate) const VERSION: &str = concat!("threadbare ", env!("CARGO_PKG_VERSION"), "\n");

/// What the words ask for.
#[derive(Debug)]
pub(crate) enum Command {
    /// This page.
    Help(String),
    Version,
    Serve(Box<Options>),
}

/// How to serve.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) handler: Handler,
    pub(crate) listen: Vec<Place>,
    pub(crate) limits: Limits,
    pub(crate) narrate: bool,
    pub(crate) log_level: LevelFilter,
}

/// Which handler serves, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    Greet {
        framing: Framing,
        max_line: usize,
    },
    Once {
        framing: Framing,
        max_line: usize,
    },
    Echo,
    Chat {
        max_line: usize,
    },
    Proxy {
        upstream: Place,
        unresolved: Option<AddressError>,
        connect_timeout: Duration,
        send_proxy: bool,
    },
    Http {
        directory: Option<PathBuf>,
        access_log: bool,
        deadline: Option<Duration>,
    },
}

/// A command line that cannot be understood: one line, without its `error: `.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; try -h", self.0)
    }
}

/// Understands the words behind the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, Usage> {
    let mut parser = Parser::from_args(words);
    let mut draft = Draft::default();
    // For the error: lexopt takes words apart, and the user knows them whole.
    let mut whole = None;
    loop {
        if let Some(words) = parser.try_raw_args() {
            whole = words.peek().map(OsStr::to_os_string); // else it is in the middle of one
        }
        let Some(arg) = parser.next().map_err(readable)? else {
            return draft.finish().map(Box::new).map(Command::Serve);
        };
        let name = match arg {
            Short('h') | Long("help") => {
                let name = draft.handler.as_deref().and_then(OsStr::to_str);
                return Ok(Command::Help(name.and_then(help::page_of).unwrap_or_else(help::page)));
            }
            Short('V') | Long("version") => return Ok(Command::Version),
            Long("explain") => {
                let word = value("--explain", &mut parser)?;
                return explain::page(&word.to_string_lossy()).map(Command::Help).map_err(Usage);
            }
            Short(letter) => format!("-{letter}"),
            Long(name) => format!("--{name}"),
            Value(word) => {
                draft.word(word)?;
                continue;
            }
        };
        draft.option(&name, &mut parser, whole.as_deref())?;
    }
}

/// What has been said so far.
#[derive(Default)]
struct Draft {
    handler: Option<OsString>,
    /// The word behind the handler, for one that takes a word.
    arg: Option<OsString>,
    listen: Vec<OsString>,
    limits: Limits,
    framing: Option<Framing>,
    max_line: Option<usize>,
    connect_timeout: Option<Option<Duration>>,
    access_log: bool,
    send_proxy: bool,
    proxy_protocol: bool,
    narrate: bool,
    log_level: Option<LevelFilter>,
}

/// Memory in which not even one message can wait would serve nobody: the longest one, its answer,
/// a copy of what the kernel does not take of that, and what the loop needs.
fn enough_memory(max_memory: usize, handler: &Handler) -> Result<(), Usage> {
    let longest = match handler {
        Handler::Greet { max_line, .. }
        | Handler::Once { max_line, .. }
        | Handler::Chat { max_line } => *max_line,
        Handler::Http { .. } | Handler::Echo | Handler::Proxy { .. } => 16 << 10,
    };
    let least = longest.saturating_mul(3).saturating_add(64 << 10);
    match max_memory < least {
        true => Err(Usage(format!(
            "--max-memory {max_memory} is too little for a message of {longest} bytes, it takes {least}"
        ))),
        false => Ok(()),
    }
}

impl Draft {
    /// The one table from names to meanings.
    fn option(
        &mut self,
        name: &str,
        words: &mut Parser,
        whole: Option<&OsStr>,
    ) -> Result<(), Usage> {
        let limits = &mut self.limits;
        match name {
            "-l" | "--listen" => self.listen.push(value(name, words)?),
            "--framing" => self.framing = Some(take(name, words, framing)?),
            "--max-line" => self.max_line = Some(take(name, words, bytes)?),
            "--access-log" => self.access_log = true,
            "--send-proxy" => self.send_proxy = true,
            "--proxy-protocol" => self.proxy_protocol = true,
            "--max-connections" => limits.max_connections = take(name, words, count)?,
            "--max-per-ip" => limits.max_per_address = take(name, words, count_or_off)?,
            "--give-way" => limits.give_way = take(name, words, seconds)?,
            "--backlog" => limits.backlog = take(name, words, count)?,
            "--idle-timeout" => limits.idle_timeout = take(name, words, seconds)?,
            "--message-timeout" => limits.message_timeout = take(name, words, seconds)?,
            "--write-timeout" => limits.write_timeout = take(name, words, seconds)?,
            "--connect-timeout" => self.connect_timeout = Some(take(name, words, seconds)?),
            "--drain-timeout" => limits.drain_timeout = take(name, words, seconds)?,
            "--high-water" => limits.high_water = take(name, words, bytes)?,
            "--max-output" => limits.max_output = take(name, words, bytes)?,
            "--max-memory" => limits.max_memory = take(name, words, bytes)?,
            "--unix-mode" => limits.unix_mode = take(name, words, mode)?,
            "--reuse-port" => limits.reuse_port = 1,
            "--stop-delay" => limits.stop_delay = take(name, words, seconds)?,
            "--narrate" => self.narrate = true,
            "-v" | "--verbose" => self.log_level = Some(LevelFilter::Debug),
            "-q" | "--quiet" => self.log_level = Some(LevelFilter::Error),
            unknown => return Err(unknown_option(unknown, words, whole)),
        }
        Ok(())
    }

    /// A word that is no option: the handler, and what a handler may have behind it.
    fn word(&mut self, word: OsString) -> Result<(), Usage> {
        let takes_a_word = |handler: &OsString| handler == "proxy" || handler == "http";
        match &self.handler {
            None => self.handler = Some(word),
            Some(handler) if takes_a_word(handler) && self.arg.is_none() => self.arg = Some(word),
            Some(handler) => {
                let name = handler.to_string_lossy();
                if !table::handlers().any(|known| known == name) {
                    return Err(unknown_handler(handler, Some(&word)));
                }
                let arg = self.arg.as_deref().and_then(OsStr::to_str);
                let advice = guess::surplus(&word.to_string_lossy(), &name, arg);
                let (word, handler) = (quoted(&word), quoted(handler));
                return Err(Usage(format!(
                    "unexpected word {word} after the handler {handler}{advice}"
                )));
            }
        }
        Ok(())
    }

    /// Puts the options together, now that all of them are known.
    fn finish(self) -> Result<Options, Usage> {
        let word = self.handler.clone().unwrap_or_else(|| "greet".into());
        let framing = self.framing.unwrap_or(Framing::Line);
        let max_line = self.max_line.unwrap_or(64 << 10);
        let (handler, listen) = match word.to_str() {
            Some("greet") => (Handler::Greet { framing, max_line }, "127.0.0.1:1234"),
            Some("once") => (Handler::Once { framing, max_line }, "127.0.0.1:9999"),
            Some("echo") => (Handler::Echo, "127.0.0.1:1234"),
            Some("chat") => (Handler::Chat { max_line }, "127.0.0.1:1234"),
            Some("http") => (self.http(), "127.0.0.1:1234"),
            Some("proxy") => (self.proxy()?, "127.0.0.1:1234"),
            _ => return Err(unknown_handler(&word, None)),
        };
        self.refuse_unused(&handler)?;
        let mut limits = self.limits;
        if let Handler::Http { .. } = handler {
            limits.message_timeout = None; // it has a deadline of its own, and says so
        }
        limits.high_water = limits.high_water.min(limits.max_output);
        limits.max_input = max_line.saturating_add(128 << 10);
        enough_memory(limits.max_memory, &handler)?;
        let mut listen = listens(&self.listen, Place::inherited(), listen)?;
        if self.proxy_protocol {
            listen = listen.into_iter().map(Place::behind_front).collect();
        }
        if let Handler::Proxy { upstream, .. } = &handler {
            limits.max_outbound = limits.max_connections;
            refuse_loop(&listen, upstream)?;
        }
        let log_level = self.log_level.unwrap_or(LevelFilter::Info);
        Ok(Options { handler, listen, limits, narrate: self.narrate, log_level })
    }

    fn http(&self) -> Handler {
        Handler::Http {
            directory: self.arg.as_ref().map(PathBuf::from),
            access_log: self.access_log,
            deadline: self.limits.message_timeout,
        }
    }

    /// An option that the handler does not use is a mistake.
    fn refuse_unused(&self, handler: &Handler) -> Result<(), Usage> {
        let (name, takes_lines) = match handler {
            Handler::Greet { .. } => ("greet", true),
            Handler::Once { .. } => ("once", true),
            Handler::Chat { .. } => ("chat", true),
            Handler::Echo => ("echo", false),
            Handler::Http { .. } => ("http", false),
            Handler::Proxy { .. } => ("proxy", false),
        };
        let takes_chunks = matches!(handler, Handler::Greet { .. } | Handler::Once { .. });
        let unused = match self {
            Draft { framing: Some(_), .. } if !takes_chunks => "--framing is for greet and once",
            Draft { max_line: Some(_), .. } if !takes_lines => {
                "--max-line is for greet, once and chat"
            }
            Draft { access_log: true, .. } if name != "http" => "--access-log is for http",
            Draft { connect_timeout: Some(_), .. } if name != "proxy" => {
                "--connect-timeout is for proxy"
            }
            Draft { send_proxy: true, .. } if name != "proxy" => "--send-proxy is for proxy",
            _ => return Ok(()),
        };
        Err(Usage(format!("{unused}, {name} does not use it")))
    }

    /// The handler that needs a word more.
    fn proxy(&self) -> Result<Handler, Usage> {
        let Some(word) = &self.arg else {
            return Err(Usage("proxy needs an address, as in proxy 127.0.0.1:8080".into()));
        };
        let upstream = Place::parse(word).map_err(|error| Usage(format!("proxy {error}")))?;
        if !upstream.descriptors().is_empty() {
            return Err(Usage(format!("proxy {} is no address to connect to", quoted(word))));
        }
        if upstream.port() == Some(0) {
            return Err(Usage(format!("proxy {} names no port to connect to", quoted(word))));
        }
        // A name that does not exist yet may be that of a container which starts later.
        let (upstream, unresolved) = match upstream.look_up() {
            Ok(upstream) => (upstream, None),
            Err(error) => (upstream, Some(error)),
        };
        let seconds = self.connect_timeout.unwrap_or(Some(Duration::from_secs(10)));
        let connect_timeout = seconds.unwrap_or(Duration::MAX);
        let send_proxy = self.send_proxy;
        Ok(Handler::Proxy { upstream, unresolved, connect_timeout, send_proxy })
    }
}

/// Where to listen: at the places that the words behind `-l` name; without any at the sockets
/// that were passed, or else where the handler always does.
fn listens(words: &[OsString], passed: Vec<Place>, handler: &str) -> Result<Vec<Place>, Usage> {
    match (words, &passed[..]) {
        ([], []) => places(&[handler.into()]),
        ([], _) => Ok(passed),
        _ => {
            let places = places(words)?;
            refuse_unnamed(&places, &passed)?;
            Ok(places)
        }
    }
}

/// Clients would never be accepted from the queue of a socket that was passed and is not named.
fn refuse_unnamed(places: &[Place], passed: &[Place]) -> Result<(), Usage> {
    let named: Vec<i32> = places.iter().flat_map(Place::descriptors).copied().collect();
    let is_named = |place: &&Place| place.descriptors().iter().all(|number| named.contains(number));
    let (named, unnamed): (Vec<&Place>, Vec<&Place>) = passed.iter().partition(is_named);
    if unnamed.is_empty() {
        return Ok(());
    }
    let list = |places: &[&Place]| {
        places.iter().map(|place| place.to_string()).collect::<Vec<_>>().join(" and ")
    };
    let (count, plural) = (passed.len(), if passed.len() == 1 { "" } else { "s" });
    let (names, too) = match &named[..] {
        [] => ("none of them".to_owned(), ""),
        named => (format!("only {}", list(named)), " too"),
    };
    let unnamed = list(&unnamed);
    Err(Usage(format!(
        "LISTEN_FDS passes {count} socket{plural}, and -l names {names}; \
         name {unnamed}{too}, or leave -l out"
    )))
}

/// The places that the words behind `-l` name.
fn places(words: &[OsString]) -> Result<Vec<Place>, Usage> {
    let places = words.to_places().map_err(|error| Usage(format!("-l {error}")))?;
    let count: usize = places.iter().map(Place::count).sum();
    if count > MAX_LISTENERS {
        return Err(Usage(format!(
            "-l names {count} addresses, and a server has at most {MAX_LISTENERS}: \
             0.0.0.0:PORT is all addresses of this machine, [::]:PORT all IPv6 ones"
        )));
    }
    Ok(places)
}

/// A proxy that connected to itself would hand on one client until nothing is left.
fn refuse_loop(listen: &[Place], upstream: &Place) -> Result<(), Usage> {
    let shown = |address: &Address| escaped(address.to_string().as_bytes()).to_string();
    for own in listen.iter().flat_map(Place::addresses) {
        if let Some(upstream) = upstream.addresses().iter().find(|target| leads_to(target, own)) {
            let what = match (shown(own), shown(upstream)) {
                (own, upstream) if own == upstream => format!("proxy listens on {own}"),
                (own, upstream) => format!("proxy listens on {own}, which is {upstream} too"),
            };
            return Err(Usage(format!("{what}, and cannot forward to itself")));
        }
    }
    Ok(())
}

// ---- values ----------------------------------------------------------------

/// A kind of value: what the text means, or what it should have been.
type Kind<T> = fn(&str) -> Result<T, &'static str>;

fn value(name: &str, words: &mut Parser) -> Result<OsString, Usage> {
    words.value().map_err(|_| Usage(format!("{name} needs a value")))
}

fn take<T>(name: &str, words: &mut Parser, kind: Kind<T>) -> Result<T, Usage> {
    let word = value(name, words)?;
    let meant = kind(word.to_str().unwrap_or_default());
    meant.map_err(|wanted| Usage(format!("{name} takes {wanted}, not {}", quoted(&word))))
}

fn framing(text: &str) -> Result<Framing, &'static str> {
    match text {
        "line" => Ok(Framing::Line),
        "chunk" => Ok(Framing::Chunk),
        _ => Err("line or chunk"),
    }
}

/// A number from 1 to the largest that listen(2) takes.
fn count(text: &str) -> Result<u32, &'static str> {
    let number = digits(text).and_then(|number| i32::try_from(number).ok());
    number
        .filter(|&number| number > 0)
        .map(i32::unsigned_abs)
        .ok_or("a number from 1 to 2147483647")
}

fn count_or_off(text: &str) -> Result<u32, &'static str> {
    let number = digits(text).and_then(|number| u32::try_from(number).ok());
    number.ok_or("a number from 1 to 4294967295, or 0 for off")
}

fn bytes(text: &str) -> Result<usize, &'static str> {
    let shift = match text.chars().last() {
        Some('K' | 'k') => 10,
        Some('M' | 'm') => 20,
        Some('G' | 'g') => 30,
        _ => 0,
    };
    let number = text.strip_suffix(['K', 'k', 'M', 'm', 'G', 'g']).unwrap_or(text);
    let bytes = digits(number).and_then(|number| number.checked_mul(1 << shift));
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|&bytes| bytes > 0);
    bytes.ok_or("a number of bytes such as 65536, 64K, 4M or 1G")
}

/// Seconds; 0 is off. Deadlines are kept in milliseconds, so a shorter time is one
/// of these and never off. More than 11 days most likely means milliseconds.
fn seconds(text: &str) -> Result<Option<Duration>, &'static str> {
    const LONGEST: f64 = 1e6;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse::<f64>() {
        Ok(0.0) if plain => Ok(None),
        Ok(seconds) if plain && seconds <= LONGEST => {
            Ok(Some(Duration::from_secs_f64(seconds).max(Duration::from_millis(1))))
        }
        _ => Err("seconds such as 30 or 0.5, at most 1000000, or 0 for off"),
    }
}

/// Permission bits as chmod(1) writes them.
fn mode(text: &str) -> Result<u32, &'static str> {
    let octal = text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| octal && mode <= 0o777);
    mode.ok_or("an octal mode from 0 to 0777, such as 0600")
}

/// A number in plain digits: no sign, no space.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

// ---- errors ----------------------------------------------------------------

fn quoted(word: &OsStr) -> String {
    format!("\"{}\"", escaped(word.as_bytes()))
}

/// lexopt's own complaint: only a value where none belongs can come up here.
fn readable(error: lexopt::Error) -> Usage {
    match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            Usage(format!("{} takes no value, not {}", escaped(option.as_bytes()), quoted(&value)))
        }
        other => Usage(escaped(other.to_string().as_bytes()).to_string()),
    }
}

/// `whole` is the word in which `name` stands; what follows may have been meant as its value.
fn unknown_option(name: &str, words: &mut Parser, whole: Option<&OsStr>) -> Usage {
    let whole = whole.unwrap_or(OsStr::new(name));
    let mut value = words.value().ok(); // the rest of the word, or else the next one
    let (word, name) = match whole.to_str().filter(|word| has_one_dash_of_two(word)) {
        Some(word) => {
            value = words.value().ok();
            (whole, format!("-{word}"))
        }
        None if whole.to_str().is_some_and(|word| !word.starts_with(name)) => {
            (OsStr::new(name), name.to_owned()) // -x of -vx
        }
        None => (whole, name.to_owned()),
    };
    let advice = guess::option(&name, value.as_deref().and_then(OsStr::to_str));
    Usage(format!("unknown option {}{advice}", quoted(word)))
}

/// `-port`: a word, and not a letter with its value.
fn has_one_dash_of_two(word: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    word.len() > 3 && !word.starts_with("--") && word.bytes().all(is_letter)
}

/// `next` is the word behind it.
fn unknown_handler(word: &OsStr, next: Option<&OsStr>) -> Usage {
    let advice = guess::handler(&word.to_string_lossy(), next.and_then(OsStr::to_str));
    Usage(format!("unknown handler {}{advice}", quoted(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::ffi::OsStringExt;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|usage| usage.to_string())
    }

    fn options(line: &str) -> Result<Options, String> {
        match parsed(line)? {
            Command::Serve(options) => Ok(*options),
            other => Err(format!("{other:?}")),
        }
    }

    fn complaint(line: &str) -> String {
        options(line).err().unwrap_or_default()
    }

    fn listen(line: &str) -> Result<Vec<String>, String> {
        Ok(options(line)?.listen.iter().map(Place::to_string).collect())
    }

    #[test]
    fn without_words_the_defaults_of_the_contract() -> Result<(), String> {
        let options = options("")?;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let due = Limits {
            max_outbound: 0,
            max_connections: 10_000,
            max_per_address: 0,
            give_way: seconds(1),
            backlog: 4096,
            idle_timeout: seconds(300),
            message_timeout: seconds(30),
            write_timeout: seconds(60),
            drain_timeout: seconds(10),
            high_water: 256 << 10,
            max_output: 4 << 20,
            max_memory: 256 << 20,
            max_input: (64 << 10) + (128 << 10),
            unix_mode: 0o600,
            reuse_port: 0,
            stop_delay: None,
        };
        assert_eq!(options.limits, due);
        let handler = Handler::Greet { framing: Framing::Line, max_line: 64 << 10 };
        assert_eq!(options.handler, handler);
        assert_eq!((options.narrate, options.log_level), (false, LevelFilter::Info));
        assert_eq!(listen("")?, ["127.0.0.1:1234"]);
        assert_eq!(listen("once")?, ["127.0.0.1:9999"]);
        assert_eq!(listen("echo")?, ["127.0.0.1:1234"]);
        Ok(())
    }

    #[test]
    fn memory_for_less_than_a_message_is_refused() -> Result<(), String> {
        let due =
            "--max-memory 1024 is too little for a message of 65536 bytes, it takes 262144; try -h";
        assert_eq!(complaint("--max-memory 1K"), due);
        assert_eq!(options("--max-memory 256K")?.limits.max_memory, 256 << 10);
        assert!(complaint("--max-memory 256K --max-line 65K chat").contains("265216"));
        assert_eq!(options("--max-memory 112K http")?.limits.max_memory, 112 << 10);
        Ok(())
    }

    #[test]
    fn http_has_a_directory_and_a_deadline_of_its_own() -> Result<(), String> {
        let options = options("http --access-log public --message-timeout 5")?;
        let directory = Some(PathBuf::from("public"));
        let deadline = Some(Duration::from_secs(5));
        assert_eq!(options.handler, Handler::Http { directory, access_log: true, deadline });
        assert_eq!(options.limits.message_timeout, None);
        Ok(())
    }

    #[test]
    fn options_stand_anywhere_and_the_last_wins() -> Result<(), String> {
        let words = "--max-line=1 once -q --max-line 2K -vl127.0.0.1:1 --framing chunk --narrate";
        let options = options(words)?;
        assert_eq!(options.handler, Handler::Once { framing: Framing::Chunk, max_line: 2048 });
        assert_eq!((options.narrate, options.log_level), (true, LevelFilter::Debug));
        assert_eq!(options.limits.max_input, 2048 + (128 << 10));
        assert_eq!(listen(words)?, ["127.0.0.1:1"]);
        Ok(())
    }

    #[test]
    fn proxy_takes_an_address_and_a_connection_for_each_client() -> Result<(), String> {
        let options = options("--max-connections 7 proxy [::1]:80 --connect-timeout 0.5")?;
        assert_eq!((options.limits.max_connections, options.limits.max_outbound), (7, 7));
        let Handler::Proxy { upstream, unresolved: None, connect_timeout, send_proxy: false } =
            options.handler
        else {
            return Err(format!("{:?}", options.handler));
        };
        let due = [Address::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], 80).into())];
        assert_eq!((upstream.addresses(), upstream.is_name()), (&due[..], false));
        assert_eq!(connect_timeout, Duration::from_millis(500));
        Ok(())
    }

    #[test]
    fn listeners_add_up() -> Result<(), String> {
        let words = "-l unix:b -l 127.0.0.1:1 --listen=unix:a -l localhost:1";
        assert_eq!(listen(words)?, ["unix:b", "127.0.0.1:1", "unix:a", "localhost:1"]);
        assert_eq!(listen("-l 127.0.0.1:0 -l 127.0.0.1:0")?, ["127.0.0.1:0", "127.0.0.1:0"]);
        Ok(())
    }

    #[test]
    fn values_mean_what_they_say() {
        let table: [(&str, Result<usize, ()>); 9] = [
            ("1", Ok(1)),
            ("64K", Ok(65_536)),
            ("64k", Ok(65_536)),
            ("3M", Ok(3 << 20)),
            ("2g", Ok(2 << 30)),
            ("0", Err(())),
            ("K", Err(())),
            ("1KB", Err(())),
            ("17179869184G", Err(())), // 2^64 bytes
        ];
        for (text, due) in table {
            assert_eq!(bytes(text).map_err(drop), due, "{text}");
        }
        let table = [
            ("0", Ok(None)),
            ("0.0", Ok(None)),
            ("0.5", Ok(Some(500_000))),
            (".25", Ok(Some(250_000))),
            ("300", Ok(Some(300_000_000))),
            ("0.00000000001", Ok(Some(1000))), // short, but not off
            ("1000000", Ok(Some(1_000_000_000_000))),
            ("1000001", Err(())),
            (".", Err(())),
            ("", Err(())),
            ("-1", Err(())),
            ("1e3", Err(())),
            ("NaN", Err(())),
        ];
        for (text, due) in table {
            let micros = |time: Option<Duration>| time.map(|time| time.as_micros());
            assert_eq!(seconds(text).map(micros).map_err(drop), due, "{text}");
        }
        for (text, due) in
            [("0600", Ok(0o600)), ("777", Ok(0o777)), ("1777", Err(())), ("+7", Err(()))]
        {
            assert_eq!(mode(text).map_err(drop), due, "{text}");
        }
        for (text, due) in
            [("1", Ok(1)), ("2147483647", Ok(0x7fff_ffff)), ("0", Err(())), ("+1", Err(()))]
        {
            assert_eq!(count(text).map_err(drop), due, "{text}");
        }
        assert_eq!(count_or_off("0"), Ok(0));
    }

    #[test]
    fn high_water_is_cut_to_the_largest_output() -> Result<(), String> {
        assert_eq!(options("--high-water 9M")?.limits.high_water, 4 << 20);
        assert_eq!(options("--max-output 1K")?.limits.high_water, 1 << 10);
        Ok(())
    }

    #[test]
    fn complaints_quote_the_word_and_say_what_was_meant() {
        for (line, due) in [
            (
                "--idle-timout 5",
                r#"unknown option "--idle-timout", did you mean --idle-timeout?; try -h"#,
            ),
            (
                "--idle-timout=5",
                r#"unknown option "--idle-timout=5", did you mean --idle-timeout?; try -h"#,
            ),
            ("--drain", r#"unknown option "--drain", did you mean --drain-timeout?; try -h"#),
            ("--frobnicate", r#"unknown option "--frobnicate"; try -h"#),
            ("-vx", r#"unknown option "-x"; try -h"#),
            ("--narrate=yes", r#"--narrate takes no value, not "yes"; try -h"#),
            ("--backlog", "--backlog needs a value; try -h"),
            ("--access-log", "--access-log is for http, greet does not use it; try -h"),
            ("http a b", r#"unexpected word "b" after the handler "http"; try -h"#),
            (
                "--max-line 5 http",
                "--max-line is for greet, once and chat, http does not use it; try -h",
            ),
            (
                "--backlog many",
                r#"--backlog takes a number from 1 to 2147483647, not "many"; try -h"#,
            ),
            ("--framing word", r#"--framing takes line or chunk, not "word"; try -h"#),
            ("ehco", r#"unknown handler "ehco", did you mean echo?; try -h"#),
            ("caht", r#"unknown handler "caht", did you mean chat?; try -h"#),
            (
                "serve",
                r#"unknown handler "serve", leave it out, or write greet, once, echo, chat, http or proxy; try -h"#,
            ),
            (
                "127.0.0.1:80",
                r#"unknown handler "127.0.0.1:80", did you mean -l 127.0.0.1:80?; try -h"#,
            ),
            ("8080", r#"unknown handler "8080", did you mean -l 127.0.0.1:8080?; try -h"#),
            ("echo more", r#"unexpected word "more" after the handler "echo"; try -h"#),
            (
                "echo --framing line",
                "--framing is for greet and once, echo does not use it; try -h",
            ),
            (
                "--max-line 5 echo",
                "--max-line is for greet, once and chat, echo does not use it; try -h",
            ),
            (
                "chat --framing line",
                "--framing is for greet and once, chat does not use it; try -h",
            ),
            ("proxy", "proxy needs an address, as in proxy 127.0.0.1:8080; try -h"),
            ("proxy 127.0.0.1:0", r#"proxy "127.0.0.1:0" names no port to connect to; try -h"#),
            (
                "proxy 8080",
                r#"proxy "8080" names no host, write 127.0.0.1:8080 (or 0.0.0.0:8080 for every interface); try -h"#,
            ),
            (
                "proxy 127.0.0.1:1 127.0.0.1:2",
                r#"unexpected word "127.0.0.1:2" after the handler "proxy"; try -h"#,
            ),
            (
                "proxy 127.0.0.1:1234",
                "proxy listens on 127.0.0.1:1234, and cannot forward to itself; try -h",
            ),
            (
                "proxy 127.0.0.1:1 --framing line",
                "--framing is for greet and once, proxy does not use it; try -h",
            ),
            (
                "echo --connect-timeout 1",
                "--connect-timeout is for proxy, echo does not use it; try -h",
            ),
            ("-l 127.0.0.1", r#"-l "127.0.0.1" names no port, write 127.0.0.1:1234; try -h"#),
            (
                "\u{1b}[2J",
                r#"unknown handler "\x1b[2J", the handlers are greet, once, echo, chat, http and proxy; try -h"#,
            ),
        ] {
            assert_eq!(complaint(line), due, "{line}");
        }
    }

    #[test]
    fn what_newcomers_type_first_is_answered_with_what_to_type() {
        for (line, due) in [
            ("-p 8080", r#"unknown option "-p", did you mean -l 127.0.0.1:8080?"#),
            ("-p8080", r#"unknown option "-p8080", did you mean -l 127.0.0.1:8080?"#),
            ("--port 8080", r#"unknown option "--port", did you mean -l 127.0.0.1:8080?"#),
            ("--port=8080", r#"unknown option "--port=8080", did you mean -l 127.0.0.1:8080?"#),
            ("-p", r#"unknown option "-p", did you mean -l 127.0.0.1:1234?"#),
            ("-port 8080", r#"unknown option "-port", did you mean -l 127.0.0.1:8080?"#),
            ("-version", r#"unknown option "-version", did you mean --version?"#),
            ("-max-line 5", r#"unknown option "-max-line", did you mean --max-line?"#),
            ("-p -v", r#"unknown option "-p", did you mean -l 127.0.0.1:1234?"#),
            ("echo -p 0.0.0.0:80", r#"unknown option "-p", did you mean -l 0.0.0.0:80?"#),
            ("--host localhost", r#"unknown option "--host", did you mean -l localhost:1234?"#),
            ("--host ::1", r#"unknown option "--host", did you mean -l [::1]:1234?"#),
            ("http -d public", r#"unknown option "-d", did you mean http public?"#),
            ("--dir", r#"unknown option "--dir", did you mean http DIR?"#),
            ("--threads 4", r#"unknown option "--threads", one thread serves all clients"#),
            ("help", r#"unknown handler "help", did you mean -h?"#),
            ("version", r#"unknown handler "version", did you mean -V?"#),
            ("serve public", r#"unknown handler "serve", did you mean http public?"#),
            ("serve 8080", r#"unknown handler "serve", did you mean -l 127.0.0.1:8080?"#),
            ("start echo", r#"unknown handler "start", did you mean echo?"#),
            ("src", r#"unknown handler "src", did you mean http src?"#),
            ("/tmp/a", r#"unknown handler "/tmp/a", did you mean -l unix:/tmp/a?"#),
            (":80", r#"unknown handler ":80", did you mean -l 127.0.0.1:80?"#),
            ("tcp://[::1]:80", r#"unknown handler "tcp://[::1]:80", did you mean -l [::1]:80?"#),
            (
                "echo 8080",
                r#"unexpected word "8080" after the handler "echo", did you mean -l 127.0.0.1:8080?"#,
            ),
            (
                "proxy localhost 80",
                r#"unexpected word "80" after the handler "proxy", did you mean proxy localhost:80?"#,
            ),
            ("-l tcp://0.0.0.0:80", r#"-l "tcp://0.0.0.0:80" has a scheme, write 0.0.0.0:80"#),
            ("proxy http://[::1]/", r#"proxy "http://[::1]/" has a scheme, write [::1]:1234"#),
        ] {
            assert_eq!(complaint(line), format!("{due}; try -h"), "{line}");
        }
    }

    #[test]
    fn a_proxy_that_would_reach_itself_does_not_start() {
        for (listen, upstream) in [
            ("127.0.0.1:1234", "127.0.0.1:1234"),
            ("0.0.0.0:1234", "127.0.0.1:1234"),
            ("0.0.0.0:1234", "127.9.9.9:1234"),
            ("0.0.0.0:1234", "0.0.0.0:1234"),
            ("127.0.0.1:1234", "0.0.0.0:1234"),
            ("[::]:1234", "[::1]:1234"),
            ("[::1]:1234", "[::]:1234"),
            ("unix:u1", "unix:./u1"),
            ("unix:/tmp/../tmp/u1", "unix:/tmp/u1"),
        ] {
            let words = format!("-l 127.0.0.1:1 -l {listen} proxy {upstream}");
            let complaint = complaint(&words);
            assert!(complaint.contains("cannot forward to itself"), "{words}: {complaint}");
        }
        for (listen, upstream) in [
            ("0.0.0.0:1234", "127.0.0.1:1235"),
            ("0.0.0.0:1234", "203.0.113.9:1234"), // another machine's, RFC 5737
            ("127.0.0.1:1234", "127.0.0.2:1234"),
            ("127.0.0.2:1234", "0.0.0.0:1234"),
            ("[::]:1234", "127.0.0.1:1234"), // it takes V6 only
            ("0.0.0.0:1234", "[::1]:1234"),
            ("unix:u1", "unix:/tmp/u1"),
            ("unix:1234", "127.0.0.1:1234"),
        ] {
            let words = format!("-l {listen} proxy {upstream}");
            assert_eq!(complaint(&words), "", "{words}");
        }
    }

    #[test]
    fn a_socket_that_was_passed_is_named_or_nothing_is() {
        let place = |word: &str| Place::parse(word.as_ref()).unwrap();
        let told = |words: &str, passed: &[&str]| {
            let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
            let passed = passed.iter().map(|word| place(word)).collect();
            match listens(&words, passed, "127.0.0.1:1234") {
                Ok(places) => places.iter().map(|it| it.to_string()).collect::<Vec<_>>().join(" "),
                Err(usage) => usage.0,
            }
        };
        assert_eq!(told("", &[]), "127.0.0.1:1234");
        assert_eq!(told("", &["fd:3", "fd:4"]), "fd:3 fd:4");
        assert_eq!(told("fd:4 127.0.0.1:1 fd:3", &["fd:3", "fd:4"]), "fd:4 127.0.0.1:1 fd:3");
        assert_eq!(told("fd:7", &[]), "fd:7");
        assert_eq!(
            told("fd:3", &["fd:3", "fd:4"]),
            "LISTEN_FDS passes 2 sockets, and -l names only fd:3; name fd:4 too, or leave -l out"
        );
        assert_eq!(
            told("127.0.0.1:1", &["fd:3"]),
            "LISTEN_FDS passes 1 socket, and -l names none of them; name fd:3, or leave -l out"
        );
    }

    #[test]
    fn words_that_are_no_utf8_are_quoted_byte_by_byte() {
        for (word, shown) in [
            (&b"br\xffken"[..], r#""br\xffken""#),
            (b"--br\xffken=\x01", r#""--br\xffken=\x01""#),
            (b"-\xff", r#""-\xff""#),
            (b"--narrate=\xff", r#""\xff""#),
            (b"-l\xff:80", r#""\xff:80""#),
            (b"--backlog=\xff", r#""\xff""#),
        ] {
            let usage =
                parse([OsString::from_vec(word.to_vec())]).err().map(|usage| usage.to_string());
            assert!(usage.as_ref().is_some_and(|usage| usage.contains(shown)), "{usage:?}");
        }
    }

    /// The page of -h is a screen, and what is in the table is understood, and nothing else.
    #[test]
    fn help_is_one_screen_and_true() {
        assert!(help::page().lines().count() <= 40, "{}", help::page().lines().count());
        let pages = table::handlers().filter_map(help::page_of);
        for page in pages.chain([help::page()]) {
            for line in page.lines() {
                assert!(line.len() <= 80, "{line}");
            }
        }
        for option in &table::OPTIONS {
            for name in option.names {
                assert!(!complaint(name).starts_with("unknown"), "{name} is not understood");
            }
            let table::Shown::For(handlers) = option.shown else { continue };
            for handler in &table::HANDLERS {
                let page = help::page_of(handler.name).unwrap_or_default();
                let is_used = handlers.contains(&handler.name);
                assert_eq!(page.contains(option.names[0]), is_used, "{option:?} {}", handler.name);
                let value = option.value.split('|').next().unwrap_or_default();
                let value = value.replace("BYTES", "1").replace('S', "1");
                let argument = handler.argument.replace("ADDR", "127.0.0.1:1");
                let line = format!("{} {argument} {} {value}", handler.name, option.names[0]);
                assert_eq!(complaint(&line).contains("does not use it"), !is_used, "{line}");
            }
        }
        let source = include_str!("cli.rs").split("match name {").nth(1).unwrap_or_default();
        let arms = source.split("unknown =>").next().unwrap_or_default();
        let understood = arms.split('"').filter(|word| word.starts_with('-'));
        let understood = understood
            .chain(["-h", "--help", "-V", "--version", "--explain"])
            .collect::<BTreeSet<_>>();
        assert_eq!(understood, table::options().collect());
    }

    #[test]
    fn help_and_version_come_first() {
        for line in ["-h", "--help", "echo -h", "-h --frobnicate", "-l nowhere -h"] {
            assert!(matches!(parsed(line), Ok(Command::Help(_))), "{line}");
        }
        assert!(matches!(parsed("-V"), Ok(Command::Version)));
        assert_eq!(VERSION, "threadbare 0.1.0\n");
    }
}
