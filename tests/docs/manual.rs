//! What packages bring beside the program: the man page and the completions of three shells.
//!
//! `make docs-update` writes them from the table of the program's command line, as `-h` is;
//! the test compares. What the table does not have (signals, exit statuses, files, the
//! environment) stands here, and is compared with the source.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output, Stdio};

use super::support::{Scratch, needs, path};
use table::{Choice, EXAMPLES, HANDLERS, OPTIONS, Shown};

#[path = "../../src/program/table.rs"]
#[allow(dead_code)]
mod table;

/// When the man page was last changed in more than its options.
const DATE: &str = "2026-11-28";

const DESCRIPTION: &str = "\
threadbare serves many TCP clients at once, on one thread, which never waits for one of them. \
What it says to them is up to a *handler*. It stays in the foreground and needs no file of \
settings.\n\
When all listeners accept, it prints a line for each of them on stdout, \
\"listening on 127.0.0.1:1234\". Everything else is written to stderr: errors and warnings of \
the start, and the log.";

const SIGNALS: [(&str, &str); 5] = [
    (
        "SIGINT, SIGTERM",
        "Stop: new clients are refused, what has been received is answered, and each connection \
         is closed when its answer is sent. A second one ends the server at once.",
    ),
    ("SIGHUP", "The same, if stderr is a terminal; otherwise it only writes a line to the log."),
    (
        "SIGUSR1",
        "Writes a report to stderr: the totals, and the connections that hold most memory.",
    ),
    ("SIGUSR2", "It only writes a line to the log."),
    ("SIGPIPE, SIGCHLD, SIGWINCH, SIGXFSZ", "Nothing."),
];

const STATUSES: [(&str, &str, &str); 5] = [
    ("0", "DONE", "Done: a signal has stopped it, or *once* has received its message."),
    (
        "1",
        "UNDONE",
        "Work was left undone: clients were cut at the end of *--drain-timeout*, or *once* was \
         stopped before a message.",
    ),
    ("2", "NOT_STARTED", "The command line is wrong, or the start failed."),
    ("3", "FAILED", "It failed later."),
    ("128+n", "", "A second signal, n, has ended it at once."),
];

const FILES: [(&str, &str); 1] = [(
    "PATH",
    "The socket of *-l unix:PATH*, with the permissions of *--unix-mode*. A file of the same name \
     at which no process listens is replaced, any other is an error. It is removed at the end.",
)];

const ENVIRONMENT: [(&str, &str); 9] = [
    (
        "JOURNAL_STREAM",
        "Set by systemd: if it names stderr, log records begin with a priority \
                        instead of a time. See *systemd.exec*(5).",
    ),
    (
        "LISTEN_FDS",
        "How many sockets a service manager passes, from descriptor 3 on. See \
         *sd_listen_fds*(3).",
    ),
    ("LISTEN_FDNAMES", "The names of these sockets, with colons between them."),
    ("LISTEN_PID", "The process to which they are passed; another one ignores them."),
    ("NO_COLOR", "If it is set and not empty, the log has no color on a terminal."),
    (
        "NOTIFY_SOCKET",
        "The socket to which the server reports that it is ready, and that it stops. See \
         *sd_notify*(3).",
    ),
    ("TERM", "If it is empty or *dumb*, there is no status line."),
    (
        "WATCHDOG_PID",
        "The process that is to send what WATCHDOG_USEC asks for; every process, if not set.",
    ),
    (
        "WATCHDOG_USEC",
        "If set, the loop reports to the service manager twice in this many microseconds.",
    ),
];

/// The files that are made, and what should be in them.
pub fn made() -> [(&'static str, String); 4] {
    [
        ("docs/man/threadbare.1", man()),
        ("docs/completions/threadbare.bash", bash()),
        ("docs/completions/threadbare.zsh", zsh()),
        ("docs/completions/threadbare.fish", fish()),
    ]
}

// ---- the man page ----------------------------------------------------------------------

/// Text for roff: what is special to it is escaped, and `*word*` is bold.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    let mut bold = false;
    let mut out = String::new();
    for piece in escaped.split('*') {
        out += if bold { "\\fB" } else { "" };
        out += piece;
        out += if bold { "\\fR" } else { "" };
        bold = !bold;
    }
    out.replace("\n", "\n.PP\n")
}

