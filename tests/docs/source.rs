//! What the docs take from the source: named pieces of code, the methods of `trait Kernel`
//! with what stands above them, and the rows of `reaction`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use threadbare::kernel::Errno;
use threadbare::reaction::{Call, reaction};

/// Some lines of a file, the first of them counted from 1.
pub struct Piece {
    pub lines: Vec<String>,
    pub first: usize,
    pub last: usize,
}

/// The piece of a file with this name: what stands between `ANCHOR: name` and
/// `ANCHOR_END: name`, or the item of that name (`Conn::write`: in the `impl` or `trait` of
/// that type), with what is said above it. Dedented, without the anchors of others.
pub fn piece(file: &str, name: &str) -> Result<Piece, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let all: Vec<&str> = text.lines().collect();
    let (start, end) = anchored(&all, name).or_else(|| item(&all, name)).ok_or_else(|| {
        format!("{file} has no `ANCHOR: {name}`, and no item of that name, or several")
    })?;
    let within = &all[start..end];
    let indent = |line: &&&str| line.len() - line.trim_start().len();
    let margin = within.iter().filter(|line| !line.trim().is_empty()).map(|l| indent(&l)).min();
    let is_shown = |line: &&&str| !line.contains("// ANCHOR") && line.trim() != "#[inline]";
    let dedented = within.iter().filter(is_shown);
    let dedented = dedented.map(|line| line.get(margin.unwrap_or(0)..).unwrap_or("").to_owned());
    Ok(Piece { lines: dedented.collect(), first: start + 1, last: end })
}

fn anchored(all: &[&str], name: &str) -> Option<(usize, usize)> {
    let place =
        |mark: &str| all.iter().position(|line| line.trim() == format!("// {mark}: {name}"));
    Some((place("ANCHOR")? + 1, place("ANCHOR_END")?))
}

/// As rustfmt leaves it, an item ends with the first line that is indented as its first
/// one and ends as items end.
fn item(all: &[&str], name: &str) -> Option<(usize, usize)> {
    let (start, end, name) = match name.split_once("::") {
        None => (0, all.len(), name),
        Some((outer, name)) => {
            let is_outer = |line: &&str| {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                (line.starts_with("impl") || line.contains("trait "))
                    && words.any(|word| word == outer)
                    && line.ends_with('{')
            };
            let holds =
                |&start: &usize| definition(all, start, item_end(all, start), name).is_some();
            let mut starts = (0..all.len()).filter(|&at| is_outer(&all[at])).filter(holds);
            let start = starts.next().filter(|_| starts.next().is_none())?;
            (start, item_end(all, start), name)
        }
    };
    let at = definition(all, start, end, name)?;
    let is_above = |line: &&str| ["///", "#["].iter().any(|it| line.trim_start().starts_with(it));
    let above = all[..at].iter().rev().take_while(|line| is_above(line)).count();
    Some((at - above, item_end(all, at)))
}

/// The only line that defines `name`.
fn definition(all: &[&str], start: usize, end: usize, name: &str) -> Option<usize> {
    const KINDS: [&str; 8] = ["fn", "struct", "enum", "trait", "const", "static", "type", "mod"];
    let defines = |line: &str| {
        let split = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let words: Vec<&str> = split.filter(|word| !word.is_empty()).take(6).collect();
        !line.trim_start().starts_with("//")
            && words.windows(2).any(|pair| KINDS.contains(&pair[0]) && pair[1] == name)
    };
    let mut places = (start..end).filter(|&at| defines(all[at]));
    places.next().filter(|_| places.next().is_none())
}

fn item_end(all: &[&str], start: usize) -> usize {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let ends = |line: &str| {
        indent(line) == indent(all[start]) && ["}", ";", "},"].iter().any(|it| line.ends_with(it))
    };
    (start..all.len()).find(|&at| ends(all[at])).map_or(all.len(), |at| at + 1)
}

// ---- trait Kernel ------------------------------------------------------------------

/// A method of `trait Kernel`, and where it says that it is explained.
pub struct Method {
    pub name: String,
    /// As `socket(2)`.
    pub manuals: Vec<String>,
    /// As `door`.
    pub chapters: Vec<String>,
    /// The roles of the call in the table of reactions.
    pub roles: Vec<String>,
}

impl Method {
    /// What strace calls it, whatever it is called on this machine.
    pub fn traced(&self) -> &str {
        match self.name.as_str() {
            "lstat" | "stat" => "newfstatat",
            "openat2_as" => "openat2",
            "prlimit" => "prlimit64",
            "recv" => "recvfrom",
            "send" | "send_more" => "sendto",
            "getsockopt_error" | "getsockopt_listens" => "getsockopt",
            "fcntl_inherit" | "fcntl_nonblock" => "fcntl",
            "socket_datagram" | "socket_diag" => "socket",
            "read_counter" | "read_signal" | "read_diag" => "read",
            "write_counter" | "write_diag" => "write",
            "ioctl_outq" => "ioctl",
            name => name,
        }
    }
}

