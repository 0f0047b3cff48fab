//! What is served, made once from the files: a page of each markdown file, a view of each source
//! that a page links to, with the lines numbered, and pictures as they are.
//!
//! The contents follow from the lists of docs/README.md; the search looks through
//! the sections between headings. Nothing is written down twice.

use pulldown_cmark::{CodeBlockKind, CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

/// The page with the lists from which the contents are made.
pub const MAP: &str = "docs/README.md";
const WIDE: &str = "<div class=wide tabindex=0 role=region aria-label='Wide, scrolls'>";

/// What the pages look like, and what they do: served as they are.
pub const STYLE: &str = "docs/book/src/book.css";
pub const SCRIPT: &str = "docs/book/src/book.js";

/// All that is served, by its path in the repository.
pub struct Pages {
    files: BTreeMap<String, File>,
    /// Markdown files in reading order, each with the name of its part of the walk.
    order: Vec<(String, String)>,
    sections: Vec<Section>,
}

struct File {
    title: String,
    /// Of a page, its text in HTML; of another file, what is in it.
    text: String,
    /// Places in a source that pages link to, as `L12-L20`.
    places: BTreeSet<String>,
}

/// What stands below a heading, for the search.
struct Section {
    address: String,
    title: String,
    text: String,
}

/// What one markdown file says.
#[derive(Default)]
struct Rendered {
    html: String,
    sections: Vec<Section>,
    /// Where it leads to: a target, whether a list does, and the words up to a colon before it.
    links: Vec<(String, (bool, String))>,
}

impl Pages {
    /// Follows the links from the map.
    pub fn read(root: &Path) -> io::Result<Pages> {
        let mut pages = Pages { files: BTreeMap::new(), order: Vec::new(), sections: Vec::new() };
        let (mut parts, mut others) = (Vec::new(), Vec::new());
        let mut due = VecDeque::from([MAP, STYLE, SCRIPT].map(str::to_owned));
        let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        while let Some(path) = due.pop_front() {
            if pages.files.contains_key(&path) {
                continue;
            }
            let title = path.clone();
            let mut file = File { title, text: String::new(), places: BTreeSet::new() };
            if root.join(&path).is_dir() {
                let mut names: Vec<String> = fs::read_dir(root.join(&path))?
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .collect();
                names.sort();
                due.extend(
                    names
                        .iter()
                        .map(|name| format!("{path}/{name}"))
                        .filter(|it| root.join(it).is_file()),
                );
                file.text = names.join("\n");
            } else {
                file.text = fs::read_to_string(root.join(&path))
                    .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            }
            if path.ends_with(".md") {
                let page = render(&path, &file.text);
                file.title = page.sections.first().map_or(path.clone(), |it| it.title.clone());
                for (target, part) in &page.links {
                    let (target, place) = target.split_once('#').unwrap_or((target, ""));
                    let Some(target) = resolved(&path, target).filter(|it| root.join(it).exists())
                    else {
                        continue;
                    };
                    places.entry(target.clone()).or_default().insert(place.to_owned());
                    if path == MAP && target.ends_with(".md") && target != MAP {
                        let (is_item, part) = part.clone();
                        let is_part = is_item && !part.is_empty();
                        (if is_part { &mut parts } else { &mut others })
                            .push((target.clone(), part));
                    }
                    due.push_back(target);
                }
                file.text = page.html;
                pages.sections.extend(page.sections);
            }
            pages.files.insert(path, file);
        }
        for (path, found) in places {
            pages.files.entry(path).and_modify(|file| file.places = found);
        }
        let mut order = vec![(MAP.to_owned(), String::new())];
        order.extend(parts);
        order.extend(others);
        order.extend(
            pages
                .files
                .keys()
                .filter(|it| it.ends_with(".md"))
                .map(|it| (it.clone(), String::new())),
        );
        for entry in order {
            if !pages.order.iter().any(|(path, _)| *path == entry.0) {
                pages.order.push(entry);
            }
        }
        Ok(pages)
    }

    /// How many pages there are, and how many other files.
    pub fn count(&self) -> (usize, usize) {
        (self.order.len(), self.files.len() - self.order.len())
    }

    /// A file as it is, if it is no page.
    pub fn raw(&self, path: &str) -> Option<&str> {
        self.files.get(path).filter(|_| !path.ends_with(".md")).map(|file| file.text.as_str())
    }

    /// The page that a chapter's short name means: `loop` is docs/loop.md or docs/09-loop.md.
    pub fn chapter(&self, name: &str) -> Option<&str> {
        let mut paths = self.order.iter().map(|(path, _)| path.as_str());
        paths.find(|path| {
            let file = path.strip_prefix("docs/").and_then(|it| it.strip_suffix(".md"));
            file.is_some_and(|it| {
                it.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-') == name
            })
        })
    }

    /// A page or the view of a source: title and HTML.
    pub fn page(&self, path: &str) -> Option<(String, String)> {
        let file = self.files.get(path)?;
        if path.ends_with(".md") {
            let text = format!("<article>{}</article>", file.text);
            return Some((file.title.clone(), text));
        }
        let kind = path.rsplit('.').next().unwrap_or_default();
        let mut text = format!("<h1>{}</h1>{WIDE}<pre class='source {kind}'>", escaped(path));
        for (at, line) in file.text.lines().enumerate() {
            let name = format!("L{}", at + 1);
            let begins = |place: &&String| place.starts_with(&format!("{name}-"));
            for place in file.places.iter().filter(begins) {
                _ = write!(text, "<span id={place}></span>");
            }
            let inner = format!("{path}/{line}");
            let shown = match self.files.contains_key(&inner) {
                true => format!("<a href='/{inner}'>{line}</a>"),
                false => escaped(line),
            };
            _ = write!(
                text,
                "<span id={name}><a href='#{name}'>{}</a><code>{shown}</code></span>",
                at + 1
            );
        }
        Some((path.to_owned(), text + "</pre></div>"))
    }

    /// The contents, as on the left of each page.
    pub fn contents(&self, here: &str) -> String {
        let (mut html, mut part) = (String::new(), "");
        for (path, name) in &self.order {
            if !name.is_empty() && name != part {
                part = name;
                _ = write!(html, "<li class=part>{}", escaped(part));
            }
            let current = if path == here { " aria-current=page" } else { "" };
            let title = self.files.get(path).map_or("", |file| &file.title);
            _ = write!(html, "<li><a href='/{path}'{current}>{}</a>", escaped(title));
        }
        format!("<ol>{html}</ol>")
    }

    /// Sections with all words of a query, the most telling first.
    pub fn search(&self, query: &str) -> String {
        let query = query.to_lowercase();
        let words: Vec<&str> = query.split_whitespace().collect();
        let mut found: Vec<(usize, &Section)> = Vec::new();
        for section in self.sections.iter().filter(|_| !words.is_empty()) {
            let (title, text) = (section.title.to_lowercase(), section.text.to_lowercase());
            let score = |word: &&str| {
                20 * title.matches(*word).count().min(1) + text.matches(*word).count().min(9)
            };
            let scores: Vec<usize> = words.iter().map(score).collect();
            if !scores.contains(&0) {
                found.push((scores.iter().sum(), section));
            }
        }
        found.sort_by_key(|it| std::cmp::Reverse(it.0));
        let mut html = format!("<p role=status>{} found</p><ol class=found>", found.len());
        for (_, section) in found.iter().take(40) {
            let Section { address, title, text } = section;
            let excerpt = excerpt(text, words.first().copied().unwrap_or_default());
            _ = write!(html, "<li><a href='/{address}'>{}</a><p>{excerpt}</p>", escaped(title));
        }
        html + "</ol>"
    }
}

/// The words around the first place of a word, which is marked.
fn excerpt(text: &str, word: &str) -> String {
    let place = text.to_lowercase().find(word);
    let Some(place) = place.filter(|at| text.is_char_boundary(*at)) else {
        return escaped(&text.chars().take(200).collect::<String>());
    };
    let begin = (0..=place.saturating_sub(70)).rev().find(|at| text.is_char_boundary(*at));
    let shown: String =
        text.get(begin.unwrap_or(0)..).unwrap_or_default().chars().take(200).collect();
    let before = place - begin.unwrap_or(0);
    match shown
        .split_at_checked(before)
        .and_then(|it| Some((it.0, it.1.split_at_checked(word.len())?)))
    {
        Some((before, (word, after))) => {
            format!("{}<mark>{}</mark>{}", escaped(before), escaped(word), escaped(after))
        }
        None => escaped(&shown),
    }
}

/// A link's target as a path in the repository; of one that leads out of it, none.
fn resolved(page: &str, target: &str) -> Option<String> {
    if target.is_empty() || target.contains(':') {
        return None;
    }
    let mut path: Vec<&str> = page.split('/').collect();
    path.pop();
    for piece in target.split('/').filter(|piece| !["", "."].contains(piece)) {
        if piece == ".." {
            path.pop()?;
        } else {
            path.push(piece);
        }
    }
    Some(path.join("/"))
}

/// Markdown in HTML, and what is in it.
fn render(path: &str, text: &str) -> Rendered {
    let mut page = Rendered::default();
    let mut slugs: BTreeMap<String, usize> = BTreeMap::new();
    let (mut code, mut trace, mut part) = (None, None, String::new());
    let (mut is_item, mut is_over) = (false, false);
    let mut events = Vec::new();
    let mut heading: Option<(HeadingLevel, usize)> = None;
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    for event in Parser::new_ext(text, options) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => heading = Some((level, events.len())),
            Event::End(TagEnd::Heading(level)) => {
                let begin = heading.take().map_or(events.len(), |it| it.1);
                let title = words(events.get(begin..).unwrap_or_default());
                let mut slug = slug(&title);
                let count = slugs.entry(slug.clone()).and_modify(|it| *it += 1).or_insert(0);
                if *count > 0 {
                    slug = format!("{slug}-{count}");
                }
                let (address, top) = match page.sections.first() {
                    Some(first) => (format!("{path}#{slug}"), format!("{} › {title}", first.title)),
                    None => (path.to_owned(), title),
                };
                page.sections.push(Section { address, title: top, text: String::new() });
                events.insert(begin, html(format!("<{level} id='{slug}'>")));
                events.push(html(format!(" <a class=anchor href='#{slug}' aria-label='Link to this heading'>#</a></{level}>\n")));
            }
            Event::Html(text) | Event::InlineHtml(text) if text.starts_with("<!--") => {
                let inner = text.trim_start_matches("<!--").split("-->").next().unwrap_or_default();
                trace = match inner.trim().split_once(": ") {
                    Some(("trace", name)) => name.split(' ').next().map(str::to_owned),
                    Some(("fault" | "scene", _)) => Some(String::new()),
                    _ => trace,
                };
                if inner.trim() == "walk" {
                    is_over = true;
                    events.push(html("<nav class=walk aria-label='Previous and next'>".to_owned()));
                }
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(name) => name.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                code = Some((language, String::new()));
            }
            Event::Text(text) if code.is_some() => {
                if let Some((_, content)) = &mut code {
                    content.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                let (language, content) = code.take().unwrap_or_default();
                events.push(html(block(&language, &content, trace.take())));
                collect(&mut page, &content);
            }
            Event::Start(Tag::Table(alignment)) => {
                events.extend([html(WIDE.to_owned()), Event::Start(Tag::Table(alignment))]);
            }
            Event::End(TagEnd::Table) => {
                events.extend([Event::End(TagEnd::Table), html("</div>".to_owned())]);
            }
            event => {
                match &event {
                    Event::Start(Tag::Item) => (is_item, part) = (true, String::new()),
                    Event::Start(Tag::Paragraph) if !is_item => part.clear(),
                    Event::End(TagEnd::Item) => {
                        is_item = false;
                        collect(&mut page, " ");
                    }
                    Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                        let part = part.strip_suffix(": ").unwrap_or_default().to_owned();
                        page.links.push((dest_url.to_string(), (is_item, part)));
                    }
                    Event::Text(text) | Event::Code(text) => {
                        if !part.ends_with(": ") {
                            part.push_str(text);
                        }
                        if heading.is_none() && !is_over {
                            collect(&mut page, text);
                        }
                    }
                    Event::SoftBreak => collect(&mut page, " "),
                    Event::End(TagEnd::Paragraph | TagEnd::TableCell) => collect(&mut page, " "),
                    _ => {}
                }
                events.push(event);
            }
        }
    }
    pulldown_cmark::html::push_html(&mut page.html, events.into_iter());
    page
}

fn html(text: String) -> Event<'static> {
    Event::Html(CowStr::from(text))
}

fn collect(page: &mut Rendered, text: &str) {
    if let Some(section) = page.sections.last_mut() {
        section.text.push_str(text);
    }
}

fn words(events: &[Event<'_>]) -> String {
    let words = events.iter().map(|event| match event {
        Event::Text(text) | Event::Code(text) => text.as_ref(),
        _ => "",
    });
    words.collect()
}

/// What a heading is called in links, as where repositories are browsed.
fn slug(title: &str) -> String {
    let kept = title.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    });
    kept.collect()
}

/// A block of code; below a trace, what leads to its steps.
fn block(language: &str, content: &str, trace: Option<String>) -> String {
    let (language, content) = (escaped(language), escaped(content));
    let code = format!("<pre tabindex=0 class='{language}'><code>{content}</code></pre>");
    match trace.filter(|_| language == "c") {
        Some(name) if name.is_empty() => format!("<figure class=trace>{code}</figure>"),
        Some(name) => format!(
            "<figure class=trace data-trace='{name}'>{code}<figcaption><a class=step href='/docs/traces/{name}.txt'>the whole trace</a></figcaption></figure>"
        ),
        None => code,
    }
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}
