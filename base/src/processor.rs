//! What a processor can do beyond the first x86-64: what kernels are compiled with, and what a machine has.
//!
//! A plan lists the features that its kernels may use. An instruction that a machine does not have ends a process by a
//! signal, so the list is looked at before the first one runs.

/// A feature: its name as LLVM and plans have it, and whether this machine and its system have it.
type Feature = (&'static str, fn() -> bool);

macro_rules! features {
    ($($name:tt $here:tt),* $(,)?) => {
        &[$(($name, || std::arch::is_x86_feature_detected!($here))),*]
    };
}

/// Every feature that a kernel may need. Tile registers are not among them: the system is asked for these.
static FEATURES: &[Feature] = features![
    "avx" "avx",
    "avx2" "avx2",
    "avx512bf16" "avx512bf16",
    "avx512bitalg" "avx512bitalg",
    "avx512bw" "avx512bw",
    "avx512cd" "avx512cd",
    "avx512dq" "avx512dq",
    "avx512f" "avx512f",
    "avx512ifma" "avx512ifma",
    "avx512vbmi" "avx512vbmi",
    "avx512vbmi2" "avx512vbmi2",
    "avx512vl" "avx512vl",
    "avx512vnni" "avx512vnni",
    "avx512vpopcntdq" "avx512vpopcntdq",
    "bmi" "bmi1",
    "bmi2" "bmi2",
    "f16c" "f16c",
    "fma" "fma",
    "lzcnt" "lzcnt",
    "movbe" "movbe",
    "popcnt" "popcnt",
    "sse3" "sse3",
    "sse4.1" "sse4.1",
    "sse4.2" "sse4.2",
    "ssse3" "ssse3",
];

/// What the levels of x86-64 add, from the third on.
const V3: [&str; 8] = ["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"];
const V4: [&str; 5] = ["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"];

/// The features that kernels of a target may use: those of its level, or of LLVM's list `+avx,-sse4a,…` of the machine
/// that compiles.
pub fn of(target: crate::target::Target, native: &str) -> Vec<String> {
    use crate::target::Target;
    let names: Vec<&str> = match target {
        Target::X86V3 => V3.to_vec(),
        Target::X86V4 => V3.into_iter().chain(V4).collect(),
        Target::X86Native => {
            let has = |name: &&str| native.split(',').any(|f| f.strip_prefix('+') == Some(*name));
            FEATURES.iter().map(|(name, _)| *name).filter(has).collect()
        }
        _ => vec![],
    };
    names.into_iter().map(str::to_string).collect()
}

/// Those of the features that this machine does not have; one that nobody knows is among them.
pub fn missing(features: &[String]) -> Vec<&str> {
    let here = |name: &str| FEATURES.iter().any(|(n, has)| *n == name && has());
    features.iter().map(String::as_str).filter(|name| !here(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    #[test]
    fn a_feature_that_is_not_here_is_named() {
        assert_eq!(of(Target::X86Native, "+avx2,-fma,+sse4a,+f16c"), ["avx2", "f16c"]);
        assert_eq!(of(Target::X86V4, "").len(), V3.len() + V4.len());
        assert_eq!(of(Target::Sm80, "+avx2"), [""; 0]);
        let known = |t| of(t, "").iter().all(|f| FEATURES.iter().any(|(n, _)| n == f));
        assert!(known(Target::X86V3) && known(Target::X86V4));
        // As the system lists them; it has other names for two.
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = flags.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
        for (name, has) in
            FEATURES.iter().filter(|(n, _)| ["avx2", "fma", "f16c", "bmi2"].contains(n))
        {
            assert_eq!(has(), flags.split_whitespace().any(|f| f == *name), "{name}");
        }
        let wanted = ["avx", "tails"].map(String::from);
        assert!(missing(&wanted).ends_with(&["tails"]));
    }
}
