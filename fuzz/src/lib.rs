//! Hostile files and strangers: configurations, plans, checkpoints, data sets and greetings that were damaged or made up, from a string of bytes that
//! decides what is done to them. Whatever it says, a reader gives an error or something that makes sense; it does
//! not panic, hang, or believe sizes.
//!
//! `tests/tests/fuzz.rs` feeds random bytes; `src/bin` has libFuzzer choose them by coverage.

mod checkpoint;
mod data;
mod greeting;
mod plan;
mod wreck;
mod yaml;

pub use checkpoint::CheckpointTarget;
pub use data::DataTarget;
pub use greeting::GreetingTarget;
pub use plan::PlanTarget;
pub use yaml::YamlTarget;

/// Something that reads files.
pub trait Target {
    /// Reads what `choices` make of valid files. Gives whether it was accepted.
    ///
    /// # Panics
    /// If what was accepted makes no sense: a bug.
    fn run(&self, choices: &[u8]) -> bool;
}
