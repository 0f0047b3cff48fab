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
//! accept, and the message of `once`. Everything else is stderr's, and there are two
//! kinds of lines: diagnostics, which say why a start or an end failed, and the log of the
//! running server ([`lines`]).

mod cli;
mod explain;
mod frame;
mod guess;
mod help;
mod hint;
mod lines;
mod results;
mod status;
mod table;
mod view;

use cli::{Command, Handler, Options};
use log::Level;
use status::{Picture, StatusLine};
use std::env::var_os;
use std::io::{IsTerminal, stderr};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use threadbare::escape::escaped;
use threadbare::handlers::{Chat, Echo, Greet, Http, Once, Proxy};
use threadbare::kernel::{Kernel, Linux, Narrated};
use threadbare::{ConnectionHandler, Errno, Error, Server, Summary};
use view::View;

const DONE: u8 = 0;
const UNDONE: u8 = 1;
const NOT_STARTED: u8 = 2;
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let _end = lines::FlushAtEnd;
    lines::install();
    let status = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help(page)) => print(&page),
        Ok(Command::Version) => print(cli::VERSION),
        Ok(Command::Serve(options)) => serve(&options),
        Err(usage) => {
            lines::diagnostic(Level::Error, usage);
            NOT_STARTED
        }
    };
    ExitCode::from(status)
}

/// Chooses the kernel. What is not narrated has no trace of the narrator in its type.
fn serve(options: &Options) -> u8 {
    log::set_max_level(options.log_level);
    if options.narrate { serve_on(options, narrated()) } else { serve_on(options, Linux) }
}

/// The real kernel with each call narrated: on a terminal in the [`View`], elsewhere in whole
/// lines, which programs may read.
fn narrated() -> Narrated<Linux> {
    if !stderr().is_terminal() {
        return Narrated::new(Linux, |line| lines::raw(format_args!("{line}")));
    }
    let view = Arc::new(Mutex::new(View::new(view::now(), view::takes_color(&stderr()))));
    let waiting = view.clone();
    fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
        view.lock().unwrap_or_else(PoisonError::into_inner)
    }
    Narrated::new(Linux, move |line| {
        let line = lock(&view).line(view::now(), view::columns(stderr()), line);
        lines::raw(format_args!("{line}"));
    })
    .on_wait(move |call| {
        let call = lock(&waiting).wait(view::now(), call);
        lines::piece(format_args!("{call}"));
    })
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
            let mut http = Http::new().deadline(*deadline);
            if *access_log {
                http = http.access_log(|line| lines::raw(format_args!("{line}")));
            }
            if let Some(directory) = directory {
                http = http.serve(directory);
            }
            run(options, http, kernel, |_| true)
        }
        Handler::Proxy { upstream, connect_timeout, send_proxy, .. } => {
            let proxy = Proxy::new(upstream.clone(), *connect_timeout).send_proxy(*send_proxy);
            run_from(
                options,
                proxy,
                kernel,
                |_| true,
                |server| {
                    server.handler().look_up_again(server.addresses(), server.handle());
                },
            )
        }
    }
}

/// The one line of a start that failed.
fn not_started(error: &Error) -> u8 {
    lines::diagnostic(Level::Error, format_args!("{error}{}", hint::hint(error)));
    NOT_STARTED
}

fn run<H, K>(options: &Options, handler: H, kernel: K, done: fn(&H) -> bool) -> u8
where
    H: ConnectionHandler + 'static,
    K: Kernel,
{
    run_from(options, handler, kernel, done, |_| {})
}

