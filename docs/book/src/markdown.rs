//! Markdown in HTML: what the library makes of it, but with anchors in headings, traces and
//! tables in frames of their own, and links that hold on every page.

use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd, html::push_html};
use std::collections::BTreeMap;

/// Around what may be wider than a page.
pub const WIDE: &str = "<div class=wide tabindex=0 role=region aria-label='Wide, scrolls'>";

/// The page at that path in the repository in HTML.
pub fn html(path: &str, text: &str) -> String {
    let (mut html, mut events) = (String::new(), Vec::new());
    let (mut slugs, mut mark) = (BTreeMap::new(), String::new());
    let mut parser = Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH);
    while let Some(event) = parser.next() {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                let until = |event: &Event<'_>| !matches!(event, Event::End(TagEnd::Heading(_)));
                let inside: Vec<_> = parser.by_ref().take_while(until).collect();
                let slug = slug(&words(&inside), &mut slugs);
                events.push(raw(format!("<{level} id='{slug}'>")));
                events.extend(inside);
                events.push(raw(format!(" <a class=anchor href='#{slug}' aria-label='Link to this heading'>#</a></{level}>\n")));
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let until = |event: &Event<'_>| !matches!(event, Event::End(TagEnd::CodeBlock));
                let code = words(&parser.by_ref().take_while(until).collect::<Vec<_>>());
                events.push(raw(block(&kind, &code, &std::mem::take(&mut mark))));
            }
            Event::Html(text) | Event::InlineHtml(text) if text.starts_with("<!--") => {
                let inner = text.trim_start_matches("<!--").split("-->").next();
                mark = inner.unwrap_or_default().trim().to_owned();
                if mark == "walk" {
                    events.push(raw("<nav class=walk aria-label='Previous and next'>".to_owned()));
                }
            }
            Event::Start(Tag::Table(columns)) => {
                events.extend([raw(WIDE.to_owned()), Event::Start(Tag::Table(columns))]);
            }
            Event::End(TagEnd::Table) => {
                events.extend([Event::End(TagEnd::Table), raw("</div>".to_owned())]);
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let dest_url = absolute(path, &dest_url).into();
                events.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
            }
            Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                let dest_url = absolute(path, &dest_url).into();
                events.push(Event::Start(Tag::Image { link_type, dest_url, title, id }));
            }
            event => events.push(event),
        }
    }
    push_html(&mut html, events.into_iter());
    html
}

fn raw(text: String) -> Event<'static> {
    Event::Html(CowStr::from(text))
}

fn words(events: &[Event<'_>]) -> String {
    let words = events.iter().map(|event| match event {
        Event::Text(text) | Event::Code(text) => text.as_ref(),
        _ => "",
    });
    words.collect()
}

/// What a heading is called in links, as where repositories are browsed.
fn slug(title: &str, known: &mut BTreeMap<String, usize>) -> String {
    let kept = title.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    });
    let slug: String = kept.collect();
    let count = known.entry(slug.clone()).and_modify(|it| *it += 1).or_insert(0);
    if *count == 0 { slug } else { format!("{slug}-{count}") }
}

/// A link's target from the root of the repository; one that leads elsewhere, or nowhere in the
/// repository, as it is.
fn absolute(page: &str, target: &str) -> String {
    let (file, place) = target.split_at(target.find('#').unwrap_or(target.len()));
    if file.is_empty() || file.contains(':') {
        return target.to_owned();
    }
    let mut path: Vec<&str> = page.split('/').collect();
    path.pop();
    for piece in file.split('/').filter(|piece| !["", "."].contains(piece)) {
        if piece == ".." {
            path.pop();
        } else {
            path.push(piece);
        }
    }
    format!("/{}{place}", path.join("/"))
}

/// A block of code; below a trace, what leads to its steps.
fn block(kind: &CodeBlockKind<'_>, code: &str, mark: &str) -> String {
    let language = match kind {
        CodeBlockKind::Fenced(name) => escaped(name),
        CodeBlockKind::Indented => String::new(),
    };
    let code = format!("<pre tabindex=0 class='{language}'><code>{}</code></pre>", escaped(code));
    match mark.split_once(": ").filter(|_| language == "c") {
        Some(("trace", asked)) => {
            let (name, calls) = asked.split_once(' ').unwrap_or((asked, ""));
            let from = calls.split("..").next().unwrap_or_default();
            format!(
                "<figure class=trace data-trace='{name}' data-from='{from}'>{code}<figcaption>\
                <a href='/docs/traces/{name}.txt'>the whole trace</a></figcaption></figure>"
            )
        }
        Some(("fault" | "scene", _)) => format!("<figure class=trace>{code}</figure>"),
        _ => code,
    }
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}
