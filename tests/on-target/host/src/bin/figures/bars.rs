//! What we set out to reach.

/// Prints whether a figure is within its bar.
pub fn print(what: &str, figure: f64, bar: f64) {
    let verdict = if figure <= bar { "met" } else { "MISSED" };
    println!("- {what}: {figure:.1}, bar {bar:.1}: {verdict}");
}
