//! Which ranks of this host have not come, while a job starts: before they can talk, processes can only look at each other.
//!
//! The launcher gives every process its rank and its job's name in the environment, which the system shows to processes of
//! the same user. Ranks of other hosts are looked at by those that wait there.

use std::path::Path;

/// What the launcher calls a process's job.
const JOBS: [&str; 2] = ["PMIX_NAMESPACE", "PMI_JOBID"];

/// The value of a variable in a process's environment.
fn variable<'e>(environment: &'e [u8], name: &str) -> Option<&'e str> {
    let mut all = environment.split(|b| *b == 0).filter_map(|w| std::str::from_utf8(w).ok());
    all.find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
}

/// What a process of the job does that has not come: nothing if it runs this program.
fn state(process: &Path, own: Option<&Path>) -> Option<String> {
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let of = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("").trim();
    let name = of("Name:");
    match of("State:").chars().next() {
        Some('T' | 't') => Some(format!("{name} is stopped")),
        Some('Z') => Some(format!("{name} has ended")),
        _ if std::fs::read_link(process.join("exe")).ok().as_deref() != own => {
            Some(format!("{name} runs in its place"))
        }
        _ => None,
    }
}

/// Ranks of this host that have not come, in words that go on from a sentence; nothing where all are there, or the
/// launcher does not tell.
pub fn ranks() -> String {
    let Some(job) = JOBS.iter().find_map(|name| Some((*name, std::env::var(name).ok()?))) else {
        return String::new();
    };
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let own = std::env::current_exe().ok();
    let mut there: Vec<(u64, Option<String>)> = vec![];
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(environment) = std::fs::read(process.path().join("environ")) else { continue };
        let rank = variable(&environment, "OMPI_COMM_WORLD_RANK").and_then(|r| r.parse().ok());
        let Some(rank) = rank.filter(|_| variable(&environment, job.0) == Some(&*job.1)) else {
            continue;
        };
        there.push((rank, state(&process.path(), own.as_deref())));
    }
    let came = |rank: u64| there.iter().any(|(r, state)| *r == rank && state.is_none());
    let mut missing: Vec<String> = vec![];
    for (rank, state) in &there {
        if let Some(state) = state.as_ref().filter(|_| !came(*rank)) {
            missing.push(format!("rank {rank} has not come: {state}"));
        }
    }
    missing.sort();
    missing.dedup();
    // Of a host that has all ranks each is known.
    let all =
        number("OMPI_COMM_WORLD_SIZE").filter(|n| number("OMPI_COMM_WORLD_LOCAL_SIZE") == Some(*n));
    let gone = (0..all.unwrap_or(0)).filter(|r| there.iter().all(|(rank, _)| rank != r));
    missing.extend(gone.map(|rank| format!("rank {rank} has not come: it has no process")));
    missing.truncate(8);
    missing.iter().map(|m| format!("; {m}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_by_their_whole_name() {
        let environment = b"PMIX_RANKS=3\0PMIX_RANK=2\0X=\0";
        assert_eq!(variable(environment, "PMIX_RANK"), Some("2"));
        assert_eq!(variable(environment, "PMIX"), None);
        assert_eq!(variable(environment, "X"), Some(""));
    }

    #[test]
    fn a_process_that_is_another_program_or_stopped_is_told() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(state(Path::new("/proc/self"), Some(&own)), None);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = format!("/proc/{}", child.id());
        let told = || state(Path::new(&process), Some(&own));
        // Between fork and exec it still runs this program.
        while told().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(told().unwrap(), "sleep runs in its place");
        let id = child.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-s", "STOP", &id])
                .status()
                .unwrap()
                .success()
        );
        while told().unwrap() != "sleep is stopped" {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
