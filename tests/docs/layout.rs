//! The source reads in one order: each room knows only those before it.
//!
//! A room is a file of src, with what stands in the directory of its name. The order stands
//! in the words of src/lib.rs, and in the table of the README; src/program, which uses the
//! library as anybody would, is in the README's alone. What a room uses are its paths that begin
//! with `crate::`, in `use` lines or elsewhere, without those of its tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What one reads to understand how the server works: an evening.
const EVENING: [&str; 10] = [
    "kernel/mod.rs",
    "reaction.rs",
    "buffer.rs",
    "slots.rs",
    "outbox.rs",
    "connection/state.rs",
    "connection.rs",
    "net/sending.rs",
    "reactor.rs",
    "reactor/input.rs",
];
/// Most lines of code that it has.
const EVENING_LINES: usize = 2_000;
/// Most lines of code of a function.
const FUNCTION_LINES: usize = 40;
/// Functions that are tables, one row after the other: these are looked up, too.
const TABLES: [&str; 1] = ["reaction"];
/// What begins like this is looked up, not read: options, and names of calls.
const LOOKED_UP: [&str; 4] =
    ["enum Clock {", "enum EpollOp {", "enum FileKind {", "enum SocketOption {"];

/// The files of the library, by path below src, without what is for their tests.
fn sources() -> BTreeMap<String, String> {
    files(|name| !name.starts_with("program/"))
}

/// Those of the program.
fn programs() -> BTreeMap<String, String> {
    files(|name| name.starts_with("program/"))
}

fn files(is_wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { collect(&path, files) } else { files.push(path) }
        }
    }
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    let name = |path: &PathBuf| path.strip_prefix("src").unwrap().to_str().unwrap().to_owned();
    let files = files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap()));
    let is_source = |name: &str| name.ends_with(".rs") && !name.ends_with("tests.rs");
    let without_tests = |text: String| text.split("#[cfg(test)]\nmod tests").next().unwrap().into();
    files
        .filter(|(name, _)| is_source(name) && is_wanted(name))
        .map(|(name, text)| (name, without_tests(text)))
        .collect()
}

/// `net` of `net.rs` and of `net/files.rs`.
fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The paths that begin at the top of the source, as `net::Conn`, wherever they stand in the code
/// of a file: behind `crate::`, or behind as many `super::` as lead there.
fn paths<'a>(file: &str, text: &'a str) -> Vec<&'a str> {
    let depth = file.trim_end_matches("/mod.rs").split('/').count();
    let to_top = ["crate::".to_owned(), "super::".repeat(depth)];
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words =
        code.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && !"_:{$".contains(c)));
    words.filter_map(|word| to_top.iter().find_map(|it| word.strip_prefix(it.as_str()))).collect()
}

/// The rooms that a file uses.
fn uses<'a>(file: &str, text: &'a str) -> Vec<&'a str> {
    paths(file, text).into_iter().map(|path| path.split(':').next().unwrap()).collect()
}

/// The files of its own room that a file uses, by path below src.
fn neighbors(file: &str, text: &str, sources: &BTreeMap<String, String>) -> Vec<String> {
    let Some((directory, _)) = file.rsplit_once('/') else { return Vec::new() };
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words =
        code.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c)));
    let names = words.filter_map(|word| word.strip_prefix("super::"));
    let names = names.map(|path| path.split(':').next().unwrap());
    let files = names.map(|name| format!("{directory}/{name}.rs"));
    files.filter(|other| sources.contains_key(other) && other != file).collect()
}

fn order_in_lib(lib: &str) -> Vec<String> {
    let words: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let words = words.join(" ");
    let list = words.split("each knows only those before it:").nth(1).expect("the order in lib.rs");
    let names = list.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    names.filter(|name| !name.is_empty() && *name != "and").map(str::to_owned).collect()
}

fn order_in_readme(readme: &str) -> Vec<String> {
    let section = readme.split("\n## Read it\n").nth(1).expect("the section");
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let mut order = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        for target in row.split("](src/").skip(1) {
            let room = room(target).to_owned();
            if room != "program" && !order.contains(&room) {
                order.push(room);
            }
        }
    }
    order
}

