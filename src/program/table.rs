//! What can be written on the command line, once: `-h` is made of this table, and so are the man
//! page and the completions of shells (tests/docs/manual.rs). The parser understands the same
//! names, which a test holds against it.
//!
//! `-h` is one screen: the handlers, and the options that many need. `HANDLER -h` has those of
//! one handler. The man page has all of them.

/// An option.
#[derive(Debug)]
pub(crate) struct Choice {
    /// All its names, the short one first.
    pub(crate) names: &'static [&'static str],
    /// What stands behind it; empty for one that takes no value.
    pub(crate) value: &'static str,
    pub(crate) shown: Shown,
    /// What it does, in a line or two of `-h`, its default in parentheses.
    pub(crate) what: &'static str,
    /// What the man page says beside it, in whole sentences; `*word*` is bold.
    #[allow(dead_code, reason = "the man page reads it, which tests/docs makes")]
    pub(crate) more: &'static str,
}

/// Where an option is shown, beside the man page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// By `-h`.
    Always,
    /// By `HANDLER -h`, of the handlers that use it.
    For(&'static [&'static str]),
    /// Nowhere: few need it.
    Rarely,
}

/// A handler.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) name: &'static str,
    /// What stands behind it.
    pub(crate) argument: &'static str,
    pub(crate) what: &'static str,
    #[allow(dead_code, reason = "the man page reads it, which tests/docs makes")]
    pub(crate) more: &'static str,
}

const fn choice(
    names: &'static [&'static str],
    value: &'static str,
    shown: Shown,
    what: &'static str,
    more: &'static str,
) -> Choice {
    Choice { names, value, shown, what, more }
}

use Shown::{Always, For, Rarely};

/// Every handler.
pub(crate) const HANDLERS: [Handler; 6] = [
    Handler {
        name: "greet",
        argument: "",
        what: "answers each line with \"Thank you for your message <line>\" (default)",
        more: "A line ends at LF, or CR LF, and so does its answer.",
    },
    Handler {
        name: "once",
        argument: "",
        what: "prints the first message that any client sends, answers it, and exits",
        more: "It listens on 127.0.0.1:9999 unless told otherwise.",
    },
    Handler { name: "echo", argument: "", what: "sends the bytes back as they come", more: "" },
    Handler {
        name: "chat",
        argument: "",
        what: "sends each line to all other clients as NAME: line",
        more: "A line */name NEW* gives its sender another name.",
    },
    Handler {
        name: "http",
        argument: "[DIR]",
        what: "serves the files beneath DIR; without DIR, a plain \"hello\"",
        more: "HTTP/1.1, GET and HEAD. Folders are not listed. A deploy may swap *DIR*, if that is a \
               symbolic link, while the server runs.",
    },
    Handler {
        name: "proxy",
        argument: "ADDR",
        what: "forwards each client to the server at ADDR (written as for -l)",
        more: "A name is looked up again when none of its addresses answers any more.",
    },
];

