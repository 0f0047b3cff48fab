//! Words are options, which can be written down again as words, or one harmless line.

use super::addresses::needs_resolver;
use super::escape::assert_harmless;
use cli::{Command, Handler, Options};
use log::LevelFilter;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;
use threadbare::Address;
use threadbare::address::Place;
use threadbare::handlers::Framing;

// The program's own; their unit tests come with them.
#[path = "../../../src/program/cli.rs"]
#[allow(dead_code)]
mod cli;
#[path = "../../../src/program/explain.rs"]
#[allow(dead_code)]
mod explain;
#[path = "../../../src/program/guess.rs"]
#[allow(dead_code)]
mod guess;
#[path = "../../../src/program/help.rs"]
#[allow(dead_code)]
mod help;
#[path = "../../../src/program/table.rs"]
#[allow(dead_code)]
mod table;

/// A line of input is a word.
pub fn target(bytes: &[u8]) {
    let words: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    if may_need_resolver(&words) {
        return;
    }
    match cli::parse(words.iter().map(|word| OsStr::from_bytes(word).to_owned())) {
        Ok(Command::Help(_) | Command::Version) => {}
        Ok(Command::Serve(options)) => assert_reads_back(&options),
        Err(usage) => {
            let text = usage.to_string();
            assert_harmless(&text);
            assert!(text.ends_with("; try -h"), "{text}");
        }
    }
}

/// Whether any value that `-l` may have would be looked up: the word behind it, or what
/// stands behind an `l` or a `=` in its own word; or any word, if one is `proxy`.
fn may_need_resolver(words: &[&[u8]]) -> bool {
    let alone = words.windows(2).filter(|pair| matches!(pair[0], [b'-', ..])).map(|pair| pair[1]);
    let joined = words.iter().filter(|word| word.starts_with(b"-")).flat_map(|word| {
        let ends = (0..word.len()).filter(|&at| matches!(word[at], b'l' | b'='));
        ends.map(|at| &word[at + 1..])
    });
    let upstreams = words.iter().copied().filter(|_| words.contains(&&b"proxy"[..]));
    alone.chain(joined).chain(upstreams).any(needs_resolver)
}

/// Said in full, the options are the same ones.
fn assert_reads_back(options: &Options) {
    let again = cli::parse(in_words(options));
    let (options, again) = (format!("Ok(Serve({options:?}))"), format!("{again:?}"));
    assert_eq!(options, again);
}

fn in_words(options: &Options) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut say = |name: &str, value: String| words.push(format!("--{name}={value}").into());
    let limits = &options.limits;
    say("max-connections", limits.max_connections.to_string());
    say("max-per-ip", limits.max_per_address.to_string());
    say("give-way", seconds(limits.give_way));
    say("backlog", limits.backlog.to_string());
    say("idle-timeout", seconds(limits.idle_timeout));
    say("message-timeout", seconds(limits.message_timeout));
    say("write-timeout", seconds(limits.write_timeout));
    say("drain-timeout", seconds(limits.drain_timeout));
    say("high-water", limits.high_water.to_string());
    say("max-output", limits.max_output.to_string());
    say("max-memory", limits.max_memory.to_string());
    say("unix-mode", format!("{:o}", limits.unix_mode));
    let (mut argument, mut flags) = (None, Vec::new());
    let name = match &options.handler {
        Handler::Echo => "echo",
        Handler::Proxy { upstream, connect_timeout, send_proxy, .. } => {
            flags.extend(send_proxy.then_some("--send-proxy"));
            say("connect-timeout", seconds(Some(*connect_timeout).filter(|&t| t != Duration::MAX)));
            argument = Some(word_of(upstream));
            "proxy"
        }
        Handler::Http { directory, access_log, deadline } => {
            say("message-timeout", seconds(*deadline));
            argument = directory.clone().map(OsString::from);
            flags.extend(access_log.then_some("--access-log"));
            "http"
        }
        Handler::Chat { max_line } => {
            say("max-line", max_line.to_string());
            "chat"
        }
        Handler::Greet { framing, max_line } | Handler::Once { framing, max_line } => {
            say("framing", (if *framing == Framing::Line { "line" } else { "chunk" }).into());
            say("max-line", max_line.to_string());
            if matches!(options.handler, Handler::Greet { .. }) { "greet" } else { "once" }
        }
    };
    for place in &options.listen {
        words.push(OsString::from_vec([b"--listen=", word_of(place).as_bytes()].concat()));
    }
    words.extend(options.narrate.then(|| "--narrate".into()));
    match options.log_level {
        LevelFilter::Debug => words.push("-v".into()),
        LevelFilter::Error => words.push("-q".into()),
        _ => {}
    }
    let is_behind_front = options.listen.iter().any(Place::is_behind_front);
    flags.extend(is_behind_front.then_some("--proxy-protocol"));
    words.extend(flags.into_iter().map(OsString::from));
    words.push("--".into()); // behind it a dash is only a dash
    words.push(name.into());
    words.extend(argument);
    words
}

/// As it was written: a path may be any bytes, and nothing else needs an escape.
fn word_of(place: &Place) -> OsString {
    match place.addresses() {
        [Address::Unix(path)] => {
            OsString::from_vec([b"unix:", path.as_os_str().as_bytes()].concat())
        }
        _ => place.to_string().into(),
    }
}

fn seconds(timeout: Option<Duration>) -> String {
    timeout.unwrap_or_default().as_secs_f64().to_string()
}
