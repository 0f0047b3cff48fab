//! The frame that a person at a terminal sees first: what is served, where, and what to try.
//!
//! ```text
//! ┌ greet: each line is answered with "Thank you for your message <line>"
//! │ talk to it     nc 127.0.0.1 1234    and type a line
//! │ stop it        Ctrl-C: it finishes what it has received; a second one: now
//! │ look inside    kill -USR1 4711    or start it with --narrate
//! └ be rude to it  yes | nc 127.0.0.1 1234 | sleep 9    asks, and never reads
//! ```
//!
//! It has no right side: names of files may be wider than their number of characters. No
//! line is wider than [`WIDTH`] columns, and what comes from outside is escaped.

use crate::cli::{Handler, Options};
use std::env::var_os;
use std::fmt::Write;
use std::fs::read_dir;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use threadbare::Address;
use threadbare::escape::escaped;

const WIDTH: usize = 79;

/// All lines, without the last one's end.
pub(crate) fn frame(options: &Options, addresses: &[Address]) -> String {
    let Options { handler, narrate, .. } = options;
    draw(&rows(handler, addresses, *narrate, has_make(), std::process::id()), is_utf8())
}

/// Make's target `run` sets it: then its other targets are at hand.
pub(crate) fn has_make() -> bool {
    var_os("THREADBARE_TIPS").is_some_and(|tips| tips == "make")
}

/// Draws a line beside the rows.
fn draw(rows: &[String], is_utf8: bool) -> String {
    let [first, between, last] = if is_utf8 { ["┌", "│", "└"] } else { ["+", "|", "+"] };
    let mut drawn = String::new();
    for (at, row) in rows.iter().enumerate() {
        let side = match at {
            0 => first,
            _ if at + 1 == rows.len() => last,
            _ => between,
        };
        let end = if at + 1 == rows.len() { "" } else { "\n" };
        let row = cut(row, WIDTH - 2, is_utf8);
        let _ = write!(drawn, "{side} {row}{end}");
    }
    drawn
}

/// The rows of the frame.
fn rows(
    handler: &Handler,
    addresses: &[Address],
    narrates: bool,
    has_make: bool,
    pid: u32,
) -> Vec<String> {
    let mut rows = vec![served(handler)];
    let mut row = |what: &str, how: &str| rows.push(format!("{what:<15}{how}"));
    let Some(address) = addresses.first() else { return rows };
    let named: Vec<String> = addresses.iter().take(3).map(shown).collect();
    let more = if addresses.len() > 3 { ", and more" } else { "" };
    let is_http = matches!(handler, Handler::Http { .. });
    if addresses.len() > 1 {
        row("listens on", &format!("{}{more}", named.join(", ")));
    }
    let (nc, url) = (netcat(address), url(address));
    // Both use this address unless they are told otherwise.
    let other = Some(shown(address)).filter(|it| it != "127.0.0.1:1234");
    let target = |name: &str| other.as_ref().map_or(String::new(), |it| format!(" {name}={it}"));
    let has_make = has_make && matches!(address, Address::Tcp(_));
    match url {
        Some(url) if is_http => {
            let url = url + &a_file(handler);
            let both = format!("{url}    or: curl {url}");
            row("open it", if both.len() <= WIDTH - 2 - 15 { &both } else { &url });
        }
        _ if is_http => row("talk to it", &format!("{} http://localhost/", curl_unix(address))),
        _ if has_make => row("talk to it", &format!("make client{}    or: {nc}", target("TO"))),
        _ => row("talk to it", &format!("{nc}    and type a line")),
    }
    row("stop it", "Ctrl-C: it finishes what it has received; a second one: now");
    let narrate = match has_make {
        _ if narrates => "",
        true => "    or make run ARGS=--narrate",
        false => "    or start it with --narrate",
    };
    row("look inside", &format!("kill -USR1 {pid}{narrate}"));
    row("be rude to it", &rude(handler, &nc, has_make.then(|| target("ADDR"))));
    rows
}

/// How to be a bad client of it: with make, which is told the address, or without.
fn rude(handler: &Handler, nc: &str, make: Option<String>) -> String {
    match (handler, make) {
        (Handler::Greet { .. } | Handler::Echo, Some(target)) => format!("make torture{target}"),
        // A client that reads no answer; or half a message, where nothing is answered.
        (Handler::Greet { .. } | Handler::Echo | Handler::Proxy { .. }, _) => {
            format!("yes | {nc} | sleep 9    asks, and never reads")
        }
        _ => format!("(printf half; sleep 99) | {nc}    half a message"),
    }
}

/// What is served.
fn served(handler: &Handler) -> String {
    match handler {
        Handler::Greet { .. } => {
            "greet: each line is answered with \"Thank you for your message <line>\"".into()
        }
        Handler::Once { .. } => {
            "once: the first message is printed, answered, and that is all".into()
        }
        Handler::Echo => "echo: what you send comes back".into(),
        Handler::Chat { .. } => "chat: each line goes to all other clients".into(),
        Handler::Http { directory: None, .. } => "http: every GET is answered with hello".into(),
        Handler::Http { directory: Some(directory), .. } => {
            format!("http: the files beneath {}", path(directory))
        }
        Handler::Proxy { upstream, .. } => {
            format!("proxy: each client is forwarded to {upstream}")
        }
    }
}

