//! The reading order: the glossary, the story, the chapters. The numbers of the files are the
//! order. Pages without a number are looked up, in no order.

/// Whether the page with this path, from the root, has a place in the order.
pub fn is_on(path: &str) -> bool {
    let path = path.strip_prefix("docs/").unwrap_or_default();
    let file = path.strip_prefix("story/").unwrap_or(path);
    file.ends_with(".md") && file.starts_with(|c: char| c.is_ascii_digit())
}

/// The pages in reading order: path and title.
pub fn pages(all: &[(String, String)]) -> Vec<(String, String)> {
    let walked = all.iter().filter(|(path, _)| is_on(path));
    let title = |text: &str| text.lines().next().unwrap_or_default().replace("# ", "");
    let mut walked: Vec<_> = walked.map(|(path, text)| (path.clone(), title(text))).collect();
    // The words come before the story, the chapters after it.
    let part = |path: &str| match path {
        path if path.starts_with("docs/00") => 0,
        path if path.starts_with("docs/story/") => 1,
        _ => 2,
    };
    walked.sort_by_key(|(path, _)| (part(path), path.clone()));
    walked
}

/// What a chapter is called where its number says nothing: `listening` of `04-listening`.
pub fn name(chapter: &str) -> &str {
    chapter.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-')
}

/// The line at the end of a page that links what comes before it and after it, and the map.
pub fn line(path: &str, walk: &[(String, String)]) -> Result<String, String> {
    let at = walk.iter().position(|(other, _)| other == path).ok_or("no page of the walk")?;
    let is_story = path.starts_with("docs/story/");
    let link = |(other, title): &(String, String)| {
        let target = match (other.strip_prefix("docs/story/"), is_story) {
            (Some(file), true) => file.to_owned(),
            (None, true) => other.replace("docs/", "../"),
            _ => other.replace("docs/", ""),
        };
        format!("[{title}]({target})")
    };
    let map = format!("[map]({}README.md)", if is_story { "../" } else { "" });
    let before = at.checked_sub(1).and_then(|at| walk.get(at)).map(link);
    let after = walk.get(at + 1).map(link);
    let before = before.map_or(String::new(), |it| format!("{it} · "));
    let after = after.map_or(String::new(), |it| format!(" · {it} →"));
    Ok(format!("← {before}{map}{after}"))
}
