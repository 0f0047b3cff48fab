//! What `--explain` prints: the paragraphs of the chapters on each call, and the rows of the
//! table of reactions for each errno, as plain text.

use std::collections::BTreeMap;
use std::fs;

use super::source::{Method, errno_rows};

pub const FILE: &str = "src/program/explained.txt";
const ATLAS: &str = "docs/21-atlas.md";

/// All words that have an entry.
pub fn names() -> Vec<String> {
    let text = fs::read_to_string(FILE).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("# "));
    names.flat_map(|names| names.split(' ')).map(str::to_owned).collect()
}

/// The file as it should be: an entry for each call, and one for each errno.
pub fn made(methods: &[Method], pages: &[(String, String)]) -> Result<String, String> {
    let mut text = "What --explain prints; `make docs-update` writes it.\n".to_owned();
    let meanings = meanings(pages);
    // Several methods may be one call, and the kernel's name may differ from the manual's.
    let mut calls: BTreeMap<&str, Vec<&Method>> = BTreeMap::new();
    for method in methods {
        let manual = method.manuals[0].split('(').next().unwrap();
        calls.entry(manual).or_default().push(method);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (call, methods) in &calls {
        let mut names = vec![*call];
        let mut chapters: Vec<&str> = Vec::new();
        for method in methods {
            names.extend([method.traced(), &method.name]);
            chapters.extend(method.chapters.iter().map(String::as_str));
        }
        names.retain(|name| {
            let is_new = !seen.contains(name) && (name == call || !calls.contains_key(name));
            seen.push(name);
            is_new
        });
        let mut chapters_once: Vec<&str> = Vec::new();
        chapters.retain(|chapter| {
            let is_new = !chapters_once.contains(chapter);
            chapters_once.push(chapter);
            is_new
        });
        text += &format!("\n# {}\n", names.join(" "));
        let mut is_told = false;
        for (index, chapter) in chapters.iter().enumerate() {
            let path = format!("docs/{chapter}.md");
            let page = pages.iter().find(|(page, _)| *page == path).ok_or(format!("no {path}"))?;
            let Some(lines) = told(&page.1, &names, index == 0) else { continue };
            text += &format!("{call}({}), {path}:\n", section(methods, call));
            for line in lines {
                let indent = if line.starts_with(['|', '-', '1']) { "  " } else { "" };
                text += &format!("{indent}{}\n", plain(line));
            }
            is_told = true;
        }
        if !is_told {
            return Err(format!("no chapter has a paragraph about {call}: write **{call}** there"));
        }
        let roles: Vec<&str> =
            methods.iter().flat_map(|it| &it.roles).map(String::as_str).collect();
        let rows = errno_rows().into_iter().filter(|row| roles.contains(&row.role.as_str()));
        let is_one = roles.len() == 1;
        let rows: Vec<String> = rows
            .map(|row| {
                let role = if is_one { String::new() } else { format!("{} ", row.role) };
                format!("  {role}{}: {}{}", row.errnos, row.reaction, because(&row.why))
            })
            .collect();
        if !rows.is_empty() {
            let of = if is_one { "" } else { "role of the call, " };
            text += &format!("When it fails ({of}errno: what the server does):\n");
            text += &format!("{}\n{}", rows.join("\n"), meaning(&rows, &meanings));
        }
    }
    let mut errnos: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in errno_rows() {
        for errno in row.names() {
            let plays = |method: &&Method| method.roles.contains(&row.role);
            let call = methods.iter().find(plays).ok_or(format!("no call is {}", row.role))?;
            let (call, why) = (&call.name, because(&row.why));
            let line = format!("  {call} ({}): {}{why}", row.role, row.reaction);
            errnos.entry(errno.to_owned()).or_default().push(line);
        }
    }
    for (errno, rows) in errnos {
        let words = described(&errno).ok_or(format!("no errno is {errno}"))?;
        text += &format!("\n# {errno}\n{errno} ({words}).\n");
        text += "Which call (in which role) can fail with it, and what the server does:\n";
        text += &format!("{}\n{}", rows.join("\n"), meaning(&rows, &meanings));
        text += &format!("The whole table: {ATLAS}\n");
    }
    Ok(text)
}

/// The reactions and their meanings, as the atlas has them.
fn meanings(pages: &[(String, String)]) -> Vec<(&str, &str)> {
    let atlas = pages.iter().find(|(page, _)| page == ATLAS).map(|(_, text)| text.as_str());
    let table = atlas.and_then(|atlas| atlas.split("What the reactions mean:").nth(1));
    let lines = table.unwrap_or_default().lines();
    lines.filter_map(|line| line.strip_prefix("| `")?.split_once(" | ")).collect()
}

/// What the reactions in these rows mean, a line each.
fn meaning(rows: &[String], meanings: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (reaction, meaning) in meanings {
        let is_used = |name: &str| rows.iter().any(|row| row.contains(&format!(": {name}")));
        if reaction.split(['`', ',', ' ']).any(|name| !name.is_empty() && is_used(name)) {
            text += &format!("{}: {}\n", plain(reaction), plain(meaning));
        }
    }
    text
}

/// The errno in words, as error lines have them.
fn described(name: &str) -> Option<&'static str> {
    let errnos = (1..134).map(nix::errno::Errno::from_raw);
    errnos.into_iter().find(|errno| format!("{errno:?}") == name).map(nix::errno::Errno::desc)
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

fn section<'a>(methods: &[&'a Method], call: &str) -> &'a str {
    let manuals = methods.iter().flat_map(|method| &method.manuals);
    let mut own = manuals.filter_map(|it| it.strip_prefix(call)?.strip_prefix('('));
    own.next().map_or("2", |it| it.trim_end_matches(')'))
}