pub fn methods() -> Vec<Method> {
    let kernel = piece("src/kernel/mod.rs", "Kernel").unwrap();
    let mut said = String::new();
    let mut methods = Vec::new();
    for line in kernel.lines.iter().map(|line| line.trim()) {
        if let Some(doc) = line.strip_prefix("///") {
            said += doc;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split('(').next().unwrap().to_owned();
            // The last paragraph: "socket(2), docs/04-listening.md, [`Call::Socket`]".
            let words: Vec<&str> = said.split([' ', ',', '.', '`', '[', ']']).collect();
            let is_manual = |word: &&&str| {
                word.strip_suffix(')').is_some_and(|it| it.ends_with(char::is_numeric))
            };
            let manuals = words.iter().filter(is_manual).map(|word| word.to_string()).collect();
            let chapters = words.iter().filter_map(|word| word.strip_prefix("docs/"));
            let roles = words.iter().filter_map(|word| word.strip_prefix("Call::"));
            methods.push(Method {
                name,
                manuals,
                chapters: chapters.map(str::to_owned).collect(),
                roles: roles.filter(|role| !role.is_empty()).map(str::to_owned).collect(),
            });
            said.clear();
        } else {
            said.clear();
        }
    }
    methods
}

// ---- the table of reactions --------------------------------------------------------

/// One arm of `reaction`.
#[derive(Clone, PartialEq)]
struct Arm {
    /// Empty for what no arm before it names.
    errnos: Vec<String>,
    /// Of those that it does not name, the ones that are known to come.
    known: Vec<String>,
    reaction: String,
    why: String,
}

/// The arms for each call, as the source has them.
fn arms() -> Vec<(Vec<String>, Vec<Arm>)> {
    let source = piece("src/reaction.rs", "reaction").unwrap();
    let body = source.lines.iter().skip_while(|line| !line.contains("match call {")).skip(1);
    let (mut rows, mut calls) = (Vec::new(), None);
    let (mut pattern, mut note, mut group) = (String::new(), String::new(), Vec::new());
    for line in body {
        let (code, comment) = line.split_once("//").unwrap_or((line, ""));
        let code = code.trim();
        match code {
            "" => continue,
            "}," => rows.push((calls.take().unwrap(), std::mem::take(&mut group))),
            _ => {
                pattern = format!("{pattern} {code}");
                note += comment.trim();
            }
        }
        let Some((left, right)) = pattern.split_once("=>") else { continue };
        let names = |prefix| -> Vec<String> {
            left.split('|').map(|it| it.trim().trim_start_matches(prefix).to_owned()).collect()
        };
        match (right.trim().trim_end_matches(','), &calls) {
            ("match errno {", _) => calls = Some(names("Call::")),
            (reaction, Some(_)) => group.push(arm(names(""), reaction, &note)),
            (reaction, None) => {
                rows.push((names("Call::"), vec![arm(vec!["_".into()], reaction, &note)]));
            }
        }
        (pattern, note) = (String::new(), String::new());
    }
    rows
}

fn arm(errnos: Vec<String>, reaction: &str, note: &str) -> Arm {
    let reaction = reaction.to_owned();
    if errnos != ["_"] {
        return Arm { errnos, known: Vec::new(), reaction, why: note.to_owned() };
    }
    let is_errno = |word: &&str| {
        let word = word.trim_end_matches(':');
        word.len() > 2
            && word.starts_with('E')
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    let (known, why): (Vec<&str>, Vec<&str>) = note.split_whitespace().partition(is_errno);
    let known = known.iter().map(|word| word.trim_end_matches(':').to_owned()).collect();
    let why = why.join(" ").trim_matches([':', '…', ' ']).to_owned();
    Arm { errnos: Vec::new(), known, reaction, why }
}

/// A row of the tables, of one role.
pub struct Row {
    pub role: String,
    /// As the table has them.
    pub errnos: String,
    pub reaction: String,
    pub why: String,
}

impl Row {
    /// The errnos that it names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let words = self.errnos.split([' ', ',']);
        words.filter(|word| word.starts_with('E') && word.len() > 2)
    }
}

/// The rows of all roles.
pub fn errno_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (roles, arms) in arms() {
        for role in &roles {
            let row = |arm: &Arm| Row {
                role: role.clone(),
                errnos: errnos(arm, arms.len()),
                reaction: arm.reaction.clone(),
                why: arm.why.clone(),
            };
            rows.extend(arms.iter().map(row));
        }
    }
    rows
}

/// The errnos of an arm, one of so many.
fn errnos(arm: &Arm, arms: usize) -> String {
    match (arm.errnos.is_empty(), arms == 1, arm.known.is_empty()) {
        (false, ..) => arm.errnos.join(" "),
        (_, true, _) => "any".to_owned(),
        (_, _, true) => "any other".to_owned(),
        _ => format!("{}, any other", arm.known.join(" ")),
    }
}

