//! All that is served, made once from the files: a page of each markdown file, a view of each
//! source that a page links to, with the lines numbered, and pictures as they are.
//!
//! The contents follow from the lists of docs/README.md; the search looks through
//! the sections between headings. Nothing is written down twice.

use crate::live::Line;
use crate::markdown::{self, WIDE, escaped};
use crate::rude::{RUDE, Rude};
use crate::view::Call;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

pub const HTML: &str = "text/html; charset=utf-8";
pub const PLAIN: &str = "text/plain; charset=utf-8";
/// Stands in a page for the number of the request that it answers.
pub const NUMBER: &str = "\u{1}";

/// The page with the lists from which the contents are made.
const MAP: &str = "docs/README.md";
/// What the pages look like, what they do, and what the stepper knows: served as it is.
const AS_THEY_ARE: [(&str, &str); 4] = [
    ("docs/book/src/book.css", "text/css"),
    ("docs/book/src/book.js", "text/javascript"),
    ("docs/book/src/icon.svg", "image/svg+xml"),
    ("docs/buffers.json", "application/json"),
];

/// What is served, by its path in the repository.
#[derive(Default)]
pub struct Pages {
    files: BTreeMap<String, File>,
    /// Markdown files in reading order, each with the name of its part of the walk.
    order: Vec<(String, String)>,
    sections: Vec<Section>,
}

struct File {
    title: String,
    /// What is in it; of a page, that in HTML.
    text: String,
}

/// What stands below a heading, for the search.
struct Section {
    address: String,
    title: String,
    text: String,
}

impl Pages {
    /// Follows the links from the map.
    pub fn read(root: &Path) -> io::Result<Arc<Pages>> {
        let mut pages = Pages::default();
        let mut due: Vec<String> = AS_THEY_ARE.iter().map(|it| it.0.to_owned()).collect();
        due.push(MAP.to_owned());
        while let Some(path) = due.pop() {
            if pages.files.contains_key(&path) {
                continue;
            }
            let mut file = File { title: path.clone(), text: text(root, &path)? };
            if path.ends_with(".md") {
                file.text = markdown::html(&path, &file.text);
                let sections = sections(&path, &file.text);
                file.title = sections.first().map_or(path.clone(), |it| it.title.clone());
                pages.sections.extend(sections);
                let targets = links(&file.text).map(|it| it.0.to_owned());
                due.extend(targets.filter(|it| root.join(it).exists()));
            } else if root.join(&path).is_dir() {
                let inner = file.text.lines().map(|name| format!("{path}/{name}"));
                due.extend(inner.filter(|it| root.join(it).is_file()));
            }
            pages.files.insert(path, file);
        }
        pages.order = pages.in_order();
        Ok(Arc::new(pages))
    }

    /// The pages as the map has them: first those of its lists that begin with a name.
    fn in_order(&self) -> Vec<(String, String)> {
        let map = self.files.get(MAP).map_or("", |file| &file.text);
        let mut all = vec![(MAP, "")];
        for item in map.split("<li>").skip(1).filter_map(|item| item.split("</li>").next()) {
            let part = item.split(": <a").next().unwrap_or_default();
            if part.len() < item.len() && !part.contains('<') {
                all.extend(links(item).map(|it| (it.0, part)));
            }
        }
        all.extend(links(map).map(|it| (it.0, "")));
        all.extend(self.files.keys().map(|path| (path.as_str(), "")));
        let mut known = BTreeSet::new();
        all.retain(|(path, _)| path.ends_with(".md") && known.insert(*path));
        all.into_iter().map(|(path, part)| (path.to_owned(), part.to_owned())).collect()
    }

    pub fn count(&self) -> String {
        let (pages, files) = (self.order.len(), self.files.len());
        format!("{pages} pages and {} sources", files - pages)
    }

    /// What stands at an address: its type, and what it is. A query is `raw`, or has a word.
    pub fn get(&self, path: &str, query: &str, word: &str) -> Option<(&'static str, String)> {
        let path = path.trim_matches('/');
        if let Some((known, kind)) =
            AS_THEY_ARE.iter().find(|it| it.0.rsplit('/').next() == Some(path))
        {
            return Some((kind, self.files.get(*known)?.text.clone()));
        }
        let (title, text) = match (path, self.files.get(path)) {
            ("all", _) => ("All pages", self.all()),
            ("search", _) => ("Search", self.search(word)),
            (_, file) => match (path.rsplit('.').next()?, file?) {
                ("svg", file) => return Some(("image/svg+xml", file.text.clone())),
                ("md", file) => (&*file.title, format!("<article>{}</article>", file.text)),
                (_, file) if query == "raw" => return Some((PLAIN, file.text.clone())),
                (kind, file) => (path, self.source(path, kind, &file.text)),
            },
        };
        Some((HTML, self.frame(path, title, word, &text)))
    }