/// What a page has about a call: the paragraph or table in which it stands in bold, or the
/// paragraph that begins with it; of the first page that is asked, also one that names it.
fn told<'a>(page: &'a str, names: &[&str], is_first: bool) -> Option<Vec<&'a str>> {
    let blocks = blocks(page);
    let find = |marked: &dyn Fn(&str) -> Vec<String>, at_start: bool| {
        blocks.iter().position(|block| {
            let marks = names.iter().flat_map(|name| marked(name));
            marks.into_iter().any(|mark| match at_start {
                true => block[0].starts_with(&mark),
                false => block.iter().any(|line| line.contains(&mark)),
            })
        })
    };
    let code = |name: &str| vec![format!("`{name}`")];
    let at = find(&|name| vec![format!("**{name}**")], false)
        .or_else(|| find(&code, true))
        .or_else(|| find(&code, false).filter(|_| is_first))?;
    // What it announces stands behind it.
    let is_open = blocks[at].last().is_some_and(|line| line.ends_with(':'));
    let more = blocks.get(at + 1).filter(|_| is_open).cloned().unwrap_or_default();
    Some([blocks[at].clone(), more].concat())
}

/// The paragraphs, lists and tables of a page, without headings and what stands in fences.
fn blocks(page: &str) -> Vec<Vec<&str>> {
    let mut in_fence = false;
    let mut blocks = vec![Vec::new()];
    for line in page.lines() {
        in_fence ^= line.starts_with("```");
        let is_mark = line.starts_with("<!--") && line.ends_with("-->");
        let is_link = line.starts_with('[') && line.contains("#L");
        if line.is_empty() {
            blocks.push(Vec::new());
        } else if !in_fence && !is_mark && !is_link && !line.starts_with(['#', '!', '←', '<']) {
            let is_row = line.starts_with("|--") || line.chars().all(|c| "| ".contains(c));
            if !line.starts_with("```") && !is_row {
                blocks.last_mut().unwrap().push(line);
            }
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// A line of markdown as plain text: no marks, links or styles.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once("<!--") {
        text += before;
        rest = after.split_once("-->").map_or("", |(_, rest)| rest);
    }
    text += rest;
    let mut pieces = text.split("](");
    let mut linked = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        linked += piece.split_once(')').map_or("", |(_, rest)| rest);
    }
    let bare = linked.replace("**", "").replace(['[', '`'], "");
    let bare = bare.trim_matches(['|', ' ']).replace(" | ", " — ");
    let words = bare.split(' ').map(|word| {
        let inner = word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '*');
        let is_styled = inner.starts_with('*') || inner.ends_with('*');
        if is_styled && inner.len() > 1 { word.replace('*', "") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ").trim().to_owned()
}

#[test]
fn markdown_becomes_plain_text() {
    let text = "**recv** *takes* `n` bytes,<!-- fact: x --> see [time](07-time.md#a-b), 2 * 3.";
    assert_eq!(plain(text), "recv takes n bytes, see time, 2 * 3.");
}