/// The table of these calls, in markdown.
pub fn errno_table(wanted: &str) -> Result<Vec<String>, String> {
    let all = arms();
    let mut rows: Vec<(Vec<&str>, &Vec<Arm>)> = Vec::new();
    for name in wanted.split_whitespace() {
        let found = all.iter().find(|(calls, _)| calls.iter().any(|call| call == name));
        let (_, arms) = found.ok_or_else(|| format!("`reaction` has no call {name}"))?;
        match rows.iter_mut().find(|(_, others)| *others == arms) {
            Some((calls, _)) => calls.push(name),
            None => rows.push((vec![name], arms)),
        }
    }
    let has_notes = rows.iter().any(|(_, arms)| arms.iter().any(|arm| !arm.why.is_empty()));
    let note = |text: &str| match (has_notes, text) {
        (false, _) => String::new(),
        (true, "") => " |".to_owned(),
        (true, text) => format!(" {text} |"),
    };
    let mut table = vec![
        format!("| call | errno | reaction |{}", note("why")),
        format!("|---|---|---|{}", if has_notes { "---|" } else { "" }),
    ];
    for (calls, arms) in rows {
        let calls = calls.iter().map(|call| format!("`{call}`")).collect::<Vec<_>>().join(" ");
        for arm in arms {
            let errnos = errnos(arm, arms.len());
            table.push(format!("| {calls} | {errnos} | `{}` |{}", arm.reaction, note(&arm.why)));
        }
    }
    Ok(table)
}

/// That the arms say what the function does, of every errno there is: how many cells.
pub fn arms_are_true() -> Result<usize, String> {
    let all = arms();
    for (call, errno) in cells() {
        let (role, name) = (format!("{call:?}"), format!("{errno:?}"));
        let arms = all.iter().find(|(calls, _)| calls.contains(&role));
        let (_, arms) = arms.ok_or_else(|| format!("`reaction` does not name {role}"))?;
        let arm = arms.iter().find(|arm| arm.errnos.contains(&name)).or(arms.last());
        let said = arm.map(|arm| arm.reaction.clone()).unwrap_or_default();
        let does = format!("{:?}", reaction(call, errno));
        if said != does {
            return Err(format!("{role} {name}: the source reads {said}, but it is {does}"));
        }
    }
    Ok(cells().count())
}

fn cells() -> impl Iterator<Item = (Call, Errno)> {
    Call::ALL.into_iter().flat_map(|call| (1..134).map(move |raw| (call, Errno::from_raw(raw))))
}

// ---- tests ---------------------------------------------------------------------------

/// The names of the tests in a file.
pub fn tests(text: &str) -> impl Iterator<Item = &str> {
    let tests = text.split("\n#[test]").skip(1);
    tests.filter_map(|test| test.split("\nfn ").nth(1)?.split('(').next())
}

/// What the comment behind `#[test]` states, if it is a sentence.
pub fn stated<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let above = text.split(&format!("\nfn {name}() {{")).next()?;
    let comment =
        above.rsplit("\n#[test]").next()?.trim_start().strip_prefix("// ")?.lines().next()?;
    comment.ends_with('.').then_some(comment)
}

/// The names of the tests in each file below tests/ that is a room of a test program.
pub fn all_tests() -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for directory in ["library", "server", "sim", "faults", "docs"] {
        for entry in fs::read_dir(format!("tests/{directory}")).unwrap() {
            let path = entry.unwrap().path();
            let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            let Ok(text) = fs::read_to_string(&path) else { continue }; // a directory
            let names = tests(&text).map(str::to_owned).collect();
            all.insert(format!("{directory}::{stem}"), names);
        }
    }
    all
}

// ---- loops -------------------------------------------------------------------------

/// The files of the reactor and of `net` that have loops, and how many.
pub fn loops() -> Vec<(String, usize)> {
    let mut files = vec!["net.rs".to_owned(), "reactor.rs".to_owned()];
    for directory in ["net", "reactor"] {
        files.extend(files_below(directory));
    }
    let counted = files.into_iter().map(|file| {
        let text = fs::read_to_string(Path::new("src").join(&file)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let count = code.lines().filter(|line| is_loop(line)).count();
        (file, count)
    });
    let mut counted: Vec<(String, usize)> = counted.filter(|(_, count)| *count > 0).collect();
    counted.sort();
    counted
}

/// The files of a room and of those within it.
fn files_below(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new("src").join(directory)).unwrap();
    let files = entries.flat_map(|entry| {
        let entry = entry.unwrap();
        let path = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() { files_below(&path) } else { vec![path] }
    });
    files.collect()
}

fn is_loop(line: &str) -> bool {
    let line = line.trim_start();
    let unlabelled = line.strip_prefix('\'').and_then(|line| line.split_once(": "));
    let line = unlabelled.map_or(line, |(_, rest)| rest);
    ["loop {", "while ", "for "].iter().any(|word| line.starts_with(word))
}
