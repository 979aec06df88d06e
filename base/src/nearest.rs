//! The name that a misspelt one was probably meant to be.

/// Edits (a character added, removed or changed) between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The first of the `names` with the fewest edits from `word`, if that is at most three edits.
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let all = names.into_iter().map(|name| (distance(name, word), name));
    all.min_by_key(|(edits, _)| *edits).filter(|(edits, _)| *edits <= 3).map(|(_, name)| name)
}
