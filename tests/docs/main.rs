//! The docs are true: what can be checked in them is checked, and what can be written by a
//! program is written by this one.
//!
//! `make docs-update` writes it anew; the tests only compare. The marks stand in the
//! markdown as comments, which nobody sees who reads it rendered:
//!
//! | mark | in front of | must be |
//! |---|---|---|
//! | `<!-- quote: src/x.rs#name -->` | code | an item, or what stands between `ANCHOR: name` and `ANCHOR_END: name` |
//! | `<!-- trace: hello accept4..sendto -->` | a trace | that piece of a fresh run of a scenario ([`trace`]) |
//! | `<!-- fault: accept4 EMFILE 1..3 -->` | a trace | the same, with that call failing |
//! | `<!-- patch: name -->` | a diff | that patch of docs/exercises, which tests/server tries |
//! | `<!-- step: 03 -->` | a diff | what the third program of the story has that the second has not ([`story`]) |
//! | `<!-- scene: 02 half -->` | a trace | what strace sees of a scene with one of these programs |
//! | `<!-- score: 02 -->` | a number | how many rude clients it survives, in docs/story/scores.txt |
//! | `<!-- errnos: Accept Recv -->` | a table | what `reaction` says of these calls |
//! | `<!-- calls -->` | a table | the methods of `trait Kernel` |
//! | `<!-- states -->` | a drawing and a table | the transitions that the states of a connection declare |
//! | `<!-- variants: src/x.rs#Name -->` | a drawing | names every variant of the enum |
//! | `<!-- fact: name ... -->` | | tests in tests/kernel_facts.rs. If one is stated there in a sentence (with a full stop), just that sentence stands in front |
//! | `<!-- test: module::name ... -->` | | tests in tests/, each in the one file that ends so |
//! | `<!-- count: hello recvfrom..sendto -->` | a number | how many calls the piece of a trace has |
//! | `<!-- measured: table -->` | a table | that table of docs/measured.md, which `make bench` writes |
//! | `<!-- measured: table/row/column -->` | a number | a figure in it |
//! | `<!-- sizes -->` | a table | what the allocator gives a server for each client (tests/library/sizes.rs) |
//! | `<!-- walk -->` | a line | the pages before and after this one, in the order of the walk ([`walk`]) |
//! | `<!-- try: name -->` | commands | what they show twenty times out of twenty (tests/server/tried.rs) |
//! | `<!-- note: ... -->` | | whatever its writer likes |
//!
//! Code, traces and console blocks without a mark are errors, but for console blocks: they
//! are all run ([`console`]), and `rust,no_run` in the README, which is a doctest. Then
//! every link and heading must resolve, every chapter stand in the index, every call be
//! traced, and every trace have two witnesses: strace, and the program itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub)] // the rooms are no library

mod buffers;
mod captions;
mod console;
mod explained;
mod layout;
mod life;
mod manual;
mod source;
mod story;
#[path = "../support/mod.rs"]
mod support;
mod trace;
mod walk;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::iter::Peekable;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use source::Method;
use threadbare::{TRANSITIONS, Transition};
use trace::Traces;

const INDEX: &str = "docs/README.md";
/// With fewer marks than this, something does not look any more.
const AT_LEAST: [(&str, usize); 9] = [
    ("calls told by both witnesses", 600),
    ("errno tables", 13),
    ("facts", 130),
    ("facts word for word", 100),
    ("links", 300),
    ("quotes", 30),
    ("tests", 60),
    ("traces", 25),
    ("words of the trade", 50),
];

/// What the docs are compared with, and what was found.
struct Proof {
    /// `None` where nothing can be traced: then what stands in the docs is taken for true.
    traces: Option<Traces>,
    methods: Vec<Method>,
    /// The pages in reading order: path and title.
    walk: Vec<(String, String)>,
    facts: String,
    /// The names of the tests in each file below tests/, as `sim::regressions`.
    tests: BTreeMap<String, Vec<String>>,
    measured: String,
    /// How many marks of each kind held.
    held: RefCell<BTreeMap<&'static str, usize>>,
    wrong: RefCell<Vec<String>>,
}

// ---- pages ---------------------------------------------------------------------------

/// All pages, by path: the README and the markdown of docs/.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned()];
    for folder in ["docs", "docs/story"] {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter_map(|path| Some(path.to_str()?.to_owned()));
        names.extend(files.filter(|path| path.ends_with(".md")));
    }
    names.sort();
    names.into_iter().map(|name| (name.clone(), fs::read_to_string(name).unwrap())).collect()
}