fn item(tag: &str, text: &str) -> String {
    format!(".TP\n{tag}\n{}\n", roff(text))
}

fn bold(word: &str) -> String {
    format!("\\fB{}\\fR", roff(word))
}

fn italic(word: &str) -> String {
    format!("\\fI{}\\fR", roff(word))
}

fn sentence(what: &str) -> String {
    let mut letters = what.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect::<String>() + "."
}

fn option(option: &Choice) -> String {
    let mut tag = option.names.iter().map(|name| bold(name)).collect::<Vec<_>>().join(", ");
    if !option.value.is_empty() {
        let words = option.value.split('|').map(|word| match word {
            word if word.starts_with(char::is_lowercase) => bold(word),
            word => italic(word),
        });
        tag += &format!(" {}", words.collect::<Vec<_>>().join("|"));
    }
    let users = match option.shown {
        Shown::For([one]) => format!("For *{one}*: "),
        Shown::For(several) => format!("For *{}*: ", several.join("*, *")),
        _ => String::new(),
    };
    let what = option.what.replace('\n', " ");
    let what = if users.is_empty() { sentence(&what) } else { format!("{users}{what}.") };
    item(&tag, format!("{what} {}", option.more).trim_end())
}

fn man() -> String {
    let mut page = format!(
        ".\\\" Made by `make docs-update` from src/program/table.rs and tests/docs/manual.rs.\n\
         .TH THREADBARE 1 {DATE} \"threadbare {}\" \"User Commands\"\n\
         .SH NAME\nthreadbare \\- a concurrent TCP server on one thread\n\
         .SH SYNOPSIS\n.B threadbare\n[\\fIOPTIONS\\fR] [\\fIHANDLER\\fR [\\fIARG\\fR]]\n\
         .SH DESCRIPTION\n{}\n.SH HANDLERS\n",
        env!("CARGO_PKG_VERSION"),
        roff(DESCRIPTION)
    );
    for handler in &HANDLERS {
        let tag = match handler.argument {
            "" => bold(handler.name),
            argument => format!("{} {}", bold(handler.name), italic(argument)),
        };
        let what = sentence(handler.what.trim_end_matches(" (default)"));
        page += &item(&tag, format!("{what} {}", handler.more).trim_end());
    }
    page +=
        ".SH OPTIONS\nOptions may stand anywhere. Of one that is given twice the last counts;\n";
    page += &format!("{} adds.\n", bold("-l"));
    page += &format!("{}.\n", roff(table::VALUES.trim_end_matches('.')));
    OPTIONS.iter().for_each(|it| page += &option(it));
    let section = |name: &str, rows: &[(&str, &str)]| {
        let rows = rows.iter().map(|(tag, text)| item(&bold(tag), text));
        format!(".SH {name}\n{}", rows.collect::<String>())
    };
    page += &section("SIGNALS", &SIGNALS);
    page += &section("EXIT STATUS", &STATUSES.map(|(status, _, text)| (status, text)));
    page += ".SH FILES\n";
    FILES.iter().for_each(|(tag, text)| page += &item(&italic(tag), text));
    page += &section("ENVIRONMENT", &ENVIRONMENT.map(|(name, text)| (name, text)));
    page += ".SH EXAMPLES\n";
    for (number, (words, what)) in EXAMPLES.into_iter().enumerate() {
        page += if number > 0 { ".PP\n" } else { "" };
        let what = if what.is_empty() { String::new() } else { format!("\t# {what}") };
        page += &format!(".nf\n{}{}\n.fi\n", bold(words), roff(&what));
    }
    page += ".SH SEE ALSO\n.BR haproxy (1),\n.BR ncat (1),\n.BR ss (8),\n.BR strace (1),\n\
             .BR systemd.socket (5),\n.BR epoll (7),\n.BR tcp (7)\n";
    page
}

// ---- completions -------------------------------------------------------------------------

