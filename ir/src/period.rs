//! Periods of layer kinds: the loop over layers has one period of layers as its body, so nothing in a module
//! grows with the number of layers.

/// The length of the shortest run at the beginning of `kinds` of which all of `kinds` is a repetition; 0 of nothing.
///
/// ```
/// use neoxc_ir::period::shortest;
/// assert_eq!(shortest(&["experts", "mlp", "experts", "mlp"]), 2);
/// assert_eq!(shortest(&["mlp", "mlp", "mlp"]), 1);
/// assert_eq!(shortest(&["a", "b", "a"]), 3);
/// ```
pub fn shortest<T: PartialEq>(kinds: &[T]) -> usize {
    let n = kinds.len();
    let repeats = |k: &usize| n.is_multiple_of(*k) && (*k..n).all(|i| kinds[i] == kinds[i - k]);
    (1..=n).find(repeats).unwrap_or(0)
}