type Lines<'a> = Peekable<std::str::Lines<'a>>;

/// A mark that has a line for itself: its kind, and what is asked for.
fn mark(line: &str) -> Option<(&str, &str)> {
    let inner = line.strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    Some(inner.split_once(':').map_or((inner, ""), |(kind, asked)| (kind, asked.trim())))
}

/// Takes what stands behind a mark so far: a line that links to the source, a fence, a table.
fn old_block(lines: &mut Lines) -> Vec<String> {
    let mut block = Vec::new();
    lines.next_if(|line| line.starts_with('[') && line.contains("#L"));
    if let Some(line) = lines.next_if(|line| line.starts_with('←')) {
        block.push(line.to_owned());
    }
    if let Some(fence) = lines.next_if(|line| line.starts_with("```")) {
        block.push(fence.to_owned());
        block.extend(fence_rest(lines));
    }
    let is_folded = lines.next_if(|line| line.starts_with(FOLDED)).is_some();
    lines.next_if(|line| is_folded && line.is_empty());
    while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
        block.push(row.to_owned());
    }
    lines.next_if(|line| is_folded && line.is_empty());
    lines.next_if(|line| is_folded && *line == "</details>");
    block
}

/// What is left of a fence that has begun, with its end.
fn fence_rest(lines: &mut Lines) -> Vec<String> {
    let mut rest = Vec::new();
    for line in lines.by_ref() {
        rest.push(line.to_owned());
        if line == "```" {
            break;
        }
    }
    rest
}

/// How a table begins that is not shown until it is asked for.
const FOLDED: &str = "<details><summary>Every errno";

/// A table of errnos, folded where it is not what the page is for.
fn folded(path: &str, table: Vec<String>) -> Vec<String> {
    if path.ends_with("-atlas.md") {
        return table;
    }
    let begin = [format!("{FOLDED}, and what the server does</summary>"), String::new()];
    [&begin[..], &table, &[String::new(), "</details>".to_owned()]].concat()
}

fn fenced(kind: &str, lines: &[String]) -> Vec<String> {
    let begin = format!("```{kind}");
    [&[begin], lines, &["```".to_owned()]].concat()
}

/// The states and what leads from one to another: an arrow a line, and a row an event.
fn states() -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    let mut events: Vec<(&str, &str)> = Vec::new();
    for Transition { event, when, from, to } in TRANSITIONS {
        let new = [from, to].into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>();
        names.extend(new);
        if !events.contains(&(*event, *when)) {
            events.push((*event, *when));
        }
    }
    let between = |from: &str, to: &str| -> Vec<&str> {
        let arrows = TRANSITIONS.iter().filter(|arrow| arrow.from == from && arrow.to == to);
        arrows.map(|arrow| arrow.event).collect()
    };
    let mut drawing = Vec::new();
    for from in &names {
        let mut start = *from;
        for to in &names {
            let mut between = between(from, to);
            between.dedup();
            if !between.is_empty() {
                drawing.push(format!("  {start:<10} ──▶ {to:<9}  {}", between.join(", ")));
                start = "";
            }
        }
    }
    // Nothing leads out of the last.
    names.retain(|name| TRANSITIONS.iter().any(|arrow| arrow.from == *name));
    let mut table = vec![
        format!("| event | {} | when |", names.join(" | ")),
        format!("|---|{}---|", "---|".repeat(names.len())),
    ];
    for (event, when) in events {
        let cells = names.iter().map(|from| {
            let arrows = TRANSITIONS.iter().filter(|it| it.event == event && it.from == *from);
            let mut targets: Vec<&str> = arrows.map(|arrow| arrow.to).collect();
            targets.dedup();
            targets.join(" or ")
        });
        let cells: Vec<String> = cells.collect();
        table.push(format!("| `{event}` | {} | {} |", cells.join(" | "), when.trim()));
    }
    [fenced("text", &drawing), table].concat()
}

impl Proof {
    /// A page as it should be.
    fn page(&self, path: &str, text: &str) -> String {
        let mut lines = text.lines().peekable();
        let mut page = Vec::new();
        while let Some(line) = lines.next() {
            if let Some((kind, asked)) = mark(line) {
                page.push(line.to_owned());
                let old = old_block(&mut lines);
                page.extend(self.block(path, kind, asked, &old).unwrap_or_else(|wrong| {
                    self.complain(path, &format!("{line}: {wrong}"));
                    old
                }));
            } else if let Some(language) = line.strip_prefix("```") {
                let rest = fence_rest(&mut lines);
                page.push(line.to_owned());
                page.extend(self.unmarked(path, language, rest));
            } else {
                page.push(self.marks_within(path, line));
            }
        }
        page.join("\n") + "\n"
    }

