//! How much memory this process may take: asked before anything is allocated, because an allocation
//! itself succeeds and the system kills the process later, when it writes.

use std::path::Path;

use crate::RuntimeError;

/// Refuses to go on where the `needs` bytes of `what` are more than can be had.
pub fn check(what: &'static str, needs: u64) -> Result<(), RuntimeError> {
    let least = [available(Path::new("/")), addresses()].into_iter().flatten();
    match least.min_by_key(|(bytes, _)| *bytes) {
        Some((available, limit)) if needs > available => {
            Err(RuntimeError::Memory { what, needs, available, limit })
        }
        _ => Ok(()),
    }
}

/// An empty list with room for the `n` elements of `what`.
///
/// # Errors
/// The system does not give the memory.
pub fn reserve<T>(what: &'static str, n: usize) -> Result<Vec<T>, RuntimeError> {
    let mut out = vec![];
    let needs = (n as u64).saturating_mul(size_of::<T>() as u64);
    out.try_reserve_exact(n).map_err(|_| RuntimeError::Memory {
        what,
        needs,
        available: 0,
        limit: "given by the system".into(),
    })?;
    Ok(out)
}

/// What a limit of addresses (`ulimit -v`) leaves to this process.
fn addresses() -> Option<(u64, String)> {
    // SAFETY: the structure is plain numbers, and the call only writes it.
    let (done, limit) = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        (libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), limit)
    };
    if done != 0 || limit.rlim_cur == libc::RLIM_INFINITY {
        return None;
    }
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let used: u64 = pages.split_whitespace().next()?.parse().ok()?;
    // SAFETY: it takes a number and gives one.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let left = limit.rlim_cur.saturating_sub(used * page);
    Some((left, format!("left of the limit of addresses, {}", limit.rlim_cur)))
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
        assert!(check("it", 64).is_ok());
        let e = check("it", u64::MAX).unwrap_err();
        assert_eq!((e.code(), e.exit_code()), ("NXR0404", 4));
        assert!(e.to_string().contains("18446744073709551615 bytes"), "{e}");
    }
}
