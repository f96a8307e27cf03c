//! Tables whose rows have bars behind them.
//!
//! Inputs: a table. Outputs: marks on an area. Pure.

use anyhow::Result;
use plotters::style::RGBColor;

use crate::pictures::{
    answers::{Row, Table},
    canvas::{Area, FAINT, Hand, INK, LINE, SMALL, fill, fitting, width, write},
};

/// Pixels.
const LINE_HEIGHT: i32 = 24;
const HEAD: i32 = 24;
const GAP: i32 = 12;
/// From the ends of bars to text.
const INSET: i32 = 6;
/// Rows that are shown.
const ROWS: usize = 12;
const BAR: RGBColor = RGBColor(218, 232, 247);

pub(super) fn height(table: &Table) -> i32 {
    let shown = table.rows.len().clamp(1, ROWS);
    let more = usize::from(table.rows.len() > ROWS);
    HEAD + LINE_HEIGHT * i32::try_from(shown + more).unwrap_or_default()
}

pub(super) fn draw(area: &Area<'_>, room: i32, table: &Table) -> Result<()> {
    let rows = &table.rows[..table.rows.len().min(ROWS)];
    let Layout { size, places } = Layout::of(table, rows, room - 2 * INSET);
    let write_cell = |place: &Place, y, text: &str, colour| {
        let text = fitting(text, size, place.width);
        let hand = Hand::new(size, colour);
        if table.columns[place.column].numeric {
            write(area, (INSET + place.x + place.width, y), &text, hand.right())
        } else {
            write(area, (INSET + place.x, y), &text, hand)
        }
    };
    for place in &places {
        write_cell(place, HEAD / 2, &table.columns[place.column].title, FAINT)?;
    }
    fill(area, (0, HEAD - 2), (room, 1), LINE)?;
    if rows.is_empty() {
        return write(area, (INSET, HEAD + LINE_HEIGHT / 2), "none", Hand::new(SMALL, FAINT));
    }
    let most = rows.iter().map(|row| row.weight).fold(0.0, f64::max);
    let mut y = HEAD;
    for row in rows {
        fill(area, (0, y + 2), (pixels(room, row.weight / most), LINE_HEIGHT - 4), BAR)?;
        for place in &places {
            write_cell(place, y + LINE_HEIGHT / 2, &row.cells[place.column], INK)?;
        }
        y += LINE_HEIGHT;
    }
    let left = table.rows.len() - rows.len();
    if left > 0 {
        let more = format!("and {left} more");
        write(area, (INSET, y + LINE_HEIGHT / 2), &more, Hand::new(SMALL, FAINT))?;
    }
    Ok(())
}

/// Where a column is.
struct Place {
    column: usize,
    x: i32,
    width: i32,
}

struct Layout {
    /// Of the text.
    size: i32,
    places: Vec<Place>,
}

impl Layout {
    /// Where there is no room for all columns, those that say the same in every row are left out, the last first;
    /// then letters get smaller.
    fn of(table: &Table, rows: &[Row], room: i32) -> Self {
        let natural = |column: usize, size: i32| {
            let cells = rows.iter().map(|row| &*row.cells[column]);
            let texts = cells.chain([&*table.columns[column].title]);
            texts.map(|text| width(text, size)).max().unwrap_or_default()
        };
        let taken = |columns: &[usize], size: i32| {
            columns.iter().map(|&column| natural(column, size) + GAP).sum::<i32>() - GAP
        };
        let mut columns: Vec<usize> = (0..table.columns.len()).collect();
        let same = |column: &usize| {
            rows.windows(2).all(|pair| pair[0].cells[*column] == pair[1].cells[*column])
        };
        while taken(&columns, SMALL) > room {
            let Some(index) = columns.iter().rposition(same) else { break };
            columns.remove(index);
        }
        let size = if taken(&columns, SMALL) > room { SMALL - 1 } else { SMALL };
        // What is left over is shared, so that the last column ends at the right edge.
        let count = i32::try_from(columns.len()).unwrap_or(1).max(1);
        let spare = room - taken(&columns, size);
        let mut places: Vec<Place> = Vec::new();
        let mut x = 0;
        for column in columns {
            let width = natural(column, size) + spare / count;
            places.push(Place { column, x, width });
            x += width + GAP;
        }
        if let Some(last) = places.last_mut() {
            last.width = room - last.x;
        }
        Self { size, places }
    }
}

/// A part of a length.
#[allow(clippy::cast_possible_truncation, reason = "a part of a number of pixels is one")]
fn pixels(length: i32, part: f64) -> i32 {
    if part.is_finite() { (f64::from(length) * part) as i32 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::answers::Column;

    #[test]
    fn columns_that_say_nothing_go_first_where_room_is_short() {
        let column = |title: &str| Column { title: title.to_owned(), numeric: false };
        let row = |name: &str| Row {
            cells: ["tcp", name, "default"].map(str::to_owned).into(),
            weight: 1.0,
        };
        let columns = ["Protocol", "Source", "Tier"].map(column).into();
        let table = Table { columns, rows: vec![row("web"), row("api")] };
        let shown = |room| {
            let layout = Layout::of(&table, &table.rows, room);
            layout.places.iter().map(|place| place.column).collect::<Vec<_>>()
        };
        assert_eq!(shown(400), [0, 1, 2]);
        assert_eq!(shown(130), [0, 1]);
        assert_eq!(shown(60), [1]);
    }
}