    fn complain(&self, path: &str, wrong: &str) {
        self.wrong.borrow_mut().push(format!("{path}: {wrong}"));
    }

    fn hold(&self, kind: &'static str, count: usize) {
        *self.held.borrow_mut().entry(kind).or_default() += count;
    }

    /// What must stand behind a mark.
    fn block(
        &self,
        path: &str,
        kind: &str,
        asked: &str,
        old: &[String],
    ) -> Result<Vec<String>, String> {
        Ok(match kind {
            "quote" => {
                let (file, name) = asked.split_once('#').ok_or("which piece of it?")?;
                let piece = source::piece(file, name)?;
                self.hold("quotes", 1);
                let (first, last) = (piece.first, piece.last);
                let place = match file.strip_prefix("docs/") {
                    Some(path) => path.to_owned(),
                    None => format!("../{file}"),
                };
                let link = format!("[{file}, line {first}]({place}#L{first}-L{last})");
                [vec![link], fenced("rust", &piece.lines)].concat()
            }
            "trace" => {
                let (name, bounds) = asked.split_once(' ').unwrap_or((asked, ""));
                let Some(traces) = &self.traces else { return Ok(old.to_vec()) };
                self.hold("traces", 1);
                let lines = traces.slice(name, bounds)?;
                fenced("c", &captions::shown(traces.lines(name)?, lines, path))
            }
            "fault" => {
                let Some(traces) = &self.traces else { return Ok(old.to_vec()) };
                self.hold("faults", 1);
                let lines = traces.fault(asked)?;
                fenced("c", &captions::shown(traces.lines(asked)?, lines, path))
            }
            "patch" => {
                let file = format!("docs/exercises/{asked}.patch");
                let patch =
                    fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
                self.hold("exercises", 1);
                fenced("diff", &patch.lines().map(str::to_owned).collect::<Vec<_>>())
            }
            "step" => {
                self.hold("steps", 1);
                fenced("diff", &story::changes(asked)?)
            }
            "scene" if self.traces.is_none() => return Ok(old.to_vec()),
            "scene" => {
                self.hold("scenes", 1);
                let known = old.get(1..old.len().saturating_sub(1)).unwrap_or_default();
                fenced("c", &story::trace(asked, known)?)
            }
            "errnos" => {
                self.hold("errno tables", 1);
                folded(path, source::errno_table(asked)?)
            }
            "measured" => {
                self.hold("measured tables", 1);
                self.measured_table(asked)?
            }
            "calls" => {
                self.hold("calls", self.methods.len());
                calls_table(&self.methods)
            }
            "states" => {
                self.hold("transitions", TRANSITIONS.len());
                states()
            }
            "variants" => {
                let (file, name) = asked.split_once('#').ok_or("which enum of it?")?;
                let piece = source::piece(file, name)?;
                let variants = piece.lines.iter().filter_map(|line| {
                    let name = line
                        .strip_prefix("    ")
                        .filter(|it| it.starts_with(char::is_uppercase))?;
                    name.split(|c: char| !c.is_alphanumeric()).next()
                });
                let mut untold = variants.filter(|variant| !old.join("\n").contains(variant));
                if let Some(variant) = untold.next() {
                    return Err(format!("the drawing leaves out {variant}"));
                }
                self.hold("drawings", 1);
                old.to_vec()
            }
            "fact" => {
                self.fact(asked)?;
                old.to_vec()
            }
            "walk" => {
                self.hold("pages of the walk", 1);
                vec![walk::line(path, &self.walk)?]
            }
            "try" => old.to_vec(),  // tests/server runs it twenty times
            "note" => old.to_vec(), // for those who write, not for those who read
            "loops" | "sizes" => old.to_vec(), // tests of their own compare them
            _ => return Err("no such mark".to_owned()),
        })
    }

    /// A fence without a mark: a console block is run, code is refused.
    fn unmarked(&self, path: &str, language: &str, rest: Vec<String>) -> Vec<String> {
        match language {
            "console" if self.traces.is_none() && !console::is_simple(&rest) => {}
            "console" => match console::run(&rest) {
                Ok(shown) => {
                    self.hold("console blocks", 1);
                    return [shown, vec!["```".to_owned()]].concat();
                }
                Err(wrong) => self.complain(path, &wrong),
            },
            "rust" | "c" | "diff" => {
                self.complain(path, &format!("code without a mark: {}", rest[0]));
            }
            "rust,no_run" if path != "README.md" => self.complain(path, "a doctest that is none"),
            _ => {}
        }
        rest
    }