/// Every option, in the order in which they are shown.
pub(crate) const OPTIONS: [Choice; 27] = [
    choice(
        &["-l", "--listen"],
        "ADDR",
        Always,
        "HOST:PORT, [V6]:PORT, unix:PATH, fd:N; may be repeated\n\
         (127.0.0.1:1234; once: 127.0.0.1:9999)",
        "A host name stands for all its addresses. *0.0.0.0* is every IPv4 address of this \
         machine, *[::]* every IPv6 address. Port 0 is any free one, and the line on stdout \
         names it. *fd:3*, or *fd:NAME* with a name of LISTEN_FDNAMES, is a socket that a service \
         manager passes; without *-l* the server serves all that it passes.",
    ),
    choice(
        &["--framing"],
        "line|chunk",
        For(&["greet", "once"]),
        "a message is a line, or what one recv returned (line)",
        "",
    ),
    choice(
        &["--max-line"],
        "BYTES",
        For(&["greet", "once", "chat"]),
        "the longest line (64K)",
        "A client that sends a longer one gets an error line, and its connection is closed.",
    ),
    choice(
        &["--access-log"],
        "",
        For(&["http"]),
        "log each answer on stderr, in the Common Log Format",
        "The client is the one that a front has named, where *--proxy-protocol* is set.",
    ),
    choice(
        &["--connect-timeout"],
        "S",
        For(&["proxy"]),
        "wait at most S seconds for a connection (10)",
        "If ADDR is a name with several addresses, the next one is tried then.",
    ),
    choice(
        &["--send-proxy"],
        "",
        For(&["proxy"]),
        "name the client to the server at ADDR (PROXY v2)",
        "A header of the PROXY protocol, version 2, precedes the client's first byte, so the \
         server must expect one.",
    ),
    choice(
        &["--proxy-protocol"],
        "",
        Always,
        "expect a PROXY header (v1, v2) from each connection",
        "The header names the client of the front that connects: *--max-per-ip*, the log and the \
         handlers use that address. A connection that begins with anything else is reset, so \
         only fronts should be able to reach the listeners.",
    ),
    choice(
        &["--max-connections"],
        "N",
        Always,
        "clients served at once; more wait in the queue (10000)",
        "It is lowered, with a warning, if the process may not open that many descriptors.",
    ),
    choice(
        &["--max-per-ip"],
        "N",
        Always,
        "clients served at once per address (0: no limit)",
        "A further one is closed at once. An IPv6 network of 64 bits counts as one address. \
         Unix sockets are exempt.",
    ),
    choice(
        &["--give-way"],
        "S",
        Always,
        "when full, close a crowded IP's clients idle for S (1)",
        "When all of *--max-connections* are taken and a client waits, the connection that has \
         been idle for longest is closed, if no byte has moved in it for *S* and its address \
         has more than a quarter of all. Behind a front without *--proxy-protocol* all clients \
         have one address; 0 if they may be idle.",
    ),
    choice(
        &["--backlog"],
        "N",
        Rarely,
        "clients that may wait in the queue (4096)",
        "The kernel has a limit of its own, *net.core.somaxconn*.",
    ),
    choice(&["--idle-timeout"], "S", Always, "close a client after S seconds of silence (300)", ""),
    choice(
        &["--message-timeout"],
        "S",
        Always,
        "close a client whose message takes longer than S (30)",
        "",
    ),
    choice(&["--write-timeout"], "S", Always, "close a client that reads nothing for S (60)", ""),
    choice(
        &["--drain-timeout"],
        "S",
        Always,
        "at a stop, wait at most S for clients to finish (10)",
        "Connections that have not finished then are reset, and the exit status is 1.",
    ),
    choice(
        &["--stop-delay"],
        "S",
        Rarely,
        "serve on for S after the first signal to stop (0)",
        "For a load balancer that learns of a stop late: the listeners stay open, and *http* \
         announces with each answer that the connection ends. A second signal ends it at once.",
    ),
    choice(
        &["--reuse-port"],
        "",
        Rarely,
        "share the port with a successor, which gets new clients",
        "Two servers of the same user that both set it may listen at one address. Start the new \
         one, wait for its line *listening on*, and stop the old one: none of its clients is lost.",
    ),
    choice(
        &["--high-water"],
        "BYTES",
        Rarely,
        "stop reading a client with this much unsent (256K)",
        "It is read again when half of that is sent.",
    ),
    choice(&["--max-output"], "BYTES", Rarely, "close a client with this much unsent (4M)", ""),
    choice(
        &["--max-memory"],
        "BYTES",
        Always,
        "limit on waiting bytes, all clients together (256M)",
        "Near it the server stops reading clients until waiting output has been sent; if that does \
         not help, it closes the one that holds most.",
    ),
    choice(
        &["--unix-mode"],
        "MODE",
        Rarely,
        "permissions of unix:PATH (0600)",
        "In octal, as for *chmod*(1).",
    ),
    choice(
        &["--narrate"],
        "",
        Always,
        "show every system call, and client data, on stderr",
        "In the format of *strace*(1).",
    ),
    choice(
        &["--explain"],
        "CALL|ERRNO",
        Always,
        "print what docs/ says about it: accept4, EMFILE",
        "For a system call: the paragraphs of the chapters about it, and how it can fail. For an \
         errno: the calls that fail with it, and what the server does then.",
    ),
    choice(&["-v", "--verbose"], "", Always, "log more", "A line for each connection."),
    choice(&["-q", "--quiet"], "", Always, "log errors only", ""),
    choice(
        &["-h", "--help"],
        "",
        Always,
        "print this page; after HANDLER, the options of that one",
        "",
    ),
    choice(&["-V", "--version"], "", Always, "print the version", ""),
];

/// The names of all handlers.
pub(crate) fn handlers() -> impl Iterator<Item = &'static str> + Clone {
    HANDLERS.iter().map(|handler| handler.name)
}

/// All names of all options.
pub(crate) fn options() -> impl Iterator<Item = &'static str> + Clone {
    OPTIONS.iter().flat_map(|option| option.names).copied()
}

/// What the values of options are.
pub(crate) const VALUES: &str =
    "BYTES takes K, M, G. S is seconds, fractions allowed; 0 = off. Port 0: any free.";
/// What signals do, in a line.
pub(crate) const SIGNALS: &str = "SIGINT, SIGTERM: finish, then stop; twice: now. SIGUSR1: report.";

/// What to type, and what for.
pub(crate) const EXAMPLES: [(&str, &str); 4] = [
    ("threadbare", "talk to it: make client, or nc 127.0.0.1 1234"),
    ("threadbare -l localhost:7777 -l unix:/tmp/echo.sock --idle-timeout 60 echo", ""),
    ("threadbare -l 127.0.0.1:8080 --access-log http public", ""),
    ("threadbare --narrate once", ""),
];
