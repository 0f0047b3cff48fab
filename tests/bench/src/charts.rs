//! Charts as SVG: each says its finding in the title, and below it how to draw it anew. They
//! have a card of their own to stand on, so that they can be read on white and on black.

use crate::Outcome;
use crate::report::{Table, grouped};
use std::fmt::Write;
use std::fs;
use std::path::Path;

const WIDTH: f64 = 760.0;
/// Where the names end and the figures begin.
const LEFT: f64 = 170.0;
const RIGHT: f64 = WIDTH - 110.0;
const ROW: f64 = 26.0;
const TOP: f64 = 76.0;

const INK: &str = "#1f2328";
const PALE: &str = "#59636e";
const GRID: &str = "#d1d9e0";
const OURS: &str = "#0969da";
const OTHERS: &str = "#8b949e";

/// What a server on io_uring came to in an earlier comparison: see [`crate::duel::IO_URING`].
const IO_URING: (&str, f64) = ("io_uring (monoio) ¹", 1.119);

/// Draws what there are tables for.
pub fn draw(tables: &[Table], directory: &Path) -> Outcome<Vec<String>> {
    let table = |name: &str| tables.iter().find(|table| table.name == name);
    let mut drawn = Vec::new();
    let mut keep = |name: &str, chart: Option<Chart>| -> Outcome<()> {
        if let Some(chart) = chart {
            fs::create_dir_all(directory)?;
            fs::write(directory.join(name), chart.finish())?;
            drawn.push(name.to_owned());
        }
        Ok(())
    };
    keep("rate.svg", table("batches-64").and_then(rate))?;
    keep("exact.svg", table("instructions").zip(table("memory")).and_then(exact))?;
    keep("scale.svg", table("scale").and_then(scale))?;
    Ok(drawn)
}

/// A drawing that grows downwards.
struct Chart {
    body: String,
    height: f64,
}

impl Chart {
    fn new(title: &str, subtitle: &str) -> Chart {
        let mut chart = Chart { body: String::new(), height: TOP };
        chart.text((24.0, 34.0), title, INK, "font-size='17' font-weight='600'");
        chart.text((24.0, 56.0), subtitle, PALE, "");
        chart
    }

    fn text(&mut self, (x, y): (f64, f64), text: &str, color: &str, style: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ =
            writeln!(self.body, "<text x='{x:.1}' y='{y:.1}' fill='{color}' {style}>{text}</text>");
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, style: &str) {
        let _ = writeln!(
            self.body,
            "<line x1='{:.1}' y1='{:.1}' x2='{:.1}' y2='{:.1}' stroke='{color}' {style}/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn dot(&mut self, (x, y): (f64, f64), color: &str, fill: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx='{x:.1}' cy='{y:.1}' r='5' fill='{fill}' stroke='{color}' stroke-width='2'/>"
        );
    }

    fn bar(&mut self, y: f64, (x, width): (f64, f64), color: &str) {
        let _ = writeln!(
            self.body,
            "<rect x='{x:.1}' y='{y:.1}' width='{width:.1}' height='14' rx='2' fill='{color}'/>"
        );
    }

    fn name(&mut self, x: f64, y: f64, name: &str) {
        let (color, weight) = if is_ours(name) { (OURS, 600) } else { (INK, 400) };
        self.text((x, y), name, color, &format!("text-anchor='end' font-weight='{weight}'"));
    }

    fn caption(&mut self, text: &str) {
        self.height += 20.0;
        let y = self.height;
        self.text((24.0, y), text, PALE, "font-size='12'");
    }

    fn finish(self) -> String {
        let height = self.height + 20.0;
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' \
             width='{WIDTH}' height='{height}' font-size='14' \
             font-family='system-ui, sans-serif'>\n\
             <rect x='.5' y='.5' width='{}' height='{}' rx='8' fill='#fff' stroke='{GRID}'/>\n\
             {}</svg>\n",
            WIDTH - 1.0,
            height - 1.0,
            self.body
        )
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("threadbare")
}

fn color(name: &str) -> &'static str {
    if is_ours(name) { OURS } else { OTHERS }
}

fn line_color(name: &str) -> &'static str {
    match name {
        "floor" => INK,
        "tokio" => "#bc4c00",
        "libuv" => "#1a7f37",
        "thread per client" => "#8250df",
        name => color(name),
    }
}

