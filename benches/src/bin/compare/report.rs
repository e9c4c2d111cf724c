//! Results as tables, CSV and JSON.

use std::{fs, path::Path};

use anyhow::Result;

use crate::{
    bars::{self, Outcome},
    results::{Column, Results, Row, best_peer},
};

/// Prints a workload's table: only columns in which something was measured.
pub fn print(rows: &[Row]) {
    let Some(first) = rows.first() else { return };
    let columns: Vec<_> = Column::ALL
        .into_iter()
        .filter(|column| rows.iter().any(|row| column.of(row).is_some()))
        .collect();
    let best = best_peer(rows, Column::Ns);
    let mut heads: Vec<_> = columns.iter().map(|column| column.title()).collect();
    heads.extend(best.map(|_| "best peer / this"));
    println!("\n| {} | {} |", first.workload, heads.join(" | "));
    println!("|---|{}", "--:|".repeat(heads.len()));
    for row in rows {
        if columns.iter().all(|column| column.of(row).is_none()) {
            println!("| {} | not measured |", row.contender);
            continue;
        }
        let cells: String = columns.iter().map(|column| cell(column.of(row))).collect();
        let ratio = row.ns.zip(best).map(|(ns, best)| cell(Some(best / ns)));
        println!("| {} |{cells}{}", row.contender, ratio.unwrap_or_default());
    }
}

fn cell(figure: Option<f64>) -> String {
    match figure {
        Some(figure) if figure.abs() < 100.0 => format!(" {figure:.2} |"),
        Some(figure) => format!(" {figure:.0} |"),
        None => " |".into(),
    }
}

/// Prints each bar, what was measured, and whether it is met; of those that were not, their number.
pub fn print_bars(outcomes: &[Outcome]) {
    println!("\n| bar | | asked | measured | verdict |\n|--:|---|--:|--:|---|");
    for outcome in outcomes.iter().filter(|outcome| outcome.measured.is_some()) {
        let Outcome { number, text, asked, measured, .. } = outcome;
        println!("| {number} | {text} | {asked} |{} {} |", cell(*measured), outcome.verdict());
    }
    println!();
    for verdict in ["met", "missed", "not measured"] {
        let count = outcomes.iter().filter(|outcome| outcome.verdict() == verdict).count();
        println!("{count} {verdict}");
    }
    println!("{}", bars::NOTES.join("\n"));
}

/// Writes `compare.csv` and `compare.json`.
pub fn write(out: &Path, results: &Results, outcomes: &[Outcome]) -> Result<()> {
    let mut csv = csv::Writer::from_path(out.join("compare.csv"))?;
    results.0.iter().try_for_each(|row| csv.serialize(row))?;
    csv.flush()?;
    let json = serde_json::json!({ "rows": results.0, "bars": outcomes });
    fs::write(out.join("compare.json"), serde_json::to_string_pretty(&json)?)?;
    Ok(())
}