/// Starts, prints the ready lines, serves until stopped. A start that fails prints only its error.
/// `begin` is for a handler that needs a way to its server.
#[inline(never)] // each handler's loop has the registers for itself
fn run_from<H, K>(
    options: &Options,
    handler: H,
    kernel: K,
    done: fn(&H) -> bool,
    begin: fn(&Server<H, K>),
) -> u8
where
    H: ConnectionHandler + 'static,
    K: Kernel,
{
    let builder = Server::builder(handler).kernel(kernel).limits(options.limits.clone());
    let mut server = match builder.own_process(true).bind(&options.listen) {
        Ok(server) => server,
        Err(error) => return not_started(&error),
    };
    // Now the signals are blocked, and so they are in the thread that is started here.
    let handle = server.handle();
    let nudge = move || {
        let _ = handle.call(|_, _| {}); // refused only by a server that turns anyway, or never again
    };
    let status = shows_status(options).then(|| StatusLine::new(nudge));
    let is_watched = status.is_some();
    if let Err(error) = lines::start(status) {
        let (errno, why) = (Errno::from_io(&error), Errno::from_io(&error).desc());
        lines::diagnostic(Level::Error, format_args!("clone log thread: {errno:?} ({why})"));
        return NOT_STARTED;
    }
    begin(&server);
    announce(options, &server);
    let ended = serve_until_stopped(&mut server, is_watched);
    status::ended();
    lines::wake();
    match ended {
        Ok(summary) => finished(&summary, options.limits.drain_timeout, done(server.handler())),
        Err(error) => {
            lines::diagnostic(Level::Error, format_args!("{error}{}", hint::hint(&error)));
            FAILED
        }
    }
}

/// Prints what could not be had as asked for, where it listens, and on a terminal what to do.
fn announce<H: ConnectionHandler, K: Kernel>(options: &Options, server: &Server<H, K>) {
    for warning in server.warnings().iter().chain(&no_index(options)).chain(&unresolved(options)) {
        lines::diagnostic(Level::Warn, warning);
    }
    lines::flush();
    for address in server.addresses() {
        print(&format!("listening on {}\n", escaped(address.to_string().as_bytes())));
    }
    if stderr().is_terminal() && options.log_level >= log::LevelFilter::Info {
        lines::raw(format_args!("{}", frame::frame(options, server.addresses())));
    }
}

/// Serves; if a status line shows it, publishes what each turn did. With one loop, whether watched
/// or not, the compiler makes all that a message needs one piece, which saves a message alone some
/// 25 instructions.
fn serve_until_stopped<H: ConnectionHandler, K: Kernel>(
    server: &mut Server<H, K>,
    is_watched: bool,
) -> Result<Summary, Error> {
    server.run_watched(|net| {
        let picture = || {
            let counters = net.counters();
            let closed: u64 = counters.closed.iter().sum();
            let open = counters.accepted + counters.connected - closed;
            Picture { open, received: counters.received, sent: counters.sent }
        };
        if is_watched && status::turned(picture) {
            lines::wake();
        }
    })
}

/// Whether there is a status line: on a terminal that can erase a line, if nothing else
/// fills it. (`once` prints its message there.)
fn shows_status(options: &Options) -> bool {
    let can_erase = var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    let is_quiet = options.log_level == log::LevelFilter::Info && !options.narrate;
    let fills_it =
        matches!(options.handler, Handler::Once { .. } | Handler::Http { access_log: true, .. });
    stderr().is_terminal() && can_erase && is_quiet && !fills_it
}

/// A warning, if the files of a directory are served and it has no page to begin with.
fn no_index(options: &Options) -> Option<String> {
    let Handler::Http { directory: Some(directory), .. } = &options.handler else { return None };
    let shown = escaped(directory.as_os_str().as_bytes());
    (!directory.join("index.html").is_file())
        .then(|| format!("{shown} has no index.html, and folders are not listed: / is 404"))
}

/// A warning, if the name of the server behind does not exist yet.
fn unresolved(options: &Options) -> Option<String> {
    let Handler::Proxy { unresolved: Some(error), .. } = &options.handler else { return None };
    Some(format!("proxy {error}; it is looked up again for each client"))
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
        let cut = summary.cut;
        let text = format!("cut {cut} connection{plural} at the drain deadline ({deadline} s)");
        lines::diagnostic(Level::Error, text);
        return UNDONE;
    }
    if !done {
        lines::diagnostic(Level::Error, "stopped before a message came");
        return UNDONE;
    }
    DONE
}

/// `once`: the message, which may hold anything, as a line of its own.
fn print_message(message: &[u8]) {
    print(&format!("The message was: {}\n", escaped(message)));
}

/// Prints on stdout. If that is full or gone, it is logged, and the server goes on.
fn print(text: &str) -> u8 {
    match results::print(text) {
        Ok(()) => DONE,
        Err(errno) => {
            let line = text.lines().next().unwrap_or_default();
            log::warn!("write stdout: {errno:?} ({}); lost: {line}", errno.desc());
            UNDONE
        }
    }
}
