//! Figures as people write them.

/// A number of things: `1 worker`, `8 workers`.
pub(crate) fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