/// The name and a figure of each row that has one.
fn figures<'a>(table: &'a Table, column: &str) -> Vec<(&'a str, f64)> {
    let names = table.rows.iter().filter_map(|row| row.first()?.as_str());
    let figures = names.filter_map(|name| {
        let cell = table.cell(name, column)?;
        let median = cell.as_array().and_then(|interval| interval.get(1));
        Some((name, median.unwrap_or(cell).as_f64()?))
    });
    figures.filter(|(name, _)| *name != "floor again").collect()
}

/// Rates beside the floor's, with their intervals.
fn rate(table: &Table) -> Option<Chart> {
    let mut rows = figures(table, "rate_ratio");
    rows.push(IO_URING);
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    let ours = rows.iter().find(|row| row.0 == "threadbare")?.1;
    let interval = table.cell("threadbare", "rate_ratio")?.as_array()?;
    let ends = (interval.first()?.as_f64()?, interval.last()?.as_f64()?);
    // No difference was found where the interval contains 1.
    let found = !(ends.0..=ends.1).contains(&1.0);
    let times = if found { format!("{ours:.3} times ") } else { String::new() };
    let title = format!("threadbare answers {times}as fast as a bare epoll loop");
    let mut chart = Chart::new(&title, "messages a second, as a ratio to the floor; 64 clients at once");
    let (low, high) = (0.6, 1.15);
    let x = |ratio: f64| LEFT + (RIGHT - LEFT) * (ratio.clamp(low, high) - low) / (high - low);
    let bottom = TOP + rows.len() as f64 * ROW;
    for tick in [0.6, 0.7, 0.8, 0.9, 1.0, 1.1] {
        let style = if tick == 1.0 { "stroke-width='2'" } else { "" };
        chart.line((x(tick), TOP), (x(tick), bottom), GRID, style);
        let place = (x(tick), bottom + 18.0);
        chart.text(place, &format!("{tick}"), PALE, "text-anchor='middle' font-size='12'");
    }
    for (row, &(name, ratio)) in rows.iter().enumerate() {
        let y = TOP + (row as f64 + 0.5) * ROW;
        chart.name(LEFT - 14.0, y + 5.0, name);
        let interval = table.cell(name, "rate_ratio").and_then(|cell| cell.as_array());
        if let Some([low, _, high]) = interval.map(Vec::as_slice) {
            let ends = (low.as_f64()?, high.as_f64()?);
            chart.line((x(ends.0), y), (x(ends.1), y), color(name), "stroke-width='3'");
        }
        let fill = if interval.is_some() { color(name) } else { "#fff" };
        chart.dot((x(ratio), y), color(name), fill);
        chart.text((RIGHT + 20.0, y + 5.0), &format!("{ratio:.3}"), color(name), "");
    }
    chart.height = bottom + 30.0;
    chart.caption("Medians of paired turns and their 95 % confidence intervals: make bench ARGS=batches-64");
    chart.caption("¹ measured on another machine: faster in full batches, slower free-running");
    Some(chart)
}

/// Two columns of bars: instructions and bytes.
fn exact((instructions, memory): (&Table, &Table)) -> Option<Chart> {
    let by_instructions = figures(instructions, "message_in_64");
    let by_bytes = figures(memory, "after_it");
    let ours = |rows: &[(&str, f64)]| {
        rows.iter().find(|row| row.0 == "threadbare").map(|row| grouped(row.1))
    };
    let title = format!(
        "{} instructions for a message, {} bytes for an idle connection",
        ours(&by_instructions)?,
        ours(&by_bytes)?
    );
    let mut chart = Chart::new(&title, "exact counts: the server's own code and memory");
    let width = (WIDTH - LEFT - 110.0 - 80.0) / 2.0;
    let panels = [
        (by_instructions, "user instructions, batches of 64", LEFT),
        (by_bytes, "bytes of user memory", LEFT + width + 110.0),
    ];
    let names: Vec<&str> = panels[0].0.iter().map(|row| row.0).collect();
    for (place, (rows, heading, left)) in panels.iter().enumerate() {
        chart.text((*left, TOP + 14.0), heading, PALE, "font-size='12'");
        let most = rows.iter().map(|row| row.1).fold(1.0, f64::max);
        for &(name, figure) in rows {
            let row = names.iter().position(|known| *known == name)?;
            let y = TOP + 26.0 + row as f64 * ROW;
            if place == 0 {
                chart.name(LEFT - 14.0, y + 12.0, name);
            }
            let length = width * figure / most;
            chart.bar(y, (*left, length.max(1.0)), color(name));
            chart.text((left + length + 8.0, y + 12.0), &grouped(figure), color(name), "");
        }
    }
    chart.height = TOP + 26.0 + names.len() as f64 * ROW + 8.0;
    chart.caption("make bench ARGS='instructions memory'");
    Some(chart)
}

