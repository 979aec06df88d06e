//! The processes that run one plan together, a rank each: started by `mpirun`, or by what stands in for it.
//!
//! A process that was started alone has all ranks as threads, and no job.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use neoxc_plan::Plan;
use sha2::{Digest, Sha256};

use crate::RuntimeError;
use crate::collectives::Collectives;
#[cfg(feature = "mpi")]
use crate::deadline::Deadline;
use crate::heartbeat::Heartbeat;

/// Seconds of silence after which a rank counts as lost, and that the start of a job may take, if nothing else was asked
/// for.
pub const TIMEOUT: u64 = 60;

/// Collectives of a plan, and words outside of it.
pub trait Others: Collectives {
    /// What every rank of the plan says, by rank; all must call it. For few bytes, outside programs.
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, RuntimeError>;
}

/// This process's place among those that run the plan.
pub struct Job {
    /// Its rank.
    pub rank: u64,
    /// Ranks on this host, this one too.
    pub here: Vec<u64>,
    /// How many processes have the same cores as this one.
    pub sharing: usize,
    /// Longest that ranks wait for what does not go on.
    pub timeout: Duration,
    others: Arc<dyn Others>,
    // Dropped without `leave`, it tells the others that this rank has failed.
    heartbeat: Heartbeat,
    #[cfg(feature = "mpi")]
    world: crate::collectives::World,
    /// Longest that the job's end may take.
    #[cfg(feature = "mpi")]
    patience: Duration,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of a job", self.rank)
    }
}

/// The rank that MPI has told this process, once it has; none if there is no other.
static TOLD: OnceLock<Option<u64>> = OnceLock::new();

