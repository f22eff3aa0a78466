//! Columns that fit: one of them gives way, then the least important ones go.

use crate::text::{clip, clip_front, width};

/// What the column that gives way is left, before others go.
const ENOUGH: usize = 32;
const GAP: &str = "  ";

pub(crate) struct Column {
    title: &'static str,
    /// Numbers.
    right: bool,
    /// Gives way, and is cut in front.
    elastic: bool,
    /// 0 goes last.
    rank: usize,
}

pub(crate) fn number(title: &'static str, rank: usize) -> Column {
    Column { title, right: true, elastic: false, rank }
}

pub(crate) fn word(title: &'static str, rank: usize) -> Column {
    Column { title, right: false, elastic: false, rank }
}

pub(crate) fn place(title: &'static str) -> Column {
    Column { title, right: false, elastic: true, rank: 0 }
}

/// The title line and one line a row, none wider than the limit. A row has a cell for each column.
pub(crate) fn render(columns: &[Column], rows: &[Vec<String>], limit: usize) -> Vec<String> {
    let natural = |i: usize| rows.iter().map(|row| width(&row[i])).chain([width(columns[i].title)]).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..columns.len()).map(natural).collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let elastic = columns.iter().position(|c| c.elastic);
    loop {
        let total: usize = shown.iter().map(|&i| widths[i]).sum::<usize>() + GAP.len() * shown.len().saturating_sub(1);
        let Some(over) = total.checked_sub(limit).filter(|&over| over > 0) else { break };
        if let Some(i) = elastic
            && widths[i] > ENOUGH.min(natural(i))
        {
            widths[i] = widths[i].saturating_sub(over).max(ENOUGH.min(natural(i)));
            continue;
        }
        // The least important; what is left in the end is cut off as a whole.
        match shown.iter().copied().filter(|&i| columns[i].rank > 0).max_by_key(|&i| columns[i].rank) {
            Some(least) => shown.retain(|&i| i != least),
            None => break,
        }
    }
    // A column that went may have left more than was wanted.
    if let Some(i) = elastic {
        let others: usize = shown.iter().filter(|&&j| j != i).map(|&j| widths[j] + GAP.len()).sum();
        widths[i] = natural(i).min(limit.saturating_sub(others).max(1));
    }
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = shown.iter().map(|&i| {
            let text = if columns[i].elastic { clip_front(&cell(i), widths[i]) } else { cell(i) };
            let pad = " ".repeat(widths[i].saturating_sub(width(&text)));
            if columns[i].right { pad + &text } else { text + &pad }
        });
        clip(cells.collect::<Vec<_>>().join(GAP).trim_end(), limit)
    };
    let title = line(&|i| columns[i].title.to_owned());
    std::iter::once(title).chain(rows.iter().map(|row| line(&|i| row[i].clone()))).collect()
}
