//! What was measured, as tables: on the terminal, and in a JSON file that keeps the tables of
//! all runs by their names, each with the command that makes it anew.

use crate::Outcome;
use crate::server::first_line;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

#[derive(Clone)]
pub struct Table {
    pub name: String,
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    pub notes: Vec<String>,
    /// By how much the floor differs from itself, and how much is tolerated.
    control: Option<(f64, f64)>,
}

impl Table {
    pub fn new(name: &str, title: &str, columns: &[&str]) -> Table {
        Table {
            name: name.into(),
            title: title.into(),
            columns: columns.iter().map(|column| column.to_string()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
            control: None,
        }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A server without figures, and why.
    pub fn failed(&mut self, server: &str, error: &str) {
        self.note(format!("{server} has no figures: {error}"));
    }

    pub fn judge(&mut self, off: f64, tolerance: f64) {
        self.control = Some((off, tolerance));
        let void = if self.is_void() { "VOID: " } else { "" };
        self.note(format!("{void}the floor differs from itself by {:.1} %", 100.0 * off));
    }

    pub fn is_void(&self) -> bool {
        self.control.is_some_and(|(off, tolerance)| off > tolerance)
    }

    /// A cell, by the name of its row and its column.
    pub fn cell(&self, row: &str, column: &str) -> Option<&Value> {
        let column = self.columns.iter().position(|name| name == column)?;
        self.rows.iter().find(|cells| cells[0] == row)?.get(column)
    }

    /// The table in Markdown, right-aligned but for the first column.
    fn markdown(&self) -> Vec<String> {
        let head: Vec<String> = self.columns.iter().map(|name| name.replace('_', " ")).collect();
        let mut lines = vec![head];
        lines.extend(self.rows.iter().map(|row| row.iter().map(shown).collect()));
        let width = |column: usize| {
            lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.columns.len()).filter_map(width).collect();
        let row = |line: &Vec<String>| {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            });
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule = |(column, &width): (usize, &usize)| {
            if column == 0 { "-".repeat(width + 2) } else { "-".repeat(width + 1) + ":" }
        };
        let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
        let mut markdown: Vec<String> = lines.iter().map(row).collect();
        markdown.insert(1, format!("|{}|", rules.join("|")));
        markdown
    }

    pub fn print(&self) {
        println!("\n{}\n", self.title);
        self.markdown().iter().for_each(|line| println!("{line}"));
        self.notes.iter().for_each(|note| println!("{note}"));
    }

    fn to_json(&self, origin: &Map<String, Value>) -> Value {
        let mut table = origin.clone();
        table.insert("title".into(), json!(self.title));
        table.insert("command".into(), json!(format!("make bench ARGS={}", self.name)));
        table.insert("columns".into(), json!(self.columns));
        table.insert("rows".into(), json!(self.rows));
        table.insert("notes".into(), json!(self.notes));
        table.insert("control".into(), json!(self.control.map(|(off, _)| off)));
        Value::Object(table)
    }

    fn from_json(name: &str, value: &Value) -> Option<Table> {
        let texts = |key: &str| {
            let texts = value[key].as_array()?.iter();
            Some(texts.filter_map(|text| text.as_str()).map(str::to_owned).collect::<Vec<_>>())
        };
        let rows = value["rows"].as_array()?.iter().filter_map(|row| row.as_array().cloned());
        Some(Table {
            name: name.into(),
            title: value["title"].as_str()?.into(),
            columns: texts("columns")?,
            rows: rows.collect(),
            notes: texts("notes")?,
            control: None,
        })
    }
}

/// A cell: a median with its interval, or a number with as many digits as it deserves.
fn shown(value: &Value) -> String {
    if let Some([low, median, high]) = value.as_array().map(Vec::as_slice) {
        let [low, median, high] = [low, median, high].map(|v| v.as_f64().unwrap_or_default());
        return format!("{median:.3} [{low:.3}–{high:.3}]");
    }
    match value.as_f64() {
        Some(number) if number >= 1000.0 || number.fract() == 0.0 => grouped(number),
        Some(number) if number >= 100.0 => format!("{number:.0}"),
        Some(number) if number >= 10.0 => format!("{number:.1}"),
        Some(number) => format!("{number:.3}"),
        None => value.as_str().unwrap_or("–").into(),
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::from(if number < 0.0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// All tables measured so far, as the file has them.
pub fn read(path: &Path) -> Vec<Table> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let file: Value = serde_json::from_str(&text).unwrap_or_default();
    let tables = file["tables"].as_object().into_iter().flatten();
    tables.filter_map(|(name, value)| Table::from_json(name, value)).collect()
}

/// Puts a table into the file, in place of that of the same name.
pub fn write(path: &Path, table: &Table, versions: &Map<String, Value>) -> Outcome<()> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut file: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
    let origin = Map::from_iter([
        ("commit".into(), json!(commit())),
        ("date".into(), json!(first_line(Command::new("date").args(["-u", "+%F"])))),
    ]);
    file["tables"][&table.name] = table.to_json(&origin);
    file["machine"] = machine();
    file["versions"] = json!(versions);
    let mut text = String::new();
    lay_out(&file, 0, &mut text);
    fs::write(path, text + "\n")?;
    Ok(())
}

/// Everything in the file as a page to read, and for the other pages to quote.
pub fn publish(file: &Path, page: &Path) -> Outcome<()> {
    let json: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let mut text = String::from(
        "# What was measured\n\nWritten by `make bench`; [what it costs](20-costs.md) explains it.\n\n",
    );
    for part in ["machine", "versions"] {
        let facts = json[part].as_object().into_iter().flatten().filter_map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (!value.is_empty()).then(|| format!("{name}: {value}"))
        });
        text += &format!("{}\n\n", facts.collect::<Vec<_>>().join("; "));
    }
    for table in read(file) {
        let of = |key: &str| json["tables"][&table.name][key].as_str().unwrap_or_default();
        text += &format!("## {}\n\n<!-- note: {} -->\n", table.title, table.name);
        text += &format!("{}\n\n", table.markdown().join("\n"));
        for note in &table.notes {
            text += &format!("- {note}\n");
        }
        text += &format!("- `{}`, {}, commit {}\n\n", of("command"), of("date"), of("commit"));
    }
    fs::write(page, text.trim_end().to_owned() + "\n")?;
    Ok(())
}

