//! How much memory this process may take: asked before anything is allocated, because an allocation
//! itself succeeds and the system kills the process later, when it writes.

use std::path::Path;

use crate::RuntimeError;

/// Refuses to go on where `needs` bytes are more than can be had.
pub fn check(needs: u64) -> Result<(), RuntimeError> {
    match available(Path::new("/")) {
        Some((available, limit)) if needs > available => {
            Err(RuntimeError::Memory { needs, available, limit })
        }
        _ => Ok(()),
    }
}

/// Bytes that can be had and what limits them, by the files under `root`; nothing on systems that
/// do not tell.
fn available(root: &Path) -> Option<(u64, String)> {
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let machine = (kib * 1024, "free on this machine".to_string());
    [Some(machine), group(root)].into_iter().flatten().min_by_key(|(bytes, _)| *bytes)
}

/// What is left to the control group of this process (version 2, or 1), and those around it.
fn group(root: &Path) -> Option<(u64, String)> {
    let own = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let number = |p: &Path| std::fs::read_to_string(p).ok()?.trim().parse::<u64>().ok();
    let mut left = vec![];
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kind), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (base, most, used) = match kind {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
            k if k.split(',').any(|k| k == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        let base = root.join(base);
        let mut folder = base.join(path.trim_start_matches('/'));
        while folder.starts_with(&base) {
            if let (Some(most), Some(used)) =
                (number(&folder.join(most)), number(&folder.join(used)))
            {
                let text = format!("left of a control group's {most}");
                left.push((most.saturating_sub(used), text));
            }
            if !folder.pop() {
                break;
            }
        }
    }
    left.into_iter().min_by_key(|(bytes, _)| *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(available(root.path()), None);
        write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    2000 kB\n");
        assert_eq!(available(root.path()).unwrap().0, 2_048_000);
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        write("sys/fs/cgroup/a/b/memory.current", "17\n");
        assert_eq!(available(root.path()).unwrap().0, 2_048_000);
        write("sys/fs/cgroup/a/memory.max", "1000000\n");
        write("sys/fs/cgroup/a/memory.current", "400000\n");
        let (left, text) = available(root.path()).unwrap();
        assert_eq!(left, 600_000);
        assert!(text.contains("1000000"), "{text}");
    }

    #[test]
    fn what_nobody_has_is_refused() {
        assert!(check(64).is_ok());
        let e = check(u64::MAX).unwrap_err();
        assert_eq!((e.code(), e.exit_code()), ("NXR0404", 4));
        assert!(e.to_string().contains("18446744073709551615 bytes"), "{e}");
    }
}