    fn fact(&self, asked: &str) -> Result<(), String> {
        for name in asked.split_whitespace() {
            if !self.facts.contains(&format!("\nfn {name}() {{")) {
                return Err(format!("tests/kernel_facts.rs has no {name}"));
            }
            self.hold("facts", 1);
        }
        Ok(())
    }

    fn test(&self, asked: &str) -> Result<(), String> {
        for path in asked.split_whitespace() {
            let (module, name) = path.rsplit_once("::").ok_or("in which file?")?;
            let is_it = |file: &str| file == module || file.ends_with(&format!("::{module}"));
            let mut files = self.tests.iter().filter(|(file, _)| is_it(file));
            let (Some((_, tests)), None) = (files.next(), files.next()) else {
                return Err(format!("not one file, but none or several, is {module}"));
            };
            if !tests.iter().any(|test| test == name) {
                return Err(format!("{module} has no test {name}"));
            }
            self.hold("tests", 1);
        }
        Ok(())
    }

    /// What is tested is told.
    fn untold_facts(&self, pages: &[(String, String)]) {
        for name in source::tests(&self.facts) {
            let marks = |text: &String| {
                text.split("<!-- fact: ")
                    .skip(1)
                    .any(|mark| mark.split(" -->").next().unwrap().split(' ').any(|it| it == name))
            };
            if !pages.iter().any(|(_, text)| marks(text)) {
                self.complain("tests/kernel_facts.rs", &format!("no chapter tells {name}"));
            }
            // A fact that is stated in a sentence is told in that sentence, which is thus no
            // wider than its test.
            let Some(sentence) = source::stated(&self.facts, name) else { continue };
            let tells = |text: &String| {
                let mut places = text.match_indices(sentence);
                places.any(|(at, _)| {
                    let mark = text[at + sentence.len()..].strip_prefix("<!-- fact: ");
                    let names = mark.and_then(|mark| mark.split(" -->").next()).unwrap_or_default();
                    names.split(' ').any(|it| it == name)
                })
            };
            if !pages.iter().any(|(_, text)| tells(text)) {
                self.complain(
                    "tests/kernel_facts.rs",
                    &format!("no chapter says of {name}: {sentence}"),
                );
            }
            self.hold("facts word for word", 1);
        }
    }

    /// A line with the marks that stand in it, each in front of a number or behind a claim.
    fn marks_within(&self, path: &str, line: &str) -> String {
        let mut pieces = line.split("<!-- ");
        let mut result = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (inner, rest) = piece.split_once(" -->").unwrap_or((piece, ""));
            let (kind, asked) = inner.split_once(": ").unwrap_or((inner, ""));
            let number = rest.find(|c: char| !c.is_ascii_digit() && c != ',' && c != '.');
            let number = rest[..number.unwrap_or(rest.len())].trim_end_matches([',', '.']);
            let due = match kind {
                "fact" => self.fact(asked).map(|()| number.to_owned()),
                "test" => self.test(asked).map(|()| number.to_owned()),
                "count" => {
                    let (name, bounds) = asked.split_once(' ').unwrap_or((asked, ""));
                    self.hold("counts", 1);
                    match &self.traces {
                        Some(it) => it.slice(name, bounds).map(|lines| lines.len().to_string()),
                        None => Ok(number.to_owned()),
                    }
                }
                "measured" => self.measured(asked),
                "score" => story::score(asked).inspect(|_| self.hold("scores", 1)),
                _ => Err("no such mark".to_owned()),
            };
            let due = due.unwrap_or_else(|wrong| {
                self.complain(path, &format!("{inner}: {wrong}"));
                number.to_owned()
            });
            result += &format!("<!-- {inner} -->{due}{}", &rest[number.len()..]);
        }
        result
    }

    /// A table of docs/measured.md.
    fn measured_table(&self, name: &str) -> Result<Vec<String>, String> {
        let mark = format!("<!-- note: {name} -->");
        let lines = self.measured.lines().skip_while(|line| *line != mark).skip(1);
        let table: Vec<String> =
            lines.take_while(|line| line.starts_with('|')).map(str::to_owned).collect();
        if table.is_empty() { Err(format!("not measured: {name}")) } else { Ok(table) }
    }

    /// A figure in such a table; of a median with its interval, the median.
    fn measured(&self, asked: &str) -> Result<String, String> {
        let [name, row, column] = asked.split('/').collect::<Vec<_>>()[..] else {
            return Err("which table/row/column?".to_owned());
        };
        let table = self.measured_table(name)?;
        let cells = |line: &str| {
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        let at = cells(&table[0]).iter().position(|head| head == column);
        let row = table.iter().map(|line| cells(line)).find(|cells| cells[0] == row);
        let cell = row.and_then(|row| row.get(at?).cloned()).ok_or("not measured")?;
        self.hold("measured figures", 1);
        Ok(cell.split(' ').next().unwrap_or_default().to_owned())
    }
}