/// The rank that the starter of processes gave this one, if there is one: OpenMPI's, PMIx's or PMI's word.
/// Known before anything is opened, so that every message can carry it. What MPI itself says counts for more: such a
/// variable may be left over from another launcher.
pub fn started_as() -> Option<u64> {
    if let Some(rank) = TOLD.get() {
        return *rank;
    }
    let names = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"];
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Whether this process is the one of its job that speaks to people: rank 0's, or the only one.
pub fn leads() -> bool {
    started_as().unwrap_or(0) == 0
}

/// How long ranks that have nothing new to say wait for rank 0 to say it, before their end ends it too.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// What to print of an error, if anything: a rank of a job says which it is, and what all ranks know is
/// said by one of them.
pub fn told(e: &RuntimeError) -> String {
    match started_as() {
        Some(rank) if rank > 0 && e.is_everybodys() => {
            std::thread::sleep(PATIENCE);
            String::new()
        }
        Some(rank) if !e.is_everybodys() => format!("rank {rank}: {}", e.message()),
        _ => e.message(),
    }
}

/// The number that these bytes are, the lowest first.
fn number_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Ends a job together with all others, once nothing else of this process uses it.
pub fn leave(job: Option<Arc<Job>>) -> Result<(), RuntimeError> {
    job.and_then(Arc::into_inner).map_or(Ok(()), Job::leave)
}

impl Job {
    /// How many threads a process has: what was `asked` for, or its share of the cores.
    pub fn threads(job: Option<&Job>, asked: Option<usize>) -> usize {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = (all / job.map_or(1, |j| j.sharing)).max(1);
        asked.filter(|n| *n > 0).unwrap_or(share)
    }

    /// The collectives of this rank.
    pub fn collectives(&self) -> Arc<dyn Collectives> {
        self.others.clone()
    }

    /// What every rank says, by rank.
    pub fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, RuntimeError> {
        self.others.all_gather(bytes)
    }

    /// The largest of the ranks' numbers.
    pub fn largest(&self, number: u64) -> Result<u64, RuntimeError> {
        let all = self.all_gather(&number.to_le_bytes())?;
        Ok(all.iter().map(|b| number_of(b)).max().unwrap_or(0))
    }

    /// What rank 0 says.
    pub fn first(&self, number: u64) -> Result<u64, RuntimeError> {
        let all = self.all_gather(&number.to_le_bytes())?;
        Ok(number_of(&all[0]))
    }

    /// Refuses to go on where ranks differ in one of these; the first rank that differs from rank 0, and in
    /// what, is named.
    pub fn agree(&self, keys: &[(&str, String)]) -> Result<(), RuntimeError> {
        let hashes = keys.iter().flat_map(|(_, value)| Sha256::digest(value.as_bytes()));
        let all = self.all_gather(&hashes.collect::<Vec<u8>>())?;
        for (rank, theirs) in all.iter().enumerate() {
            let pairs = all[0].chunks(32).zip(theirs.chunks(32)).zip(keys);
            for ((a, b), (key, _)) in pairs {
                if a != b {
                    let what = format!("rank {rank} has another {key} than rank 0");
                    return Err(RuntimeError::Job(what));
                }
            }
        }
        Ok(())
    }

    /// Ends together with all others.
    pub fn leave(self) -> Result<(), RuntimeError> {
        self.all_gather(&[])?;
        #[cfg(feature = "mpi")]
        {
            // A rank that is lost by now is noticed by its silence, and whatever else may keep MPI by this.
            let _in_time = Deadline::start("the end of the job", self.patience)?;
            drop(self.others);
            self.world.leave();
        }
        self.heartbeat.leave();
        Ok(())
    }

    /// Joins the job, if this process was started as a part of one.
    #[cfg(not(feature = "mpi"))]
    pub fn join(_plan: &Plan, _within: [Duration; 2]) -> Result<Option<Job>, RuntimeError> {
        match started_as() {
            None => Ok(None),
            Some(_) => Err(RuntimeError::Job(
                "mpirun has started this program, but it was built without MPI (cargo feature `mpi`)"
                    .into(),
            )),
        }
    }

    /// Joins the job, if this process was started as a part of one. Another rank counts as lost when it was
    /// silent for `timeout`; until the ranks watch each other, and while they leave MPI, this one waits for
    /// `patience`.
    #[cfg(feature = "mpi")]
    pub fn join(
        plan: &Plan,
        [timeout, patience]: [Duration; 2],
    ) -> Result<Option<Job>, RuntimeError> {
        use crate::collectives::{Messages, World};
        use crate::health::Health;
        use crate::heartbeat::{Address, Lobby, addresses, launchers_secret};

        if started_as().is_none() {
            return Ok(None);
        }
        // A rank that is lost before it can be watched is not waited for without end.
        let in_time = Deadline::start("the start of the job", patience)?;
        let world = World::join()?;
        let (rank, ranks) = (world.rank, world.ranks);
        let left_over = ranks == 1 && std::env::var_os("OMPI_COMM_WORLD_SIZE").is_none();
        let _ = TOLD.set((!left_over).then_some(rank));
        if left_over {
            // Nobody has started others: the variable is left over, and this is a run of threads.
            world.leave();
            return Ok(None);
        }
        if ranks != plan.ranks() {
            let plan = plan.ranks();
            let what = format!("the plan is for {plan} ranks, but there are {ranks} processes");
            return Err(RuntimeError::Job(what));
        }
        let named = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let interfaces = if_addrs::get_if_addrs().map_err(|e| {
            RuntimeError::Link(format!("cannot learn the addresses of this host: {e}"))
        })?;
        let interfaces: Vec<_> = interfaces.iter().map(|i| (i.name.clone(), i.ip())).collect();
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let alone = number("OMPI_COMM_WORLD_LOCAL_SIZE") == Some(ranks);
        // What OpenMPI was told is the job's network.
        let include = std::env::var("OMPI_MCA_btl_tcp_if_include").ok();
        let addresses = addresses(&interfaces, include.as_deref(), alone);
        let given = launchers_secret()?;
        let lobby = Lobby::open(named.trim().to_string(), &addresses)?;
        let said = serde_json::to_vec(&(&lobby.address, cores()))
            .map_err(|e| RuntimeError::Link(format!("address: {e}")))?;
        let all: Vec<(Address, String)> = world
            .all_gather(&said)
            .iter()
            .map(|bytes| serde_json::from_slice(bytes))
            .collect::<Result<_, _>>()
            .map_err(|e| RuntimeError::Link(format!("a rank says what is no address: {e}")))?;
        let (addresses, cores): (Vec<Address>, Vec<String>) = all.into_iter().unzip();
        let me = rank as usize;
        let here: Vec<u64> =
            (0..ranks).filter(|r| addresses[*r as usize].host == addresses[me].host).collect();
        let sharing = here.iter().filter(|r| cores[**r as usize] == cores[me]).count();
        let peers = lobby.meet(rank, &peers(plan, rank), &addresses, &given)?;
        let health = Arc::new(Health::default());
        let heartbeat = Heartbeat::start(rank, peers, timeout, health.clone())?;
        let others = Arc::new(Messages::new(plan, rank, world.wire(), health)?);
        drop(in_time);
        Ok(Some(Job { rank, here, sharing, timeout, others, heartbeat, world, patience }))
    }
}

/// The cores that this process may use, as the system lists them.
#[cfg(feature = "mpi")]
fn cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    line.unwrap_or_default().trim().to_string()
}

/// The ranks that one watches: rank 0, whom all watch, and those that it makes collectives with.
#[cfg(any(feature = "mpi", test))]
fn peers(plan: &Plan, rank: u64) -> Vec<u64> {
    let axes = plan.tables.mesh.iter().map(|(axis, _)| axis.as_str()).chain([neoxc_plan::ENDS]);
    let mut peers: Vec<u64> = axes.flat_map(|axis| plan.group(axis, rank)).collect();
    if rank == 0 {
        peers = (0..plan.ranks()).collect();
    }
    peers.push(0);
    peers.sort_unstable();
    peers.dedup();
    peers.retain(|r| *r != rank);
    peers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_ranks_both_watch_each_other_or_none() {
        let mut plan = Plan::default();
        plan.tables.mesh = vec![("pipe".into(), 3), ("data".into(), 2), ("tensor".into(), 2)];
        assert_eq!(peers(&plan, 0), (1..12).collect::<Vec<_>>());
        assert_eq!(peers(&plan, 5), [0, 1, 4, 7, 9]);
        for a in 0..12 {
            for b in peers(&plan, a) {
                assert!(peers(&plan, b).contains(&a), "{a} {b}");
            }
        }
    }
}
