//! Whether a plan is this user's to run. A plan is code: whoever can write to its files decides what the process that runs
//! it does.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

/// Whether a file or folder has a list of users and groups beside its mode. (Where it has, the mode's bits of the group
/// are the most that the list grants anybody.)
fn has_list(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    let name = c"system.posix_acl_access";
    // SAFETY: both are C strings that live until the call returns, and no buffer is written to.
    let size = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    size > 0
}

/// Refuses what somebody else may write to.
fn look_at(path: &Path, m: &Metadata, me: &User) -> Result<(), PlanError> {
    let listed = || m.mode() & 0o020 != 0 && has_list(path);
    let list = || "may be written by those whom its access control list names".to_string();
    match other_writer(m, me).or_else(|| listed().then(list)) {
        Some(why) => Err(PlanError::Untrusted(path.to_path_buf(), why)),
        None => Ok(()),
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> PlanError {
    let path = path.to_path_buf();
    move |source| PlanError::Io { action: "read", path, source }
}

/// Looks at a plan's folder and all that is in it.
fn check(path: &Path, me: &User) -> Result<(), PlanError> {
    let m = fs::metadata(path).map_err(io(path))?;
    look_at(path, &m, me)?;
    if m.is_dir() {
        for entry in fs::read_dir(path).map_err(io(path))? {
            check(&entry.map_err(io(path))?.path(), me)?;
        }
    }
    Ok(())
}

/// Links on the way to a plan that are followed.
const LINKS: usize = 40;

/// Looks at the folders on the way to `plan`, through links: who may rename in one of them can put another plan in its place.
/// In a sticky folder (`/tmp`) only the owners of what lies there can.
fn check_way(plan: &Path, me: &User) -> Result<(), PlanError> {
    let whole = std::path::absolute(plan).map_err(io(plan))?;
    let steps = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|c| c.as_os_str().to_owned()).collect()
    };
    let (mut at, mut ahead, mut links) = (PathBuf::from("/"), steps(&whole), 0);
    while let Some(name) = ahead.pop() {
        let m = fs::metadata(&at).map_err(io(&at))?;
        let is_sticky = m.mode() & 0o1000 != 0 && (m.uid() == me.uid || m.uid() == 0);
        if !is_sticky {
            look_at(&at, &m, me)?;
        }
        let next = at.join(&name);
        let m = fs::symlink_metadata(&next).map_err(io(&next))?;
        if !m.is_symlink() {
            at = next;
            continue;
        }
        if m.uid() != me.uid && m.uid() != 0 {
            let why = format!("is a link that belongs to user {}", m.uid());
            return Err(PlanError::Untrusted(next, why));
        }
        links += 1;
        if links > LINKS {
            return Err(io(plan)(std::io::Error::from_raw_os_error(libc::ELOOP)));
        }
        ahead.extend(steps(&fs::read_link(&next).map_err(io(&next))?));
    }
    Ok(())
}

impl Plan {
    /// Opens the plan in `folder` to run it.
    ///
    /// # Errors
    /// As [`Plan::open`]; or, unless it is `trusted` all the same, somebody else may write to the folder, to a file in it,
    /// or to a folder on the way there: [`PlanError::Untrusted`].
    pub fn open_to_run(folder: &Path, trusted: bool) -> Result<Plan, PlanError> {
        // What is not there is told as such by the opening.
        if !trusted && folder.exists() {
            // SAFETY: the calls only read what the process is.
            let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
            let me = User { uid, gid };
            check_way(folder, &me)?;
            check(folder, &me)?;
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

    #[test]
    fn the_folders_on_the_way_to_a_plan_are_looked_at_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("way/near")).unwrap();
        fs::create_dir(at("other")).unwrap();
        sample().write(&at("way/near/plan")).unwrap();
        std::os::unix::fs::symlink("../way/near", at("other/link")).unwrap();
        std::os::unix::fs::symlink(at("other/link/plan"), at("plan")).unwrap();
        let mode = |name: &str, bits| {
            fs::set_permissions(at(name), fs::Permissions::from_mode(bits)).unwrap();
        };
        assert!(Plan::open_to_run(&at("plan"), false).is_ok());
        for name in ["way", "way/near", "other"] {
            mode(name, 0o777);
            let told = Plan::open_to_run(&at("plan"), false).unwrap_err().to_string();
            assert!(told.contains(&format!("/{name}: may be written by everybody")), "{told}");
            assert!(Plan::open_to_run(&at("plan"), true).is_ok());
            // Others cannot rename what is not theirs there.
            mode(name, 0o1777);
            assert!(Plan::open_to_run(&at("plan"), false).is_ok());
            mode(name, 0o755);
        }
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        assert!(check_way(&at("circle"), &User { uid: 0, gid: 0 }).is_err());
    }

    /// An access control list with one user beside the owner, in the system's own bytes: who, what, whose.
    #[test]
    fn a_list_that_lets_somebody_write_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("plan");
        sample().write(&at).unwrap();
        let file = at.join("plan.json");
        let list = |rights: u16| -> Vec<u8> {
            let none = u32::MAX;
            let entries: [(u16, u16, u32); 5] =
                [(1, 6, none), (2, rights, 12345), (4, 4, none), (16, rights, none), (32, 4, none)];
            let entry = |(tag, bits, id): (u16, u16, u32)| {
                [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
            };
            [2u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
        };
        let set = |bytes: Vec<u8>| {
            let path = std::ffi::CString::new(file.as_os_str().as_bytes()).unwrap();
            let name = c"system.posix_acl_access";
            // SAFETY: C strings and bytes that live until the call returns.
            let done = unsafe {
                libc::setxattr(path.as_ptr(), name.as_ptr(), bytes.as_ptr().cast(), bytes.len(), 0)
            };
            done == 0
        };
        if !set(list(4)) {
            eprintln!("skipped: {} has no access control lists", folder.path().display());
            return;
        }
        assert!(Plan::open_to_run(&at, false).is_ok(), "who may only read does no harm");
        assert!(set(list(6)));
        let told = Plan::open_to_run(&at, false).unwrap_err().to_string();
        assert!(told.contains("whom its access control list names"), "{told}");
    }
}