fn calls_table(methods: &[Method]) -> Vec<String> {
    let mut table = vec![
        "| method | manual | chapter | in the tables |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    for method in methods {
        let chapters: Vec<String> =
            method.chapters.iter().map(|it| format!("[{}]({it}.md)", walk::name(it))).collect();
        let roles: Vec<String> = method.roles.iter().map(|role| format!("`{role}`")).collect();
        let (manuals, chapters, roles) =
            (method.manuals.join(", "), chapters.join(", "), roles.join(" "));
        table.push(
            format!("| `{}` | {manuals} | {chapters} | {roles} |", method.name)
                .replace("  |", " |"),
        );
    }
    table
}

// ---- what the pages are to each other ------------------------------------------------

/// What a page links to, outside of code.
fn targets(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_fence = false;
    for line in text.lines() {
        in_fence ^= line.starts_with("```");
        let prose = line.split('`').step_by(2).collect::<Vec<_>>().join("");
        let links = prose.split("](").skip(1).filter(|_| !in_fence);
        targets.extend(links.map(|rest| rest.split(')').next().unwrap().to_owned()));
    }
    targets
}

/// The names that a page's headings have in links, as where repositories are browsed.
fn headings(text: &str) -> HashSet<String> {
    let mut in_fence = false;
    let mut names = HashSet::new();
    for line in text.lines() {
        in_fence ^= line.starts_with("```");
        let Some(title) = line.strip_prefix('#').filter(|_| !in_fence) else { continue };
        let kept = title.trim_start_matches('#').trim().chars().filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            _ => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
        });
        names.insert(kept.collect());
    }
    names
}

impl Proof {
    fn links(&self, pages: &[(String, String)]) {
        for (page, text) in pages {
            let folder = Path::new(page).parent().unwrap();
            for target in targets(text) {
                let (file, place) = target.split_once('#').unwrap_or((&target, ""));
                let path = if file.is_empty() { page.into() } else { folder.join(file) };
                let is_lines = place.starts_with('L') && place[1..].starts_with(char::is_numeric);
                if target.starts_with("https://") {
                    continue;
                } else if !path.exists() {
                    self.complain(page, &format!("nothing stands at {target}"));
                } else if !place.is_empty()
                    && !is_lines
                    && !headings(&fs::read_to_string(&path).unwrap()).contains(place)
                {
                    self.complain(page, &format!("{file} has no heading #{place}"));
                }
                self.hold("links", 1);
            }
        }
    }

    /// Each file beside the pages is one that somebody looks at.
    fn leftovers(&self, pages: &[(String, String)]) {
        for entry in
            ["docs/traces", "docs/exercises"].iter().flat_map(|it| fs::read_dir(it).unwrap())
        {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let is_patch = path.extension().is_some_and(|it| it == "patch");
            let mark = format!("<!-- patch: {name} -->");
            let is_known = match is_patch {
                true => pages.iter().any(|(_, text)| text.contains(&mark)),
                false => self.traces.as_ref().is_none_or(|it| it.lines(name).is_ok()),
            };
            if !is_known {
                self.complain(&path.display().to_string(), "nothing on any page is about it");
            }
        }
    }

    /// The map links each page of the walk in its order, and each other page as well. (What
    /// `make bench` writes is none.)
    fn index(&self, pages: &[(String, String)]) {
        let (_, index) = pages.iter().find(|(path, _)| path == INDEX).unwrap();
        let section = index.split("\n## The whole walk").nth(1).unwrap_or_default();
        let linked = targets(section.split("\n## ").next().unwrap_or_default());
        let linked: Vec<String> = linked.into_iter().map(|it| format!("docs/{it}")).collect();
        let mut walked: Vec<&String> = Vec::new();
        for target in linked.iter().filter(|it| walk::is_on(it)) {
            let is_new = !walked.contains(&target); // it may be linked again, to look something up
            walked.extend(is_new.then_some(target));
        }
        let due: Vec<&String> = self.walk.iter().map(|(path, _)| path).collect();
        if walked != due {
            self.complain(INDEX, &format!("the whole walk is {due:#?}, the map has {walked:#?}"));
        }
        let others = [INDEX, "README.md", "docs/measured.md"];
        for (path, text) in pages.iter().filter(|(path, _)| !others.contains(&path.as_str())) {
            if !linked.contains(path) {
                self.complain(INDEX, &format!("{path} stands nowhere in the whole walk"));
            }
            let last = text.lines().rev().nth(1);
            if walk::is_on(path) != (last == Some("<!-- walk -->")) {
                self.complain(
                    path,
                    "a page with a number, and no other, ends with the mark `walk`",
                );
            }
        }
    }