/// The path of a file to open, where `/` would be answered with 404: the README, or the first
/// by name.
fn a_file(handler: &Handler) -> String {
    let Handler::Http { directory: Some(directory), .. } = handler else { return String::new() };
    if directory.join("index.html").exists() {
        return String::new();
    }
    let is_plain = |name: &String| {
        !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let files = read_dir(directory).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_type().is_ok_and(|it| it.is_file()));
    let names = files.filter_map(|file| file.file_name().into_string().ok()).filter(is_plain);
    names.min_by_key(|name| (name != "README.md", name.clone())).unwrap_or_default()
}

fn shown(address: &Address) -> String {
    escaped(address.to_string().as_bytes()).to_string()
}

fn path(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes()).to_string()
}

/// An address to connect to: one that means every interface is reached through this machine.
fn reachable(address: SocketAddr) -> (IpAddr, u16) {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    (ip, address.port())
}

fn netcat(address: &Address) -> String {
    match address {
        Address::Tcp(tcp) => {
            let (ip, port) = reachable(*tcp);
            format!("nc {ip} {port}")
        }
        Address::Unix(socket) => format!("nc -U {}", path(socket)),
    }
}

fn url(address: &Address) -> Option<String> {
    let Address::Tcp(tcp) = address else { return None };
    let (ip, port) = reachable(*tcp);
    let address = SocketAddr::new(ip, port);
    Some(if port == 80 && ip.is_ipv4() {
        format!("http://{ip}/")
    } else {
        format!("http://{address}/")
    })
}

fn curl_unix(address: &Address) -> String {
    match address {
        Address::Unix(socket) => format!("curl --unix-socket {}", path(socket)),
        Address::Tcp(_) => "curl".into(),
    }
}

/// As much of a row as fits. Characters beyond ASCII may take two columns.
fn cut(row: &str, width: usize, is_utf8: bool) -> String {
    let columns = |c: char| if c.is_ascii() { 1 } else { 2 };
    if row.chars().map(columns).sum::<usize>() <= width {
        return row.to_owned();
    }
    let more = if is_utf8 { "…" } else { "..." };
    let mut left = width - 3;
    let fits = |c: &char| {
        let fits = columns(*c) <= left;
        left = left.saturating_sub(columns(*c));
        fits
    };
    row.chars().take_while(fits).chain(more.chars()).collect()
}

/// Whether the locale is UTF-8: the first variable that is set decides. locale(7)
fn is_utf8() -> bool {
    let said = |name| var_os(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(said).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn http(directory: &str) -> Handler {
        Handler::Http {
            directory: Some(PathBuf::from(directory)),
            access_log: false,
            deadline: None,
        }
    }

    #[test]
    fn every_row_fits_and_nothing_in_it_is_a_control_character() {
        let long = format!("/tmp/{}", "x\u{1b}[2J界".repeat(40));
        let unix = Address::Unix(PathBuf::from(&long));
        let tcp = Address::Tcp(([255, 255, 255, 255], 65_535).into());
        let v6: SocketAddr = SocketAddr::new(Ipv6Addr::from([0xffff; 8]).into(), 65_535);
        for address in [unix, tcp, Address::Tcp(v6)] {
            let addresses = vec![address; 5];
            for handler in [http(&long), Handler::Echo, Handler::Chat { max_line: 1 }] {
                for (has_make, is_utf8) in [(true, false), (false, true)] {
                    let drawn =
                        draw(&rows(&handler, &addresses, false, has_make, u32::MAX), is_utf8);
                    for line in drawn.lines() {
                        let columns = line.chars().map(|c| if c.is_ascii() { 1 } else { 2 });
                        assert!(columns.sum::<usize>() <= 80, "{line}");
                        assert!(!line.contains(char::is_control), "{line}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_row_is_cut_at_an_address_of_the_usual_length() {
        let address = [Address::Tcp(([127, 0, 0, 1], 65_535).into())];
        let chat = Handler::Chat { max_line: 1 };
        for handler in [Handler::Echo, chat, http("docs"), http("docs/charts")] {
            for has_make in [true, false] {
                for row in rows(&handler, &address, false, has_make, 4_194_304) {
                    assert!(row.len() <= WIDTH - 2, "{row}");
                }
            }
        }
    }

    #[test]
    fn what_to_open_is_there() {
        let address = [Address::Tcp(([127, 0, 0, 1], 1234).into())];
        let opened = |directory| rows(&http(directory), &address, false, false, 7).remove(1);
        assert_eq!(opened("docs"), "open it        http://127.0.0.1:1234/README.md");
        let there = opened("nonexistent");
        assert_eq!(
            there,
            "open it        http://127.0.0.1:1234/    or: curl http://127.0.0.1:1234/"
        );
    }

    #[test]
    fn what_to_type_is_what_works() {
        let all = [Address::Tcp(([0, 0, 0, 0], 1234).into())];
        let narrating = rows(&http("public"), &all, true, true, 7);
        let inside = narrating.iter().find(|row| row.starts_with("look inside"));
        assert!(inside.is_some_and(|row| row.ends_with("kill -USR1 7")), "{inside:?}");
        let rows = rows(&http("public"), &all, false, false, 7);
        assert!(rows.iter().any(|row| row.contains("curl http://127.0.0.1:1234/")), "{rows:?}");
        assert_eq!(netcat(&Address::Unix("/run/s".into())), "nc -U /run/s");
    }
}