/// JSON with a line for each row of a table, so that a change shows as what it is.
fn lay_out(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth + 1);
    let mut entries: Vec<(String, &Value)> = Vec::new();
    let brackets = match value {
        Value::Object(object) => {
            entries.extend(object.iter().map(|(key, value)| (format!("{}: ", json!(key)), value)));
            ('{', '}')
        }
        Value::Array(items) if items.iter().any(Value::is_array) && depth < 4 => {
            entries.extend(items.iter().map(|item| (String::new(), item)));
            ('[', ']')
        }
        other => return text.push_str(&other.to_string()),
    };
    text.push(brackets.0);
    for (place, (key, value)) in entries.into_iter().enumerate() {
        text.push_str(if place == 0 { "\n" } else { ",\n" });
        text.push_str(&indent);
        text.push_str(&key);
        lay_out(value, depth + 1, text);
    }
    text.push('\n');
    text.push_str(&indent[2..]);
    text.push(brackets.1);
}

/// The commit that was measured, and whether it was really that.
fn commit() -> String {
    let git = |words: &[&str]| first_line(Command::new("git").args(words));
    let changed = !git(&["status", "--porcelain", "--", "src", "Cargo.toml"]).is_empty();
    git(&["rev-parse", "--short", "HEAD"]) + if changed { " and changes" } else { "" }
}

fn machine() -> Value {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = file("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = file("/proc/meminfo");
    let kib: u64 =
        memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_default();
    json!({
        "cpu": model.map(|(_, model)| model),
        "cpus": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "memory_gib": kib >> 20,
        "kernel": file("/proc/sys/kernel/osrelease").trim(),
        "rustc": first_line(Command::new("rustc").arg("--version")),
        "gcc": first_line(Command::new("gcc").arg("--version")),
    })
}
