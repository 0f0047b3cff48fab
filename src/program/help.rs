//! The pages of `-h`, made of the [table](super::table).

use super::table::{Choice, EXAMPLES, HANDLERS, OPTIONS, SIGNALS, Shown, VALUES};
use std::fmt::Write;

/// Where the explanation of an option begins.
const COLUMN: usize = 23;

/// The page of `-h`: one screen.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "Usage: threadbare [OPTIONS] [HANDLER [ARG]]\n\
         Serves many clients at once, on one thread.\n\
         \n\
         Handlers; `threadbare HANDLER -h` shows the options of one:\n",
    );
    for handler in &HANDLERS {
        let name = [handler.name, handler.argument].join(" ");
        let width = if handler.argument.is_empty() { 7 } else { 11 };
        let _ = writeln!(page, "  {:width$} {}", name.trim_end(), handler.what);
    }
    page += "\nOptions, with defaults in parentheses; all of them are in threadbare(1):\n";
    let shown = OPTIONS.iter().filter(|option| option.shown == Shown::Always);
    shown.for_each(|option| page += &row(option));
    let _ = writeln!(page, "{VALUES}\n{SIGNALS}\n\nExamples:");
    for (words, what) in EXAMPLES {
        let _ = writeln!(page, "{}", format!("  {words:<29} {what}").trim_end());
    }
    page
}

/// The page of `HANDLER -h`; `None` if there is no such handler.
pub(crate) fn page_of(name: &str) -> Option<String> {
    let handler = HANDLERS.iter().find(|handler| handler.name == name)?;
    let argument = [" ", handler.argument].concat();
    let mut page = format!(
        "Usage: threadbare [OPTIONS] {name}{}\n{name} {}.\n",
        argument.trim_end(),
        handler.what
    );
    let own = OPTIONS.iter().filter(|option| option.is_for(name)).map(row);
    let own = own.collect::<String>();
    if !own.is_empty() {
        page += &format!("\nOptions of {name}:\n{own}");
    }
    page += "\nThe options of all handlers: threadbare -h, and threadbare(1).\n";
    Some(page)
}

impl Choice {
    fn is_for(&self, handler: &str) -> bool {
        matches!(self.shown, Shown::For(handlers) if handlers.contains(&handler))
    }
}

/// An option, and what it does behind it.
fn row(option: &Choice) -> String {
    let name = [&option.names.join(", "), option.value].join(" ");
    let what = option.what.replace('\n', &format!("\n{:width$}", "", width = COLUMN + 2));
    format!("  {:COLUMN$}{what}\n", format!("{} ", name.trim_end()))
}