    /// Each page of the walk says in its first paragraph what it is for; and its traces can be
    /// read: no line is too wide, and many lines have words.
    fn is_readable(&self, path: &str, text: &str) {
        let first = text.lines().nth(2).unwrap_or_default();
        let is_prose = first.starts_with(|c: char| c.is_alphabetic() || "*`[".contains(c));
        if walk::is_on(path) && (!is_prose || first.chars().count() > 900) {
            self.complain(
                path,
                "the third line must be a paragraph that says what the page is for",
            );
        }
        for trace in text.split("\n```c\n").skip(1) {
            let lines: Vec<&str> = trace.split("\n```").next().unwrap().lines().collect();
            let wide = lines.iter().find(|line| line.chars().count() > captions::COLUMNS);
            if let Some(line) = wide {
                self.complain(path, &format!("wider than {}: {line}", captions::COLUMNS));
            }
            let has_word =
                |line: &&str| line.rsplit_once("  // ").is_some_and(|it| !it.1.is_empty());
            let is_raw = path.contains("reading-a-trace");
            if lines.len() > captions::FEW && !is_raw && !lines.iter().all(has_word) {
                self.complain(path, &format!("a line without a word: {lines:#?}"));
            }
        }
    }

    /// What the index of the trade's words sends a reader to has one of the words.
    fn trade(&self, pages: &[(String, String)]) {
        const PAGE: &str = "docs/00-words.md";
        let text = |path: &str| {
            pages.iter().find(|(page, _)| page == path).map_or("", |(_, text)| text.as_str())
        };
        let index = text(PAGE).split("\n## What people call it").nth(1).unwrap_or_default();
        for row in index.lines().filter(|line| line.starts_with("| ")).skip(1) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for target in targets(cells[3]) {
                let page = format!("docs/{}", target.split('#').next().unwrap());
                let said = text(&page).to_lowercase();
                if !cells[1].split(", ").any(|word| said.contains(&word.to_lowercase())) {
                    self.complain(PAGE, &format!("{page} does not say {}", cells[1]));
                }
                self.hold("words of the trade", 1);
            }
        }
    }

    /// Each method says where it is explained, and is explained there; each call is traced,
    /// but for the clock, which is none.
    fn coverage(&self, pages: &[(String, String)]) {
        let said: Vec<&String> = self.methods.iter().flat_map(|method| &method.roles).collect();
        for role in threadbare::reaction::Call::ALL.map(|call| format!("{call:?}")) {
            if role != "Memory" && !said.contains(&&role) {
                self.complain("src/kernel/mod.rs", &format!("no method names Call::{role}"));
            }
        }
        for method in &self.methods {
            let complain = |wrong: &str| {
                self.complain("src/kernel/mod.rs", &format!("{}: {wrong}", method.name))
            };
            let is_clock = method.name == "clock_gettime";
            if method.manuals.is_empty()
                || method.chapters.is_empty()
                || (method.roles.is_empty() && !is_clock)
            {
                complain("its last paragraph must be `NAME(2), docs/CHAPTER.md, [`Call::ROLE`]`");
            }
            for chapter in &method.chapters {
                let path = format!("docs/{chapter}.md");
                let word = method.manuals[0].split('(').next().unwrap();
                let text = pages.iter().find(|(page, _)| *page == path).map(|(_, text)| text);
                if !text.is_some_and(|text| text.contains(word)) {
                    complain(&format!("{path} says nothing of {word}"));
                }
            }
            let is_traced = |traces: &Traces| {
                traces.names().any(|name| traces.slice(name, method.traced()).is_ok())
            };
            // One call is made only where another server starts at the same moment.
            let is_shown = !is_clock && method.name != "clock_nanosleep";
            if is_shown && !self.traces.as_ref().is_none_or(is_traced) {
                complain("no scenario makes this call");
            }
        }
    }
}

