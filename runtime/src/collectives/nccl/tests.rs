//! NCCL's and RCCL's calls against a stand-in of the libraries that is compiled here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Barrier, Mutex};

use neoxc_plan::{Schedule, Tables};

use super::super::connect;
use super::super::testing::{collectives, on_all, plan, sends};
use super::*;
use crate::health::{How, Loss};

fn stand_in(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/collectives/nccl/stand_in.c");
    let library = folder.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread", "-o"]);
    assert!(cc.arg(&library).arg(source).args(flags).status().unwrap().success());
    library
}

fn api(vendor: Vendor, library: &Path) -> Result<Api, RuntimeError> {
    let name = [library.to_str().unwrap()];
    Api::open(vendor, [&name, &name])
}

/// Every rank's side, made at the same time.
fn sides(plan: &Plan, vendor: Vendor, library: &Path, health: &Arc<Health>) -> Vec<Nccl> {
    let ranks = plan.ranks() as usize;
    let (said, all) = (Mutex::new(vec![vec![]; ranks]), Barrier::new(ranks));
    on_all((0..ranks as u64).collect(), |rank, _| {
        let share = |bytes: &[u8]| {
            said.lock().unwrap()[rank as usize] = bytes.to_vec();
            all.wait();
            Ok(said.lock().unwrap().clone())
        };
        let (api, compute) = (api(vendor, library).unwrap(), std::ptr::null_mut());
        Nccl::new(api, plan, rank, compute, health.clone(), &share).unwrap()
    })
}

#[test]
fn both_vendors_give_the_same_bits_as_threads() {
    let folder = tempfile::tempdir().unwrap();
    let library = stand_in(folder.path(), "libstand.so", &[]);
    let plan = plan("tensor");
    let threads = on_all(connect(&plan), |rank, side| collectives(rank, side));
    for vendor in [Vendor::Nvidia, Vendor::Amd] {
        let sides = sides(&plan, vendor, &library, &Arc::default());
        assert!(on_all(sides, |rank, side| collectives(rank, side)) == threads, "{vendor:?}");
    }
}

#[test]
fn sends_come_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let library = stand_in(folder.path(), "libstand.so", &[]);
    let mut plan = plan("pipe");
    // Two chunks a stage, and so two channels.
    let slots = vec![vec![2, 2]; 3];
    let schedule = Schedule { slots, ..Default::default() };
    plan.tables =
        Tables { schedules: [("train_step".to_string(), schedule)].into(), ..plan.tables };
    let sides = sides(&plan, Vendor::Nvidia, &library, &Arc::default());
    on_all(sides, |rank, side| sends(rank, side));
}

#[test]
fn what_is_missing_or_fails_has_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let told = |r: Result<Api, RuntimeError>| r.err().unwrap().to_string();
    let none = told(Api::open(Vendor::Nvidia, [&["libnone.so.2", "libnone.so"], &["x"]]));
    assert!(none.starts_with("cannot open libnone.so.2 or libnone.so; "), "{none}");
    let less = stand_in(folder.path(), "libless.so", &["-DWITHOUT_SEND"]);
    let less = told(api(Vendor::Amd, &less));
    assert!(less.ends_with("libless.so has no ncclSend"), "{less}");
    let fails = stand_in(folder.path(), "libfails.so", &["-DFAILS"]);
    let sides = sides(&plan("tensor"), Vendor::Nvidia, &fails, &Arc::default());
    let mut x = [1f32; 6];
    let [axis, at] = [1, 6];
    // SAFETY: the value is this thread's; the call fails.
    let failed = unsafe {
        sides[0].collective(
            axis,
            Collective::AllReduce,
            [1, at, 1, 1, 1],
            x.as_mut_ptr(),
            x.as_mut_ptr(),
        )
    };
    assert_eq!(failed.unwrap_err().to_string(), "ncclAllReduce: internal error (code 3)");
}

#[test]
fn a_lost_rank_ends_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let library = stand_in(folder.path(), "libstand.so", &[]);
    let health = Arc::new(Health::default());
    let sides = sides(&plan("tensor"), Vendor::Nvidia, &library, &health);
    health.lose(Loss { rank: 2, how: How::Gone });
    let mut x = [1f32; 6];
    // SAFETY: the value is this thread's, and lives until the side is dropped.
    let lost = unsafe {
        sides[0].collective(
            1,
            Collective::AllReduce,
            [1, 6, 1, 1, 1],
            x.as_mut_ptr(),
            x.as_mut_ptr(),
        )
    };
    let told = lost.unwrap_err().to_string();
    assert!(told.starts_with("rank 2 is gone") && told.contains("for ranks 1, 2"), "{told}");
    drop(sides);
}
