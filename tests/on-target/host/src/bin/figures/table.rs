//! Tables as Markdown has them.

/// Prints a table: the first column is text, the others are numbers.
pub fn print<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    println!("| {} |", head.join(" | "));
    println!("|---|{}", "--:|".repeat(N - 1));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
    println!();
}
