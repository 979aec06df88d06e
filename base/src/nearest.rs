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

/// A longer word is no misspelt name.
const LONGEST: usize = 100;

/// The first of the `names` with the fewest edits from `word`, if these are at most three and leave something of it.
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let length = word.chars().count();
    if length > LONGEST {
        return None;
    }
    let most = length.saturating_sub(1).min(3);
    let all = names.into_iter().map(|name| (distance(name, word), name));
    all.min_by_key(|(edits, _)| *edits).filter(|(edits, _)| *edits <= most).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbour_and_another_word_none() {
        let names = ["lr", "min_lr", "num_layers"];
        assert_eq!(nearest("num_layer", names), Some("num_layers"));
        assert_eq!(nearest("lt", names), Some("lr"));
        assert_eq!(nearest("xy", names), None);
        assert_eq!(nearest("hidden_size", names), None);
        assert_eq!(nearest("", names), None);
    }
}
