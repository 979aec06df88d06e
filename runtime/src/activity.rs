//! What this process does with files, and since when: reading samples, a checkpoint's parts, bringing files to a disk.
//!
//! A call of the system that reads a file of a server which is gone waits without end, and signs of life go on. So whoever
//! begins such work notes it here, and says again and again that it goes on; the thread that watches the other ranks
//! ends the process if it does not.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// By number: what is done, and when it last went on.
type Doing = BTreeMap<u64, (String, Instant)>;

static DOING: Mutex<(u64, Doing)> = Mutex::new((0, BTreeMap::new()));

fn doing() -> MutexGuard<'static, (u64, Doing)> {
    DOING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work with a file that is under way until it is dropped.
#[derive(Debug)]
pub struct Activity(u64);

impl Activity {
    /// Notes that `what` begins: a phrase such as `reading d.bin`.
    pub fn begin(what: impl Into<String>) -> Activity {
        let mut all = doing();
        all.0 += 1;
        let number = all.0;
        all.1.insert(number, (what.into(), Instant::now()));
        Activity(number)
    }

    /// Notes that it goes on.
    pub fn moved(&self) {
        if let Some((_, since)) = doing().1.get_mut(&self.0) {
            *since = Instant::now();
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        doing().1.remove(&self.0);
    }
}

/// What has not gone on for longer than `most`.
pub fn overdue(most: Duration) -> Option<String> {
    let all = doing();
    all.1.values().find(|(_, since)| since.elapsed() > most).map(|(what, _)| what.clone())
}

/// After this process was stopped itself: nothing of it could go on.
pub fn forgive() {
    doing().1.values_mut().for_each(|(_, since)| *since = Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_go_on_is_named() {
        let most = Duration::from_millis(200);
        let (still, moving) = (Activity::begin("still"), Activity::begin("moving"));
        std::thread::sleep(most * 2);
        moving.moved();
        // Other tests have activities of their own.
        assert!(doing().1[&still.0].1.elapsed() > most && doing().1[&moving.0].1.elapsed() < most);
        assert!(overdue(most).is_some());
        drop(still);
        assert!(!doing().1.values().any(|(what, _)| what == "still"));
    }
}
