//! Tables that fit a width: first the column of locations shrinks, then the least important columns
//! are omitted.

use crate::text::{clip, clip_start, width};

/// The width to which the column of locations shrinks before other columns are omitted.
const LEAST_LOCATION: usize = 32;
/// The space between two columns.
const GAP: &str = "  ";

/// The layout of the cells of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Right,
    Left,
    /// Left-aligned, shrinks, and is cut at the start, because the end of a path says more.
    Location,
}

/// One column of a table.
pub(crate) struct Column {
    title: &'static str,
    layout: Layout,
    /// Columns with a high rank are omitted first, those with rank 0 never.
    rank: usize,
}

impl Column {
    /// Makes a column of numbers, aligned to the right.
    pub(crate) fn number(title: &'static str, rank: usize) -> Column {
        Column { title, layout: Layout::Right, rank }
    }

    /// Makes a column of text, aligned to the left.
    pub(crate) fn text(title: &'static str, rank: usize) -> Column {
        Column { title, layout: Layout::Left, rank }
    }

    /// Returns the title.
    pub(crate) fn title(&self) -> &'static str {
        self.title
    }

    /// Makes the column of locations. A table has at most one.
    pub(crate) fn location(title: &'static str) -> Column {
        Column { title, layout: Layout::Location, rank: 0 }
    }
}

/// Returns the line of titles and one line for each row, none wider than the limit. A row has a
/// cell for each column.
pub(crate) fn render(columns: &[Column], rows: &[Vec<String>], limit: usize) -> Vec<String> {
    let natural = |i: usize| rows.iter().map(|row| width(&row[i])).chain([width(columns[i].title)]).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..columns.len()).map(natural).collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let location = columns.iter().position(|c| c.layout == Layout::Location);
    loop {
        let total: usize = shown.iter().map(|&i| widths[i]).sum::<usize>() + GAP.len() * shown.len().saturating_sub(1);
        let Some(excess) = total.checked_sub(limit).filter(|&excess| excess > 0) else { break };
        if let Some(i) = location
            && widths[i] > LEAST_LOCATION.min(natural(i))
        {
            widths[i] = widths[i].saturating_sub(excess).max(LEAST_LOCATION.min(natural(i)));
            continue;
        }
        // If only columns of rank 0 remain, each line is cut at its end below.
        match shown.iter().copied().filter(|&i| columns[i].rank > 0).max_by_key(|&i| columns[i].rank) {
            Some(least) => shown.retain(|&i| i != least),
            None => break,
        }
    }
    // The omitted columns may have freed more space than was needed.
    if let Some(i) = location {
        let others: usize = shown.iter().filter(|&&j| j != i).map(|&j| widths[j] + GAP.len()).sum();
        widths[i] = natural(i).min(limit.saturating_sub(others).max(1));
    }
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = shown.iter().map(|&i| {
            let layout = columns[i].layout;
            let text = if layout == Layout::Location { clip_start(&cell(i), widths[i]) } else { cell(i) };
            let pad = " ".repeat(widths[i].saturating_sub(width(&text)));
            if layout == Layout::Right { pad + &text } else { text + &pad }
        });
        clip(cells.collect::<Vec<_>>().join(GAP).trim_end(), limit)
    };
    let title = line(&|i| columns[i].title.to_owned());
    std::iter::once(title).chain(rows.iter().map(|row| line(&|i| row[i].clone()))).collect()
}
