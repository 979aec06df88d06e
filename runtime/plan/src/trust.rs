//! Whether a plan is this user's to run. A plan is code: whoever can write to its files decides what the process that runs
//! it does.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Plan, PlanError};

/// Who runs a plan.
struct User {
    uid: u32,
    gid: u32,
}

/// Who else may write to what has this owner and mode, if anybody.
fn other_writer(m: &Metadata, me: &User) -> Option<String> {
    let mode = m.mode();
    if m.uid() != me.uid && m.uid() != 0 {
        return Some(format!("belongs to user {}", m.uid()));
    }
    if mode & 0o002 != 0 {
        return Some("may be written by everybody".into());
    }
    // A umask of 002 lets each user's own group write, which has nobody else in it.
    (mode & 0o020 != 0 && m.gid() != me.gid).then(|| format!("may be written by group {}", m.gid()))
}

fn check(path: &Path, me: &User) -> Result<(), PlanError> {
    let io = |source| PlanError::Io { action: "read", path: path.to_path_buf(), source };
    let m = fs::metadata(path).map_err(io)?;
    if let Some(why) = other_writer(&m, me) {
        return Err(PlanError::Untrusted(path.to_path_buf(), why));
    }
    if m.is_dir() {
        for entry in fs::read_dir(path).map_err(io)? {
            check(&entry.map_err(io)?.path(), me)?;
        }
    }
    Ok(())
}

impl Plan {
    /// Opens the plan in `folder` to run it.
    ///
    /// # Errors
    /// As [`Plan::open`]; or, unless it is `trusted` all the same, somebody else may write to the folder or to a file in it:
    /// [`PlanError::Untrusted`].
    pub fn open_to_run(folder: &Path, trusted: bool) -> Result<Plan, PlanError> {
        // What is not there is told as such by the opening.
        if !trusted && folder.exists() {
            // SAFETY: the calls only read what the process is.
            let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
            check(folder, &User { uid, gid })?;
        }
        Plan::open(folder)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::testing::sample;

    #[test]
    fn a_plan_that_others_may_write_is_run_only_if_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("plan");
        sample().write(&at).unwrap();
        assert!(Plan::open_to_run(&at, false).is_ok());
        for name in ["", "plan.json", "kernels", "kernels/x.so"] {
            let path = at.join(name);
            let mode = |bits| fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            mode(0o777);
            let told = Plan::open_to_run(&at, false).unwrap_err().to_string();
            assert!(told.contains("may be written by everybody"), "{name}: {told}");
            assert!(Plan::open_to_run(&at, true).is_ok());
            mode(0o755);
        }
        assert!(Plan::open_to_run(&at, false).is_ok());
        let m = fs::metadata(&at).unwrap();
        let as_user = |uid, gid| other_writer(&m, &User { uid, gid });
        if m.uid() != 0 {
            assert!(as_user(m.uid() + 1, m.gid()).unwrap().contains("belongs to user"));
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(0o775)).unwrap();
        let m = fs::metadata(&at).unwrap();
        let as_user = |uid, gid| other_writer(&m, &User { uid, gid });
        assert_eq!(as_user(m.uid(), m.gid()), None);
        assert!(as_user(m.uid(), m.gid() + 1).unwrap().contains("may be written by group"));
    }
}