#[test]
fn each_room_knows_only_those_before_it() {
    let sources = sources();
    let order = order_in_lib(&sources["lib.rs"]);
    let readme = order_in_readme(&fs::read_to_string("README.md").unwrap());
    assert_eq!(order, readme, "lib.rs, and README.md");
    let place = |room: &str| order.iter().position(|it| it == room);
    let (mut used, mut wrong) = (0, Vec::new());
    for (file, text) in sources.iter().filter(|(file, _)| *file != "lib.rs") {
        let Some(own) = place(room(file)) else {
            wrong.push(format!("src/{file} is in no list"));
            continue;
        };
        for other in uses(file, text) {
            used += 1;
            if place(other).is_none_or(|other| other > own) {
                wrong.push(format!("src/{file} uses {other}, which comes later"));
            }
        }
    }
    for room in &order {
        let exists = sources.keys().any(|file| self::room(file) == room);
        wrong.extend((!exists).then(|| format!("there is no {room}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(used > 100, "only {used} lines seen");
}

/// Within a room, too: take away each file that uses none of those left, until none is left.
#[test]
fn no_files_of_a_room_use_each_other_in_a_circle() {
    let sources = sources();
    let mut left: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (file, text) in &sources {
        left.insert(file, neighbors(file, text, &sources));
    }
    let used: usize = left.values().map(Vec::len).sum();
    assert!(used > 20, "only {used} seen");
    loop {
        let before: Vec<&str> = left.keys().copied().collect();
        left.retain(|_, uses| uses.iter().any(|it| before.contains(&it.as_str())));
        if left.len() == before.len() {
            assert!(left.is_empty(), "in a circle, or before one: {left:#?}");
            return;
        }
    }
}

/// Lines of code: no blank ones, no comments, and nothing that is looked up.
fn code_lines(text: &str) -> usize {
    let mut looked_up = false;
    let mut count = 0;
    for line in text.lines() {
        let code = line.trim();
        looked_up |=
            LOOKED_UP.iter().any(|begin| code.strip_prefix("pub ").unwrap_or(code) == *begin);
        count += usize::from(!looked_up && !code.is_empty() && !code.starts_with("//"));
        looked_up &= code != "}";
    }
    count
}

#[test]
fn the_evening_is_not_a_night() {
    let readme = fs::read_to_string("README.md").unwrap();
    let line = readme.lines().find(|line| line.starts_with("An evening is enough"));
    let line = line.expect("the README names the path");
    let named: Vec<&str> =
        line.split("](src/").skip(1).map(|link| link.split(')').next().unwrap()).collect();
    assert_eq!(named, EVENING);
    let sources = sources();
    let lines = EVENING.map(|file| (file, code_lines(&sources[file])));
    let sum: usize = lines.iter().map(|(_, lines)| lines).sum();
    assert!(sum > 1_000 && sum <= EVENING_LINES, "{sum} lines: {lines:?}");
}

/// The functions of a file, each with its lines of code.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let words = |line: &&str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let words = words(&line.trim_start());
        let before_name = |word: &String| {
            matches!(word.as_str(), "const" | "unsafe" | "async") || word.starts_with("pub")
        };
        let mut words = words.iter().skip_while(|word| before_name(word));
        if words.next().is_none_or(|word| word != "fn") {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        // Or a declaration, which has no body.
        let is_end = |line: &&str| {
            let line = line.strip_prefix(indent).filter(|line| !line.starts_with(' '));
            line.is_some_and(|line| line == "}" || line.ends_with(';'))
        };
        let rest = &lines[at..];
        let end = rest.iter().position(is_end).map_or(rest.len(), |end| end + 1);
        let name = line.split("fn ").nth(1).unwrap_or_default();
        let name =
            name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        found.push((name, code_lines(&rest[..end].join("\n"))));
    }
    found
}

#[test]
fn a_function_fits_on_a_screen() {
    let (mut seen, mut long, mut tables) = (0, Vec::new(), Vec::new());
    let mut all = sources();
    all.extend(programs());
    for (file, text) in &all {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (name, lines) in functions(code) {
            seen += 1;
            if lines > FUNCTION_LINES {
                match TABLES.contains(&name) {
                    true => tables.push(name),
                    false => long.push(format!("src/{file}: {name} has {lines} lines")),
                }
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
    assert_eq!(tables, TABLES, "no exception without need");
    assert!(seen > 700, "only {seen} functions seen");
}
