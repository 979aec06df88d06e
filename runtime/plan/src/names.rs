//! Logical names of stacked parameters: `{layer}` stands for the number of the slice, `{layer*2+1}` for
//! twice that and one.

/// The factor and the offset in `{layer*factor+offset}`, with what stands before and after.
fn pattern(name: &str) -> Option<(&str, u64, u64, &str)> {
    let (before, rest) = name.split_once("{layer")?;
    let (inside, after) = rest.split_once('}')?;
    let (product, offset) = inside.split_once('+').unwrap_or((inside, "0"));
    let factor = match product.strip_prefix('*') {
        Some(n) => n.parse().ok()?,
        None if product.is_empty() => 1,
        None => return None,
    };
    Some((before, factor, offset.parse().ok()?, after))
}

/// Whether a parameter of this name is a stack of one parameter of several layers.
pub fn is_stacked(name: &str) -> bool {
    pattern(name).is_some()
}

/// The name of slice `i` of a stack.
pub fn of_slice(name: &str, i: u64) -> String {
    match pattern(name) {
        Some((before, factor, offset, after)) => {
            let layer = i.saturating_mul(factor).saturating_add(offset);
            format!("{before}{layer}{after}")
        }
        None => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_have_layers() {
        for (name, i, want) in [
            ("a.{layer}.b", 3, "a.3.b"),
            ("a.{layer*2}.b", 3, "a.6.b"),
            ("a.{layer*4+1}.b", 3, "a.13.b"),
            ("a.{layer+10}", 3, "a.13"),
            ("{layer*10+0}", 0, "0"),
        ] {
            assert!(is_stacked(name), "{name}");
            assert_eq!(of_slice(name, i), want);
        }
        for name in ["a.b", "a.{layer", "a.{layerx}.b", "a.{layer*}.b", "a.{layer*2+x}"] {
            assert!(!is_stacked(name), "{name}");
            assert_eq!(of_slice(name, 3), name);
        }
    }
}