/// CPU time of a message over the number of connections.
fn scale(table: &Table) -> Option<Chart> {
    /// Of a server, with idle connections beside or not: connections and costs.
    type Line<'a> = (&'a str, bool, Vec<(f64, f64)>);
    let mut lines: Vec<Line> = Vec::new();
    for row in &table.rows {
        let (name, connections) = (row[0].as_str()?, row[1].as_f64()?);
        for (cell, beside_idle) in [(&row[2], false), (&row[3], true)] {
            let Some(cost) = cell.as_f64() else { continue };
            match lines.iter_mut().find(|line| (line.0, line.1) == (name, beside_idle)) {
                Some(line) => line.2.push((connections, cost)),
                None => lines.push((name, beside_idle, vec![(connections, cost)])),
            }
        }
    }
    let points = || lines.iter().flat_map(|line| line.2.iter().copied());
    let widest = points().map(|point| point.0).fold(2.0, f64::max);
    let highest = (points().map(|point| point.1).fold(1.0, f64::max) / 4.0).ceil() * 4.0;
    let (_, _, ours) = lines.iter().find(|line| line.0 == "threadbare")?;
    let at = |connections: f64| ours.iter().find(|point| point.0 == connections).map(|p| p.1);
    let title = format!(
        "A message costs {:.1} µs at 100 connections, and {:.1} µs at {}",
        at(100.0)?,
        ours.last()?.1,
        grouped(ours.last()?.0)
    );
    let subtitle = "server CPU time of a message in µs; dashed: as many idle connections beside";
    let mut chart = Chart::new(&title, subtitle);
    let (left, right, bottom) = (60.0, RIGHT - 20.0, TOP + 260.0); // names stand beside
    let x = |connections: f64| left + (right - left) * connections.ln() / widest.ln();
    let y = |cost: f64| bottom - (bottom - TOP) * cost / highest;
    for step in 0..=4 {
        let cost = highest * f64::from(step) / 4.0;
        chart.line((left, y(cost)), (right, y(cost)), GRID, "");
        let place = (left - 10.0, y(cost) + 4.0);
        chart.text(place, &format!("{cost}"), PALE, "text-anchor='end' font-size='12'");
    }
    for (connections, _) in ours {
        let place = (x(*connections), bottom + 18.0);
        chart.text(place, &grouped(*connections), PALE, "text-anchor='middle' font-size='12'");
    }
    let place = ((left + right) / 2.0, bottom + 38.0);
    chart.text(place, "connections", PALE, "text-anchor='middle' font-size='12'");
    for (name, beside_idle, points) in &lines {
        let dashes = if *beside_idle { "stroke-dasharray='4 4'" } else { "" };
        for pair in points.windows(2) {
            let [from, to] =
                [pair[0], pair[1]].map(|(connections, cost)| (x(connections), y(cost)));
            chart.line(from, to, line_color(name), &format!("stroke-width='2' {dashes}"));
        }
    }
    // The names stand at the ends of the lines, from the top down, and not on each other.
    let whole = lines.iter().filter(|line| !line.1);
    let mut ends: Vec<_> = whole.filter_map(|line| Some((y(line.2.last()?.1), line.0))).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut above = 0.0;
    for (place, name) in ends {
        above = place.max(above + 16.0);
        chart.text((right + 8.0, above + 4.0), name, line_color(name), "");
    }
    chart.height = bottom + 50.0;
    chart
        .caption("Exact batches of 64 messages, of all connections in turn: make bench ARGS=scale");
    Some(chart)
}