    /// All pages in one.
    fn all(&self) -> String {
        let files = self.order.iter().filter_map(|(path, _)| self.files.get(path));
        files.map(|file| format!("<article>{}</article>", file.text)).collect()
    }

    /// The view of a source, with each place that a page links to.
    fn source(&self, path: &str, kind: &str, text: &str) -> String {
        let pages = self.order.iter().filter_map(|(path, _)| self.files.get(path));
        let here = pages.flat_map(|page| links(&page.text)).filter(|it| it.0 == path);
        let places: BTreeSet<&str> = here.map(|it| it.1).filter(|it| it.contains('-')).collect();
        let mut html = format!(
            "<h1>{}</h1><p><a href='?raw'>The file as it is</a></p>{WIDE}<pre class='source {kind}'>",
            escaped(path)
        );
        for (at, line) in text.lines().enumerate() {
            let (at, inner) = (at + 1, format!("{path}/{line}"));
            for place in places.iter().filter(|it| it.starts_with(&format!("L{at}-"))) {
                _ = write!(html, "<span id={place}></span>");
            }
            let shown = match self.files.contains_key(&inner) {
                true => format!("<a href='/{inner}'>{line}</a>"),
                false => escaped(line),
            };
            _ = write!(html, "<span id=L{at}><a href='#L{at}'>{at}</a><code>{shown}</code></span>");
        }
        html + "</pre></div>"
    }

    /// Sections with all words of a query, the most telling first.
    fn search(&self, query: &str) -> String {
        let asked = query.to_ascii_lowercase();
        let words: Vec<&str> = asked.split_whitespace().collect();
        let mut found: Vec<(usize, &Section)> = Vec::new();
        for section in self.sections.iter().filter(|_| !words.is_empty()) {
            let (title, text) =
                (section.title.to_ascii_lowercase(), section.text.to_ascii_lowercase());
            let score = |word: &&str| {
                20 * usize::from(title.contains(*word)) + text.matches(*word).count().min(9)
            };
            let scores: Vec<usize> = words.iter().map(score).collect();
            if !scores.contains(&0) {
                found.push((scores.iter().sum(), section));
            }
        }
        found.sort_by_key(|it| std::cmp::Reverse(it.0));
        let mut html = format!(
            "<h1>Search: {}</h1><p role=status>{} found</p><ol class=found>",
            escaped(query),
            found.len()
        );
        for (_, Section { address, title, text }) in found.iter().take(40) {
            let excerpt = excerpt(text, words.first().copied().unwrap_or_default());
            _ = write!(html, "<li><a href='/{address}'>{}</a><p>{excerpt}</p>", escaped(title));
        }
        html + "</ol>"
    }

    /// The calls of a request.
    pub fn calls(&self, number: &str, lines: &[Line]) -> String {
        let text = format!(
            "<h1>The calls that delivered a page</h1><section class=told><p>The server asked its \
            kernel {} times to bring you this page, and these are the calls of this request \
            alone:</p>{}{}</section>",
            lines.len(),
            self.told(lines),
            picture(number)
        );
        self.frame("", "Calls", "", &text)
    }

    /// What a rude client saw, and what the server did about it.
    pub fn deed(&self, rude: &Rude, seen: &str, lines: &[Line], number: &str) -> String {
        let text = format!(
            "<h1>A rude client</h1><section class=told><p>A client {}. It saw: {}. What the \
            server did about it, in {} calls:</p>{}{}</section>",
            rude.1,
            escaped(seen),
            lines.len(),
            self.told(lines),
            picture(number)
        );
        self.frame("", "A rude client", "", &text)
    }

