//! The program: flags in, exit status out. Everything it can do is in the library.
//!
//! | exit status | |
//! |---|---|
//! | 0 | done: stopped by a signal, or `once` has had its message |
//! | 1 | work left undone: clients were cut at the drain deadline, `once` had no message |
//! | 2 | wrong words on the command line, or the start failed |
//! | 3 | it failed later |
//! | 128+n | ended at once by a second signal, n |
//!
//! stdout carries what scripts read: a line per listener once all of them
//! accept, and the message of `once`. Everything else is stderr's.

mod cli;
mod guess;
mod hint;
mod output;

use cli::{Command, Handler, Options};
use std::process::ExitCode;
use std::time::Duration;
use threadbare::escape::escaped;
use threadbare::handlers::{Chat, Echo, Greet, Http, Once, Proxy};
use threadbare::kernel::{Kernel, Linux, Narrated};
use threadbare::{ConnectionHandler, Error, Server, Summary};

const DONE: u8 = 0;
const UNDONE: u8 = 1;
const NOT_STARTED: u8 = 2;
const FAILED: u8 = 3;

fn main() -> ExitCode {
    output::install(log::LevelFilter::Info);
    let status = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(cli::HELP),
        Ok(Command::Version) => print(cli::VERSION),
        Ok(Command::Serve(options)) => serve(&options),
        Err(usage) => {
            log::error!("{usage}");
            NOT_STARTED
        }
    };
    ExitCode::from(status)
}

/// Chooses the kernel. What is not narrated has no trace of the narrator in its type.
fn serve(options: &Options) -> u8 {
    log::set_max_level(options.log_level);
    if options.narrate {
        let tell = |line: &str| output::stderr_line(format_args!("{line}"));
        serve_on(options, Narrated::new(Linux, tell))
    } else {
        serve_on(options, Linux)
    }
}

/// Chooses the handler.
fn serve_on<K: Kernel>(options: &Options, kernel: K) -> u8 {
    match &options.handler {
        &Handler::Greet { framing, max_line } => {
            run(options, Greet::new(framing, max_line), kernel, |_| true)
        }
        &Handler::Once { framing, max_line } => {
            run(options, Once::new(framing, max_line, print_message), kernel, Once::done)
        }
        Handler::Echo => run(options, Echo, kernel, |_| true),
        &Handler::Chat { max_line } => run(options, Chat::new(max_line), kernel, |_| true),
        Handler::Http { directory, access_log, deadline } => {
            let mut http = Http::new(kernel.clone()).deadline(*deadline);
            if *access_log {
                http = http.access_log(|line| output::stderr_line(format_args!("{line}")));
            }
            let http = match directory {
                Some(directory) => http.serve(directory),
                None => Ok(http),
            };
            match http {
                Ok(http) => run(options, http, kernel, |_| true),
                Err(error) => not_started(&error),
            }
        }
        Handler::Proxy { upstreams, connect_timeout } => {
            let proxy = Proxy::new(kernel.clone(), upstreams.clone(), *connect_timeout);
            run(options, proxy, kernel, |_| true)
        }
    }
}

/// The one line of a start that failed.
fn not_started(error: &Error) -> u8 {
    log::error!("{error}{}", hint::hint(error));
    NOT_STARTED
}

/// Starts, says so, serves until stopped. A start that fails prints only its error.
fn run<H, K>(options: &Options, handler: H, kernel: K, done: fn(&H) -> bool) -> u8
where
    H: ConnectionHandler,
    K: Kernel,
{
    let builder = Server::builder(handler).kernel(kernel).limits(options.limits.clone());
    let mut server = match builder.own_process(true).bind(&options.listen) {
        Ok(server) => server,
        Err(error) => return not_started(&error),
    };
    for warning in server.warnings() {
        log::warn!("{warning}");
    }
    for address in server.addresses() {
        print(&format!("listening on {}\n", escaped(address.to_string().as_bytes())));
    }
    match server.run() {
        Ok(summary) => finished(&summary, options.limits.drain_timeout, done(server.handler())),
        Err(error) => {
            log::error!("{error}");
            FAILED
        }
    }
}

/// What the exit status says of a server that was stopped, and why, in a line.
fn finished(summary: &Summary, drain_timeout: Option<Duration>, done: bool) -> u8 {
    log::info!("{summary}");
    if let (true, Some(signal)) = (summary.forced, summary.stopped_by) {
        return u8::try_from(signal as i32).map_or(FAILED, |number| 128 + number);
    }
    if summary.cut > 0 {
        let plural = if summary.cut == 1 { "" } else { "s" };
        let deadline = drain_timeout.unwrap_or_default().as_secs_f64();
        log::error!("cut {} connection{plural} at the drain deadline ({deadline} s)", summary.cut);
        return UNDONE;
    }
    if !done {
        log::error!("stopped before a message came");
        return UNDONE;
    }
    DONE
}

/// `once`: the message, which may hold anything, as a line of its own.
fn print_message(message: &[u8]) {
    print(&format!("The message was: {}\n", escaped(message)));
}

/// Text on stdout. If stdout is full or gone, stderr gets to know, and life goes on.
fn print(text: &str) -> u8 {
    match output::stdout_text(text) {
        Ok(()) => DONE,
        Err(errno) => {
            let line = text.lines().next().unwrap_or_default();
            log::warn!("write stdout: {errno:?} ({}); lost: {line}", errno.desc());
            UNDONE
        }
    }
}
