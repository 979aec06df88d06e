//! The start of a job: what a stranger may say to a process that waits to be called, and to one that calls.

use arbitrary::{Result, Unstructured};
use neoxc_runtime::greeting::{Caller, Heard, Pair, Reply, Secret};

use crate::{Target, wreck};

/// Talks to both sides of a greeting.
pub struct GreetingTarget {
    secret: Secret,
}

const HOSTS: [&str; 3] = ["a", "b", "c"];
const PAIR: Pair = Pair { caller: (2, "c"), heard: (1, "b") };

impl GreetingTarget {
    /// Both sides know the same secret.
    pub fn new() -> Self {
        Self { secret: Secret::of(&[b"secret"]) }
    }

    fn attempt(&self, u: &mut Unstructured) -> Result<bool> {
        let expected = |rank: u64| rank == 2;
        let mut heard = Heard::new(u.arbitrary()?);
        let caller = Caller::new(&self.secret, PAIR, u.arbitrary()?);
        let good = caller.hello();
        let mut hello = good.clone();
        if u.ratio(2, 3)? {
            wreck::bytes(u, &mut hello)?;
            hello.resize(heard.wants(), 0);
        }
        let answer = match heard.reply(&hello, &self.secret, 1, &HOSTS, &expected) {
            Reply::Say(answer) => answer,
            Reply::Take(_) => panic!("nobody is taken at the first word"),
            Reply::Refuse => {
                assert_ne!(hello, good);
                return Ok(false);
            }
        };
        assert_eq!(hello, good, "it proves nothing");
        let mut said = answer.clone();
        if u.ratio(1, 4)? {
            wreck::bytes(u, &mut said)?;
        }
        let Some(last) = caller.last(&said) else {
            assert_ne!(said, answer);
            return Ok(false);
        };
        assert_eq!(said, answer, "it proves nothing");
        let mut end = last.to_vec();
        if u.ratio(1, 4)? {
            wreck::bytes(u, &mut end)?;
        }
        let taken = heard.reply(&end, &self.secret, 1, &HOSTS, &expected);
        assert_eq!(taken == Reply::Take(2), end == last);
        Ok(end == last)
    }
}

impl Default for GreetingTarget {
    fn default() -> Self {
        Self::new()
    }
}

impl Target for GreetingTarget {
    fn run(&self, choices: &[u8]) -> bool {
        self.attempt(&mut Unstructured::new(choices)).unwrap_or(false)
    }
}
