//! Changes to JSON and to bytes, as choices say.

use arbitrary::{Result, Unstructured};
use serde_json::Value;

/// Numbers at the edges of what programs expect.
const NUMBERS: [u64; 10] =
    [0, 1, 2, 7, 255, 1 << 20, u32::MAX as u64, 1 << 48, i64::MAX as u64, u64::MAX];

/// Strings that files should not have.
const STRINGS: [&str; 8] = [
    "",
    "../rank-00000.safetensors",
    "/etc/passwd",
    "rank-00001.safetensors",
    "F16",
    "a\0b",
    "params",
    "{layer*9+99999999999999999999}",
];

/// A scalar unlike what was there, mostly of the same kind.
fn other(u: &mut Unstructured, old: &Value) -> Result<Value> {
    let number = |u: &mut Unstructured| Ok(Value::from(*u.choose(&NUMBERS)?));
    Ok(match old {
        Value::Number(n) => match (n.as_u64(), u.int_in_range(0..=3)?) {
            (Some(n), 0) => n.wrapping_add(1).into(),
            (Some(n), 1) => n.wrapping_sub(1).into(),
            (Some(n), 2) => n.wrapping_mul(*u.choose(&NUMBERS)?).into(),
            _ => number(u)?,
        },
        Value::String(_) if u.ratio(3, 4)? => (*u.choose(&STRINGS)?).into(),
        Value::Bool(b) => (!b).into(),
        _ => match u.int_in_range(0..=4)? {
            0 => Value::Null,
            1 => Value::Array(vec![]),
            2 => Value::Object(Default::default()),
            3 => number(u)?,
            _ => (*u.choose(&STRINGS)?).into(),
        },
    })
}

/// Changes one place of `value`.
pub fn json(u: &mut Unstructured, value: &mut Value) -> Result<()> {
    match value {
        Value::Array(list) if !list.is_empty() && u.ratio(15, 16)? => {
            let at = u.choose_index(list.len())?;
            match u.int_in_range(0..=15)? {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                2 => {
                    let with = u.choose_index(list.len())?;
                    list.swap(at, with);
                }
                _ => json(u, &mut list[at])?,
            }
        }
        Value::Object(map) if !map.is_empty() && u.ratio(31, 32)? => {
            let key = map.keys().nth(u.choose_index(map.len())?).cloned().unwrap_or_default();
            match u.int_in_range(0..=31)? {
                0 => drop(map.remove(&key)),
                1 => {
                    let moved = map.remove(&key).unwrap_or_default();
                    map.insert((*u.choose(&STRINGS)?).into(), moved);
                }
                _ => {
                    if let Some(inner) = map.get_mut(&key) {
                        json(u, inner)?;
                    }
                }
            }
        }
        _ => *value = other(u, value)?,
    }
    Ok(())
}

/// Changes a few places of `bytes`: bits, bytes, pieces that are missing or there twice.
pub fn bytes(u: &mut Unstructured, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=4)? {
        if bytes.is_empty() {
            return Ok(());
        }
        let at = u.choose_index(bytes.len())?;
        match u.int_in_range(0..=5)? {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
            2 => bytes[at] = u.arbitrary()?,
            3 => {
                let end = (at + u.int_in_range(1..=64)?).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + u.int_in_range(1..=64)?).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = u.choose_index(bytes.len())?;
                bytes.splice(to..to, piece);
            }
            _ => bytes.insert(at, *u.choose(b"0123456789+-* ;\n\"{}[]")?),
        }
    }
    Ok(())
}