/// What a value is completed with.
fn words(option: &Choice) -> Vec<String> {
    let words: &[&str] = match option.value {
        "CALL|ERRNO" => return super::explained::names(),
        value if value.contains('|') => &value.split('|').collect::<Vec<_>>(),
        "ADDR" => &["127.0.0.1:", "0.0.0.0:", "[::]:", "unix:"],
        _ => &[],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn all_names(filter: impl Fn(&&Choice) -> bool) -> String {
    let names: Vec<&str> =
        OPTIONS.iter().filter(filter).flat_map(|option| option.names).copied().collect();
    names.join(" ")
}

fn handlers() -> String {
    HANDLERS.iter().map(|handler| handler.name).collect::<Vec<_>>().join(" ")
}

/// The cases of a shell: a line for each option whose value is one of some words.
fn bash() -> String {
    let mut cases = String::new();
    for option in OPTIONS.iter().filter(|option| !words(option).is_empty()) {
        let (names, words) = (option.names.join(" | "), words(option).join(" "));
        cases += &format!("\t{names})\n\t\tchoices='{words}';;\n");
    }
    let free = OPTIONS.iter().filter(|it| !it.value.is_empty() && words(it).is_empty());
    let free = free.flat_map(|option| option.names).copied().collect::<Vec<_>>().join(" | ");
    format!(
        "# bash completion for threadbare. Made by `make docs-update`.\n\
         _threadbare() {{\n\
         \tlocal current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} choices word\n\
         \t# 127.0.0.1:80 is one word; bash breaks words at colons.\n\
         \tif declare -F _get_comp_words_by_ref >/dev/null; then\n\
         \t\t_get_comp_words_by_ref -n : -c current -p previous\n\
         \tfi\n\
         \tCOMPREPLY=()\n\
         \tcase $previous in\n{cases}\t{free})\n\t\treturn;;\n\
         \thttp)\n\t\tmapfile -t COMPREPLY < <(compgen -d -- \"$current\")\n\t\treturn;;\n\
         \tproxy)\n\t\tchoices='127.0.0.1: [::1]: unix:';;\n\
         \t*)\n\
         \t\tchoices='{handlers}'\n\
         \t\tfor word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n\
         \t\t\tcase $word in {bar}) choices='';; esac\n\
         \t\tdone\n\
         \t\tcase $current in -*) choices='{options}';; esac;;\n\
         \tesac\n\
         \tmapfile -t COMPREPLY < <(compgen -W \"$choices\" -- \"$current\")\n\
         \t[[ ${{COMPREPLY[0]-}} != *: ]] || compopt -o nospace 2>/dev/null\n\
         \t! declare -F __ltrim_colon_completions >/dev/null || __ltrim_colon_completions \"$current\"\n\
         }}\n\
         complete -F _threadbare threadbare\n",
        handlers = handlers(),
        bar = handlers().replace(' ', " | "),
        options = all_names(|_| true),
    )
}

/// Text within single quotes of a shell, and for zsh without what it takes for syntax.
fn quoted(text: &str) -> String {
    text.replace('\'', "'\\''").replace('\n', " ")
}

fn zsh() -> String {
    let mut lines = String::new();
    for option in &OPTIONS {
        let what = quoted(option.what).replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
        let repeats = if option.names[0] == "-l" { "*" } else { "" };
        let value = match (option.value, words(option)) {
            ("", _) => String::new(),
            (value, words) if words.is_empty() => format!(":{value}: "),
            ("ADDR", words) => format!(":address:_threadbare_words {}", words.join(" ")),
            (value, words) => format!(":{}:({})", value.replace('|', " or "), words.join(" ")),
        };
        let value = value.replace("[::]:", "\\[\\:\\:\\]\\:").replace("1:", "1\\:");
        for name in option.names {
            lines += &format!("\t'{repeats}{name}[{what}]{}' \\\n", zsh_value(&value));
        }
    }
    let described: String = HANDLERS
        .iter()
        .map(|it| format!("\t\t'{}:{}'\n", it.name, quoted(it.what).replace(':', "\\:")))
        .collect();
    format!(
        "#compdef threadbare\n# zsh completion for threadbare. Made by `make docs-update`.\n\
         _threadbare_words() {{\n\tcompadd -S '' -- '127.0.0.1:' '0.0.0.0:' '[::]:' 'unix:'\n}}\n\
         _threadbare_handlers() {{\n\tlocal -a handlers=(\n{described}\t)\n\
         \t_describe handler handlers\n}}\n\
         _threadbare_argument() {{\n\
         \tcase ${{(M)words:#(http|proxy)}} in\n\
         \thttp) _files -/;;\n\
         \tproxy) _threadbare_words;;\n\
         \tesac\n}}\n\
         _arguments -s -S \\\n{lines}\t'1:handler:_threadbare_handlers' \\\n\
         \t'2:argument:_threadbare_argument'\n"
    )
}

fn zsh_value(value: &str) -> String {
    match value.split_once("_threadbare_words") {
        Some((before, _)) => format!("{before}_threadbare_words"),
        None => value.to_owned(),
    }
}

fn fish() -> String {
    let mut lines = String::from("# fish completion for threadbare. Made by `make docs-update`.\n");
    let seen = format!("__fish_seen_subcommand_from {}", handlers());
    lines += "complete -c threadbare -f\n";
    for handler in &HANDLERS {
        let (name, what) = (handler.name, quoted(handler.what));
        lines += &format!("complete -c threadbare -n 'not {seen}' -a {name} -d '{what}'\n");
    }
    lines += "complete -c threadbare -n '__fish_seen_subcommand_from http' -a '(__fish_complete_directories)'\n";
    for option in &OPTIONS {
        let mut line = String::from("complete -c threadbare");
        for name in option.names {
            line += &match name.strip_prefix("--") {
                Some(long) => format!(" -l {long}"),
                None => format!(" -s {}", name.trim_start_matches('-')),
            };
        }
        line += if option.value.is_empty() { "" } else { " -x" };
        if !words(option).is_empty() {
            line += &format!(" -a '{}'", words(option).join(" "));
        }
        lines += &format!("{line} -d '{}'\n", quoted(option.what));
    }
    lines
}

// ---- tests -------------------------------------------------------------------------------

#[test]
fn the_manual_and_the_completions_are_those_of_the_table() {
    for (file, due) in made() {
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(file.rsplit_once('/').unwrap().0).unwrap();
            fs::write(file, &due).unwrap();
        }
        let is = fs::read_to_string(file).unwrap_or_default();
        assert!(is == due, "{file} is not what the table says; make docs-update writes it");
    }
}

/// What the man page says beside the table is what the source does.
#[test]
fn the_manual_names_what_the_program_reads_and_returns() {
    let main = fs::read_to_string("src/program/main.rs").unwrap();
    let statuses = main.lines().filter_map(|line| line.strip_prefix("const "));
    let statuses = statuses.filter_map(|line| line.split_once(": u8 = "));
    let mut due: Vec<(&str, &str)> =
        statuses.map(|(name, value)| (value.trim_end_matches(';'), name)).collect();
    due.push(("128+n", ""));
    assert_eq!(STATUSES.map(|(status, name, _)| (status, name)).to_vec(), due);
    let mut read: BTreeSet<String> = sources().iter().flat_map(|text| environment(text)).collect();
    read.retain(|name| !name.starts_with("THREADBARE_")); // what the Makefile tells it
    let told = ENVIRONMENT.map(|(name, _)| name.to_owned());
    assert_eq!(read, told.into_iter().collect());
}

fn sources() -> Vec<String> {
    let found = Command::new("find").args(["src", "-name", "*.rs"]).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let code = |file: &str| fs::read_to_string(file).unwrap();
    found.lines().map(|file| code(file).split("\nmod tests {").next().unwrap().to_owned()).collect()
}

/// The variables of the environment that some code names.
fn environment(text: &str) -> Vec<String> {
    let calls = ["var_os(\"", "env::var(\"", "var(\""];
    let mut names = Vec::new();
    for call in calls {
        names.extend(text.split(call).skip(1).map(|it| it.split('"').next().unwrap().to_owned()));
    }
    names
}

fn quietly(command: &mut Command) -> (Output, String) {
    let output = command.env("PATH", path()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    (output, said)
}

#[test]
fn the_manual_renders_without_a_warning() {
    if !needs(&["man", "mandoc"]) {
        return;
    }
    let (_, said) =
        quietly(Command::new("mandoc").args(["-Tlint", "-Wwarning", "docs/man/threadbare.1"]));
    assert_eq!(said, "", "mandoc -Tlint");
    let mut man = Command::new("man");
    man.args(["--warnings", "-l", "docs/man/threadbare.1"]);
    let (page, _) =
        quietly(man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").env("MANPAGER", "cat"));
    assert_eq!(String::from_utf8_lossy(&page.stderr), "", "man --warnings");
    let text = String::from_utf8(page.stdout).unwrap();
    for name in table::options().chain(table::handlers()) {
        assert!(text.contains(name), "{name} is not in it");
    }
}

/// What each shell offers for the same words.
#[test]
fn the_shells_complete_what_is_begun() {
    if !needs(&["bash", "zsh", "fish"]) {
        return;
    }
    for (line, due) in [
        ("threadbare pr", vec!["proxy"]),
        ("threadbare --idle", vec!["--idle-timeout"]),
        ("threadbare --max-m", vec!["--max-memory"]),
        ("threadbare greet --framing c", vec!["chunk"]),
        ("threadbare --send", vec!["--send-proxy"]),
        ("threadbare --explain EMF", vec!["EMFILE"]),
        ("threadbare http doc", vec!["docs"]),
    ] {
        assert_eq!(completed_by_bash(line), due, "bash: {line}");
        assert_eq!(completed_by_fish(line), due, "fish: {line}");
        // On a busy machine the key that shows the line may be read before the one that completes.
        let is_completed = (0..5).any(|_| completed_by_zsh(line) == due);
        assert!(is_completed, "zsh: {line}: {:?} and not {due:?}", completed_by_zsh(line));
    }
}

fn answers(said: &str) -> Vec<String> {
    let words = said.lines().filter_map(|line| line.split('\t').next());
    words
        .map(|word| word.trim_end_matches('/').trim().to_owned())
        .filter(|it| !it.is_empty())
        .collect()
}

fn completed_by_bash(line: &str) -> Vec<String> {
    let script = "source docs/completions/threadbare.bash; read -ra COMP_WORDS <<<\"$1\"; \
                  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _threadbare; printf '%s\\n' \"${COMPREPLY[@]}\"";
    answers(&quietly(Command::new("bash").args(["--norc", "-c", script, "bash", line])).1)
}

fn completed_by_fish(line: &str) -> Vec<String> {
    let script = format!("source docs/completions/threadbare.fish; complete -C '{line}'");
    let mut fish = Command::new("fish");
    let home = Scratch::new(); // it makes folders there
    answers(&quietly(fish.args(["--no-config", "-c", &script]).env("HOME", home.path("."))).1)
}

/// zsh completes only where there is a terminal: it makes one, and what it would insert is read
/// from there.
fn completed_by_zsh(line: &str) -> Vec<String> {
    let script = r#"
        zmodload zsh/zpty
        zpty z zsh -f -i
        zpty -w z 'PROMPT=; fpath=(/tmp/none $fpath); autoload -Uz compinit; compinit -u -D'
        zpty -w z 'unsetopt zle_bracketed_paste; _threadbare() { source docs/completions/threadbare.zsh }'
        zpty -w z 'compdef _threadbare threadbare; show() { print -r -- "<<$LBUFFER>>"; exit }'
        zpty -w z 'zle -N show; bindkey "^X" show; print -r -- re''ady'
        zpty -r z seen '*ready*'
        zpty -w -n z "$1"$'\t\x18'
        zpty -r z seen '*>>*'
        print -r -- "${${seen##*<<}%%>>*}"
    "#;
    let (_, said) = quietly(Command::new("zsh").args(["-f", "-c", script, "zsh", line]));
    answers(said.trim().rsplit(' ').next().unwrap_or_default())
}