    /// Lines of the narrator, each with a link to its chapter.
    fn told(&self, lines: &[Line]) -> String {
        let begun = lines.first().map_or_else(Default::default, |line| line.at);
        let lines = lines.iter().map(|Line { at, text, held }| {
            let chapter = Call::of(text).map_or("", |call| call.chapter);
            let page = text.rsplit("  # ").next().unwrap_or_default();
            let gap = " ".repeat(12_usize.saturating_sub(chapter.len()));
            let held = held.map(|(receive, send)| format!(" data-held='{receive} {send}'"));
            let (held, ms) = (held.unwrap_or_default(), at.saturating_sub(begun).as_secs_f64() * 1e3);
            let call = escaped(text.split("  # ").next().unwrap_or_default());
            format!("<small>{ms:8.3}</small>  <a href='/{page}'>{chapter}</a>{gap}<code{held}>{call}</code>\n")
        });
        format!("<pre class=c tabindex=0>{}</pre>", lines.collect::<String>())
    }

    /// The frame around a text.
    fn frame(&self, here: &str, title: &str, query: &str, text: &str) -> String {
        let buttons = RUDE.iter().map(|rude| {
            let (name, does) = (rude.0, rude.1);
            format!("<button formaction='/live/rude?client={name}'>{does}</button>")
        });
        let (mut contents, mut part) = (String::new(), "");
        for (path, name) in &self.order {
            if !name.is_empty() && name != part {
                part = name;
                _ = write!(contents, "<li class=part>{}", escaped(part));
            }
            let current = if path == here { " aria-current=page" } else { "" };
            let title = self.files.get(path).map_or("", |file| &file.title);
            _ = write!(contents, "<li><a href='/{path}'{current}>{}</a>", escaped(title));
        }
        format!(
            include_str!("page.html"),
            number = NUMBER,
            title = escaped(title),
            query = escaped(query),
            text = text,
            buttons = buttons.collect::<String>(),
            contents = contents,
        )
    }
}

/// What a file says; of a folder, the names in it.
fn text(root: &Path, path: &str) -> io::Result<String> {
    if !root.join(path).is_dir() {
        let text = fs::read_to_string(root.join(path));
        return text.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")));
    }
    let entries = fs::read_dir(root.join(path))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names.join("\n"))
}

/// Where a page leads to in the repository: files, and places in them.
fn links(html: &str) -> impl Iterator<Item = (&str, &str)> {
    let targets = html.split(" href=\"/").chain(html.split(" src=\"/"));
    targets
        .filter(|it| !it.starts_with('<'))
        .filter_map(|it| it.split('"').next())
        .map(|it| it.split_once('#').unwrap_or((it, "")))
}

/// What stands between the headings of a page.
fn sections(path: &str, html: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let html = html.split("<nav class=walk").next().unwrap_or_default();
    for piece in html.split("<h").skip(1) {
        let heading = piece.split_once(" id='").and_then(|it| it.1.split_once("'>"));
        let Some((slug, (title, text))) =
            heading.and_then(|it| Some((it.0, it.1.split_once(" <a class=anchor")?)))
        else {
            continue;
        };
        let text = plain(text.split_once("</h").map_or("", |it| it.1));
        let (address, title) = match sections.first() {
            Some(first) => {
                (format!("{path}#{slug}"), format!("{} › {}", first.title, plain(title)))
            }
            None => (path.to_owned(), plain(title)),
        };
        sections.push(Section { address, title, text });
    }
    sections
}

/// The words of a piece of HTML.
fn plain(html: &str) -> String {
    let mut text = String::new();
    for (at, piece) in html.split('<').enumerate() {
        let (tag, words) = piece.split_once('>').filter(|_| at > 0).unwrap_or(("", piece));
        let is_inline = ["code", "a", "em", "strong", "i", "b"]
            .contains(&tag.trim_start_matches('/').split(' ').next().unwrap_or_default());
        text += if at == 0 || is_inline { "" } else { " " };
        text += words;
    }
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#39;", "'")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

/// The words around the first place of a word, which is marked.
fn excerpt(text: &str, word: &str) -> String {
    let place = text.to_ascii_lowercase().find(word);
    let (before, rest) = text.split_at(place.unwrap_or(0));
    let (word, after) = rest.split_at(if place.is_some() { word.len() } else { 0 });
    let before: Vec<char> = before.chars().rev().take(70).collect();
    let before: String = before.into_iter().rev().collect();
    let after: String = after.chars().take(130).collect();
    format!("{}<mark>{}</mark>{}", escaped(&before), escaped(word), escaped(&after))
        .replace("<mark></mark>", "")
}

fn picture(number: &str) -> String {
    format!(
        "<img class=lanes src='/live/lanes.svg?request={number}' \
        alt='The same in lanes: one for each descriptor, a tick for each call'>"
    )
}