// ---- the tests -----------------------------------------------------------------------

/// Runs a test in a network of its own, where every port is free, with the usual buffers: how
/// much the kernel takes at once is shown. And with nothing open: whatever this process has
/// inherited would shift the numbers of descriptors. Whether that is to be had here.
fn as_shown(name: &str, test: impl FnOnce()) -> bool {
    let buffers = "cd /proc/sys/net/ipv4 && echo 4096 131072 6291456 >tcp_rmem \
        && echo 4096 16384 4194304 >tcp_wmem || true; cd \"$OLDPWD\"";
    if !support::needs(&["ip", "strace", "unshare"]) {
        return false;
    }
    support::in_a_network_of_its_own(name, buffers, || {
        let open = fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().file_name());
        let open: Vec<i32> = open.filter_map(|fd| fd.to_str()?.parse().ok()).collect();
        for fd in open.into_iter().filter(|&fd| fd > 2) {
            let _ = nix::unistd::close(fd); // the listing itself is closed already
        }
        test();
    });
    true
}

/// What is timed to the millisecond does not run beside what makes the machine busy.
static ALONE: Mutex<()> = Mutex::new(());

/// The chapter on being full names the bound of every loop, file by file.
#[test]
fn every_loop_names_its_bound() {
    let chapter = std::fs::read_to_string("docs/15-full.md").unwrap();
    let table = chapter.split("<!-- loops -->").nth(1).unwrap();
    let rows = table.lines().skip(3).take_while(|line| line.starts_with('|'));
    let mut told: Vec<(String, usize)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert!(!cells[3].is_empty(), "no bound: {row}");
            (cells[1].trim_matches('`').to_owned(), cells[2].parse().unwrap())
        })
        .collect();
    told.sort();
    assert_eq!(told, source::loops(), "docs/15-full.md, Turns: what bounds the loop?");
}

#[test]
fn the_docs_are_true() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let shown = || {
        prove(true);
        if std::env::var("UPDATE").is_ok() {
            buffers::prove();
        }
    };
    if !as_shown("the_docs_are_true", shown) {
        prove(false); // what takes no traces is compared all the same
    }
}

/// Compares everything; or, without traces, all but them, and but for what a server prints.
fn prove(with_traces: bool) {
    let started = Instant::now();
    let pages = pages();
    let methods = source::methods();
    let marks = pages.iter().flat_map(|(_, text)| text.lines().filter_map(mark));
    let faults: Vec<String> =
        marks.filter(|mark| mark.0 == "fault").map(|mark| mark.1.to_owned()).collect();
    let proof = Proof {
        traces: with_traces
            .then(|| Traces::new(&methods, &faults).unwrap_or_else(|it| panic!("{it}"))),
        methods,
        walk: walk::pages(&pages),
        facts: fs::read_to_string("tests/kernel_facts.rs").unwrap(),
        tests: source::all_tests(),
        measured: fs::read_to_string("docs/measured.md").unwrap_or_default(),
        held: RefCell::default(),
        wrong: RefCell::default(),
    };
    proof.hold(
        "cells of `reaction`",
        source::arms_are_true().unwrap_or_else(|wrong| panic!("{wrong}")),
    );
    let traces = proof.traces.as_ref();
    proof.hold("calls told by both witnesses", traces.map_or(0, |it| it.agreed));
    proof.links(&pages);
    proof.index(&pages);
    proof.trade(&pages);
    proof.coverage(&pages);
    proof.untold_facts(&pages);
    proof.leftovers(&pages);
    let due = pages.iter().map(|(path, text)| (path.clone(), proof.page(path, text)));
    let mut due: Vec<(String, String)> = due.collect();
    if let Some(traces) = traces {
        for name in traces.names().filter(|name| !name.contains(' ')) {
            let text = traces.lines(name).unwrap().join("\n") + "\n";
            due.push((trace::golden(name), text));
        }
        due.push((life::PICTURE.to_owned(), life::picture()));
    }
    match explained::made(&proof.methods, &due) {
        Ok(text) => due.push((explained::FILE.to_owned(), text)),
        Err(wrong) => proof.complain(explained::FILE, &wrong),
    }
    for (path, text) in due.iter().filter(|(path, _)| path.ends_with(".md")) {
        proof.is_readable(path, text);
    }
    let differ = settle_differences(&due);
    for (kind, count) in proof.held.borrow().iter() {
        print!("{count} {kind}, ");
    }
    println!("in {:?}", started.elapsed());
    let of_traces = |kind: &str| ["calls told by both witnesses", "traces"].contains(&kind);
    for (kind, due) in AT_LEAST.into_iter().filter(|it| with_traces || !of_traces(it.0)) {
        let held = proof.held.borrow().get(kind).copied().unwrap_or_default();
        assert!(held >= due, "only {held} {kind}");
    }
    let wrong = proof.wrong.borrow();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(differ == 0, "{differ} pages differ from what is true; `make docs-update` mends them");
}

