//! Results as a picture: a panel of bars for each workload.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use crate::results::{Results, Row};

/// Panels side by side.
const COLUMNS: usize = 3;

/// Pixels of a panel.
const PANEL: (u32, u32) = (460, 300);

const OURS: RGBColor = RGBColor(0x1b, 0x6c, 0xa8);
const PEERS: RGBColor = RGBColor(0xb8, 0xb8, 0xb8);

/// Draws nanoseconds of an operation, where there are any.
pub fn draw(path: &Path, results: &Results) -> Result<()> {
    let panels: Vec<_> =
        results.by_workload().filter(|rows| rows.iter().any(|row| row.ns.is_some())).collect();
    let rows = panels.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * u32::try_from(COLUMNS)?, PANEL.1 * u32::try_from(rows)?);
    let root = SVGBackend::new(path, size).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<_>> {
        root.fill(&WHITE)?;
        for (area, rows) in root.split_evenly((rows, COLUMNS)).iter().zip(&panels) {
            panel(area, rows)?;
        }
        root.present()
    };
    drawn().map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Short is quick; bars that are too long to compare others are cut, their figures are not.
fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    rows: &[Row],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let shown: Vec<(&Row, f64)> =
        rows.iter().filter_map(|row| row.ns.map(|ns| (row, ns))).collect();
    let mut sorted: Vec<f64> = shown.iter().map(|&(_, ns)| ns).collect();
    sorted.sort_by(f64::total_cmp);
    let longest = sorted.last().copied().unwrap_or(1.0);
    let limit = longest.min(sorted[sorted.len() / 2] * 4.0).max(f64::MIN_POSITIVE);
    area.titled(&format!("{}, ns", rows[0].workload), ("sans-serif", 15))?;
    let (_, height) = area.dim_in_pixel();
    let line = (i32::try_from(height).unwrap_or(i32::MAX) - 30)
        / i32::try_from(shown.len()).unwrap_or(i32::MAX).max(1);
    let mut top = 24;
    for (row, ns) in shown {
        #[expect(clippy::cast_possible_truncation, reason = "at most 220 pixels")]
        let length = (ns.min(limit) / limit * 220.0) as i32;
        let colour = if row.peer { PEERS } else { OURS };
        let font = ("sans-serif", 12);
        area.draw(&Text::new(row.contender.clone(), (8, top), font))?;
        let bar = [(160, top + 2), (160 + length.max(1), top + line.min(14))];
        area.draw(&Rectangle::new(bar, colour.filled()))?;
        area.draw(&Text::new(format!("{ns:.2}"), (166 + length, top), font))?;
        top += line;
    }
    Ok(())
}
