//! A board on a terminal, or as lines.

use comfy_table::CellAlignment;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

use super::{Board, Row, View};
use crate::output::table;

/// Columns of numbers, right of the names.
const NUMBERS: [&str; 3] = ["PACKETS/s", "BYTES/s", "PACKETS"];
/// Width of each.
const NUMBER: u16 = 10;
/// A screen that is narrower has no room for all of them.
const NARROW: u16 = 60;

/// Draws a board on the whole screen, however small.
pub(crate) fn draw(frame: &mut Frame<'_>, board: &Board, coloured: bool) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(title(board)), head);
    rows(frame, body, board, coloured);
    frame.render_widget(Paragraph::new(bottom(board, coloured)), foot);
}

fn title(board: &Board) -> Line<'static> {
    let tabs = View::ALL.iter().enumerate().flat_map(|(place, view)| {
        let style = if *view == board.view {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        [Span::styled(format!(" {} {} ", place + 1, view.name()), style), Span::raw(" ")]
    });
    let mut spans: Vec<Span<'static>> = tabs.collect();
    spans.push(Span::raw(format!("by {}", board.sort.name())));
    if board.is_paused {
        spans.push(Span::styled(" paused", Style::new().add_modifier(Modifier::BOLD)));
    }
    Line::from(spans)
}

fn bottom(board: &Board, coloured: bool) -> Line<'static> {
    if board.is_typing {
        return Line::from(format!("filter: {}_", board.filter));
    }
    if let Some(trouble) = &board.trouble {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let style = if coloured { style.fg(Color::Red) } else { style };
        return Line::from(Span::styled(trouble.clone(), style));
    }
    let filter = match board.filter.as_str() {
        "" => String::new(),
        filter => format!("filter: {filter} (Esc)  "),
    };
    Line::from(format!("{filter}q quit  Tab view  s sort  / filter  p pause  j k scroll"))
}

fn rows(frame: &mut Frame<'_>, area: Rect, board: &Board, coloured: bool) {
    let all = board.rows();
    if all.is_empty() {
        let text = match (board.has_rates(), board.filter.is_empty()) {
            (false, _) => "waiting for the agent's counters",
            (true, true) => "nothing yet",
            (true, false) => "nothing of that name",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let numbers = if area.width < NARROW { 1 } else { NUMBERS.len() };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let number = |text: String| Cell::from(Line::from(text).right_aligned());
    let headings = board.view.headings().iter().map(|it| Cell::from(*it));
    let header = headings.chain(NUMBERS[..numbers].iter().map(|it| number((*it).to_owned())));
    // The last page stays full.
    let room = usize::from(area.height).saturating_sub(1);
    let skipped = board.offset.min(all.len().saturating_sub(room));
    let lines = all.iter().skip(skipped).take(room).map(|row| {
        let style = match (row.packets_per_second > 0.0, coloured && is_denied(board.view, row)) {
            (true, true) => Style::new().fg(Color::Red),
            (true, false) => Style::new(),
            (false, _) => Style::new().add_modifier(Modifier::DIM),
        };
        let names = row.names.iter().map(|name| Cell::from(name.clone()));
        let figures = figures(row).into_iter().take(numbers).map(number);
        TableRow::new(names.chain(figures)).style(style)
    });
    let widths = names(board.view, area.width < NARROW).into_iter();
    let widths = widths.chain((0..numbers).map(|_| Constraint::Length(NUMBER)));
    let table = Table::new(lines, widths).header(TableRow::new(header).style(bold));
    frame.render_widget(table, area);
}

/// Widths of the columns that are names: what is short has no more than it needs, and on a narrow screen
/// all have the same.
fn names(view: View, is_narrow: bool) -> Vec<Constraint> {
    let (short, long) = (Constraint::Max, Constraint::Fill);
    match view {
        _ if is_narrow => view.headings().iter().map(|_| long(1)).collect(),
        View::Drops => vec![long(2), long(2), short(12), long(3)],
        View::Endpoints => vec![long(1), short(9)],
        View::Rules => vec![long(1), short(6)],
    }
}

fn is_denied(view: View, row: &Row) -> bool {
    match view {
        View::Drops | View::Endpoints => true,
        View::Rules => row.names.get(1).is_some_and(|action| action == "deny"),
    }
}

fn figures(row: &Row) -> [String; 3] {
    [short(row.packets_per_second), short(row.bytes_per_second), row.packets.to_string()]
}

/// Three digits and what they are thousands of.
fn short(number: f64) -> String {
    const STEPS: [(f64, &str); 3] = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match STEPS.iter().find(|(step, _)| number >= *step) {
        Some((step, unit)) => format!("{:.1}{unit}", number / step),
        None if number == 0.0 => "0".to_owned(),
        None => format!("{number:.1}"),
    }
}

/// The board as a table, for those who have no terminal.
pub(crate) fn lines(board: &Board) -> String {
    let rows = board.rows();
    let headings: Vec<&str> = board.view.headings().iter().chain(&NUMBERS).copied().collect();
    let mut out = table::table(&headings);
    for row in &rows {
        out.add_row(row.names.iter().cloned().chain(figures(row)));
    }
    let names = board.view.headings().len();
    for column in out.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table::render(out)
}