/// Writes what differs, or tells it: how many pages differ still.
fn settle_differences(due: &[(String, String)]) -> usize {
    let mut differ = 0;
    for (path, text) in due {
        let old = fs::read_to_string(path).unwrap_or_default();
        if old == *text {
            continue;
        }
        if std::env::var("UPDATE").is_ok() {
            println!("updated {path}");
            fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        } else {
            tell_difference(path, &old, text);
            differ += 1;
        }
    }
    differ
}

/// The lines that only one of both has, with their numbers.
fn tell_difference(path: &str, old: &str, new: &str) {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let (mut i, mut j) = (0, 0);
    for (sign, line) in story::merged(&old, &new) {
        i += usize::from(sign != '+');
        j += usize::from(sign != '-');
        match sign {
            '-' => println!("{path}:{i}: - {line}"),
            '+' => println!("{path}:{j}: + {line}"),
            _ => {}
        }
    }
}

#[test] // the rude clients of `make torture` are survived, by lines and by an echo
fn torture() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for handler in ["greet", "echo"] {
        let server = support::Server::start(&[handler]);
        let mut torture = Command::new(support::example("torture"));
        let table = console::output(torture.arg(&server.addresses[0]));
        assert!(table.ends_with("survived 22 of 22, 10 not tried\n"), "{handler}:\n{table}");
    }
}

#[test] // each program of the story survives what its page says, and the last and the real one all
#[ignore = "heavy"]
fn each_step_has_its_score() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if support::needs(&["ip", "nft", "unshare"]) {
        story::compare_scores();
    }
}

#[test] // what is no victim is told apart from what is a bad one
fn torture_of_a_server_that_repeats_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let output = Command::new(support::example("torture")).arg(&address).output().unwrap();
    let due = "a polite client: no answer with the words of the question within 3 s; any server";
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with(&format!("error: {address}: {due}")), "{said}");
    assert_eq!(output.status.code(), Some(2));
}

#[test] // each call that `make tour` announces is made, and the server ends as it should
fn tour() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let told = console::output(Command::new(support::example("tour")).arg(console::PROGRAM));
    assert!(told.contains("It has ended (exit status: 0)"), "{told}");
    let widest = told.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{told}");
}

#[test] // `make trace | head -1`: no panic, no server left behind
fn a_reader_that_stops_is_a_quiet_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = support::Server::start(&["echo"]);
    for (program, words) in [
        ("tour", &[console::PROGRAM][..]),
        ("trace", &[console::PROGRAM]),
        ("trace", &[console::PROGRAM, "-l", "127.0.0.1:0"]),
        ("torture", &[&server.addresses[0]]),
    ] {
        let mut command = Command::new(support::example(program));
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let group = Pid::from_raw(child.id() as i32);
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{program} {words:?}");
        assert!(output.status.success(), "{program} {words:?}: {}", output.status);
        assert_eq!(killpg(group, None), Err(Errno::ESRCH), "{program} {words:?} left a child");
    }
}

#[test] // the client takes no option for a message, and its errors name the way out
fn client_words() {
    for (words, code, said) in [
        (&["-h"][..], 0, "Usage: client "),
        (&["--help"], 0, "Usage: client "),
        (&["--frobnicate", "x"], 2, "to send it: -- --frobnicate"),
        (&["--to"], 2, "--to needs an address"),
        (&["--to", "nowhere", "x"], 1, "HOST:PORT or unix:PATH"),
        (&["--to", "unix:/proc/nobody", "x"], 1, "make run"),
    ] {
        let output = Command::new(support::example("client")).args(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: {text}");
    }
    let server = support::Server::start(&["echo"]);
    let mut client = Command::new(support::example("client"));
    let told = console::output(client.args(["--to", &server.addresses[0], "--", "--help", "me"]));
    assert_eq!(told, "--help me\n");
    // Whoever reads its output may stop: the server is not to blame.
    let pipe = std::io::pipe().unwrap();
    let mut client = Command::new(support::example("client"));
    client.args(["--to", &server.addresses[0], "x"]).stdout(pipe.1);
    drop(pipe.0);
    let output = client.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
