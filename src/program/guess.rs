//! What was probably meant: advice for words that are no option and no handler here.
//!
//! People first type what other programs take (`-p 8080`, `--host`, `serve`). Each guess
//! gives back the words to write instead; where nothing comes to mind, the nearest name.

use super::table;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use threadbare::escape::escaped;

/// What to say behind `unknown option "…"`; `value` is the word behind it, if there is one.
pub(crate) fn option(name: &str, value: Option<&str>) -> String {
    let value = value.filter(|value| !value.is_empty() && !value.starts_with('-'));
    let meant = match name {
        "-p" | "-P" | "--port" => listen(value.unwrap_or("1234")),
        "--host" | "--bind" | "--address" | "--addr" | "--ip" | "-b" | "-a" | "-H" => {
            listen(value.unwrap_or("127.0.0.1"))
        }
        "--interface" | "-i" => listen("127.0.0.1"),
        "-d" | "--dir" | "--directory" | "--root" | "--docroot" | "--path" => {
            format!("http {}", escaped(value.unwrap_or("DIR").as_bytes()))
        }
        "--debug" | "--trace" | "--log" | "--log-level" => "-v or --narrate".into(),
        "-?" | "--usage" | "--man" => "-h".into(),
        "-D" | "--daemon" | "--background" | "--detach" => {
            return ", it stays in the foreground: let the shell (&) or systemd run it".into();
        }
        "-t" | "-w" | "-j" | "--threads" | "--workers" => {
            return ", one thread serves all clients".into();
        }
        "-c" | "--config" => {
            return ", there is no file of settings: all of them are options".into();
        }
        "--tls" | "--ssl" | "--cert" | "--key" => {
            return ", it does not speak TLS: let a proxy in front of it do that".into();
        }
        _ => match nearest(name, table::options()) {
            Some(option) => option.into(),
            None => return String::new(),
        },
    };
    format!(", did you mean {meant}?")
}

/// What to say behind `unknown handler "…"`; `next` is the word behind it, if there is one.
pub(crate) fn handler(word: &str, next: Option<&str>) -> String {
    let meant = match word {
        "help" | "usage" => "-h".into(),
        "version" => "-V".into(),
        "serve" | "server" | "start" | "run" | "listen" | "up" => match next {
            Some(next) if is_address(next) => listen(next),
            Some(next) if table::handlers().any(|known| known == next) => next.into(),
            Some(next) => format!("http {}", escaped(next.as_bytes())),
            None => {
                return ", leave it out, or write greet, once, echo, chat, http or proxy".into();
            }
        },
        "web" | "www" | "static" | "files" | "file" => {
            format!("http {}", escaped(next.unwrap_or("DIR").as_bytes()))
        }
        _ if is_address(word) => listen(word),
        _ if Path::new(word).is_dir() => format!("http {}", escaped(word.as_bytes())),
        _ if word.starts_with(['/', '.']) => format!("-l unix:{}", escaped(word.as_bytes())),
        _ => match nearest(word, table::handlers()) {
            Some(handler) => handler.into(),
            None => return ", the handlers are greet, once, echo, chat, http and proxy".into(),
        },
    };
    format!(", did you mean {meant}?")
}

/// What to say behind `unexpected word "…"`, of a handler that has its `arg`, if it takes one.
pub(crate) fn surplus(word: &str, handler: &str, arg: Option<&str>) -> String {
    match arg {
        Some(host) if handler == "proxy" && is_port(word) && !host.contains(':') => {
            format!(", did you mean proxy {}:{word}?", escaped(host.as_bytes()))
        }
        _ if handler != "proxy" && is_address(word) => format!(", did you mean {}?", listen(word)),
        _ => String::new(),
    }
}

/// Whether it looks like a port, or like a host with one.
pub(crate) fn is_address(word: &str) -> bool {
    is_port(word) || word.contains(':') || word.parse::<IpAddr>().is_ok()
}

fn is_port(word: &str) -> bool {
    word.parse::<u16>().is_ok_and(|_| !word.starts_with('+'))
}

/// How to listen where `word` says, be it a port, a host or both.
pub(crate) fn listen(word: &str) -> String {
    let word = word.split_once("://").map_or(word, |(_, rest)| rest.trim_end_matches('/'));
    let port = word.strip_prefix([':', '=']).unwrap_or(word);
    let shown = escaped(word.as_bytes());
    if is_port(port) {
        format!("-l 127.0.0.1:{port}")
    } else if word.parse::<Ipv6Addr>().is_ok() {
        format!("-l [{shown}]:1234")
    } else if word.contains(':') {
        format!("-l {shown}")
    } else {
        format!("-l {shown}:1234")
    }
}

/// The name most like `word`, if one is like it at all: it begins so, or at most
/// every second letter is wrong.
pub(crate) fn nearest<'a>(
    word: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let begins = |name: &&str| word.len() > 3 && name.starts_with(word);
    if let Some(name) = names.clone().find(begins) {
        return Some(name);
    }
    let distances = names.map(|name| (distance(word, name), name));
    let (distance, name) = distances.min_by_key(|&(distance, _)| distance)?;
    (distance <= name.trim_start_matches('-').len() / 2).then_some(name)
}

/// The edit distance: how many letters to change, add or leave out.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, a) in from.chars().enumerate() {
        let (mut diagonal, mut left) = (line, line + 1);
        for (above, b) in row.iter_mut().skip(1).zip(to.chars()) {
            let change = diagonal + usize::from(a != b);
            left = change.min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, left);
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_near_or_nothing() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "echo"), 4);
        assert_eq!(nearest("--max-conections", table::options()), Some("--max-connections"));
        assert_eq!(nearest("--naratte", table::options()), Some("--narrate"));
        assert_eq!(nearest("--something-else", table::options()), None);
    }
}
