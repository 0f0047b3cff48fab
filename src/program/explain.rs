//! `--explain`: what the chapters of docs/ say of a call, or what the server does about an errno.
//!
//! The text is made by `make docs-update` from the chapters and from the table of reactions
//! (tests/docs/explained.rs); here it is only looked up, and broken into lines of 80 columns. It
//! has an entry for each word: `# recv recvfrom` is followed by its paragraphs, one a line.

use super::guess::nearest;
use std::fmt::Write;
use threadbare::escape::escaped;

const TEXT: &str = include_str!("explained.txt");
const COLUMNS: usize = 80;

/// What there is to say of a word; else what else it could have been.
pub(crate) fn page(word: &str) -> Result<String, String> {
    let is_name = |name: &str| name.eq_ignore_ascii_case(word);
    match entries().find(|(names, _)| names.split(' ').any(is_name)) {
        Some((_, text)) => Ok(text.lines().map(wrapped).collect()),
        None => Err(unknown(word)),
    }
}

/// The names of each entry, and its text.
fn entries() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    TEXT.split("\n# ").skip(1).filter_map(|entry| entry.split_once('\n'))
}

fn unknown(word: &str) -> String {
    let names = entries().flat_map(|(names, _)| names.split(' '));
    let as_errno = || nearest(&word.to_uppercase(), names.clone());
    let has_capitals = word.contains(char::is_uppercase);
    let as_call = if has_capitals { None } else { nearest(word, names.clone()) };
    let meant = as_call.or_else(as_errno);
    let advice = meant.map_or(String::new(), |name| format!(", did you mean {name}?"));
    let word = escaped(word.as_bytes());
    format!(
        "--explain takes a system call or an errno, as in --explain recv, not \"{word}\"{advice}"
    )
}

/// A paragraph in lines; what is indented stays so.
fn wrapped(paragraph: &str) -> String {
    let indent = paragraph.len() - paragraph.trim_start().len();
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let width = word.chars().count();
        let fits = column > 0 && column + 1 + width <= COLUMNS;
        let gap = match (fits, column) {
            (true, _) => " ".to_owned(),
            (false, 0) => " ".repeat(indent),
            (false, _) => format!("\n{:indent$}", ""),
        };
        column = if fits { column + 1 + width } else { indent + width };
        let _ = write!(text, "{gap}{word}");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use threadbare::reaction::Call;

    #[test]
    fn every_entry_is_found_under_each_of_its_names_and_fits_80_columns() {
        let mut seen = BTreeSet::new();
        for (names, _) in entries() {
            for name in names.split(' ') {
                assert!(seen.insert(name), "{name} twice");
                for word in [name, &name.to_lowercase(), &name.to_uppercase()] {
                    let page = page(word).unwrap_or_else(|wrong| panic!("{wrong}"));
                    assert!(page.lines().count() > 1, "{page}");
                    assert!(page.lines().all(|line| line.chars().count() <= COLUMNS), "{page}");
                }
            }
        }
        assert!(seen.len() > 100, "{seen:?}");
    }

    #[test]
    fn an_errno_has_the_calls_that_can_fail_with_it() {
        let page = page("EMFILE").unwrap_or_default();
        assert!(page.contains(&format!("{:?}", Call::Accept)) && page.contains("Pause"), "{page}");
    }

    #[test]
    fn an_unknown_word_is_told_the_nearest_name() {
        for (word, nearest) in [
            ("recieve", ""),
            ("acept4", ", did you mean accept4?"),
            ("EMFIEL", ", did you mean EMFILE?"),
            ("econreset", ", did you mean ECONNRESET?"),
            ("epol_wait", ", did you mean epoll_wait?"),
            ("\u{1b}[2J", ""),
            ("", ""),
        ] {
            let said = page(word).expect_err("an unknown word");
            assert!(said.ends_with(&format!("\"{nearest}")) || said.ends_with(nearest), "{said}");
            assert!(!said.contains('\u{1b}') && !said.contains('\n'), "{said:?}");
        }
    }
}
