//! The runtime executes plans. It knows nothing of the compiler and needs no LLVM.
//!
//! | module | what it does |
//! |---|---|
//! | [`device`] | memory, threads and kernels of one machine |
//! | [`ranks`], [`collectives`] | several ranks in one process; what ranks ask of each other |
//! | [`job`], [`heartbeat`], [`health`] | ranks as processes of `mpirun`, and whether they are all there |
//! | [`train`] | start values, learning rates, the training loop |
//! | [`data`] | Megatron's `.bin` and `.idx` files, the order of samples, data sets |
//! | [`checkpoint`] | parameters and optimizer state by logical name |
//! | [`text`], [`generate`] | tokenizers and preprocessing; samples from a trained model |
//! | [`profile`], [`progress`] | where a step's time goes; what a person sees of a run |
//! | [`mod@say`] | the one place that prints |
//! | [`command`] | what `neoxc run` and `neoxc-run` do |
//! | [`error`] | an error of the runtime as a diagnostic |
//!
//! # Example
//! A collective between two ranks that are threads. A rank starts it, computes something else, and waits. Sums have the order of the
//! ranks, so that they repeat to the bit.
//!
//! ```
//! use neoxc_plan::{Collective, Plan, Program, parse_program};
//! use neoxc_runtime::collectives::{Collectives, connect, sizes};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut plan = Plan::default();
//! plan.tables.mesh = vec![("tensor".into(), 2)];
//! let text = "start all_reduce tensor 1 4 1 arena+0 arena+0 @0\nwait 0\n";
//! let body = parse_program(text, &["arena".into()], &[])?;
//! plan.programs.push(Program { body, ..Program::default() });
//!
//! std::thread::scope(|threads| {
//!     for (rank, side) in connect(&plan).into_iter().enumerate() {
//!         threads.spawn(move || {
//!             let mut x = [1.0, 2.0, 3.0, 4.0].map(|v: f32| v * (rank as f32 + 1.0));
//!             let at = x.as_mut_ptr();
//!             // SAFETY: `x` is left alone until the wait returns, and both ranks do the same.
//!             unsafe {
//!                 let ticket = side.start(0, Collective::AllReduce, sizes(&[1, 4, 1]), at, at);
//!                 side.wait(0, ticket.expect("the ranks are threads")).expect("both ranks come");
//!             }
//!             assert_eq!(x, [3.0, 6.0, 9.0, 12.0]);
//!         });
//!     }
//! });
//! # Ok(())
//! # }
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(any(feature = "mpi", test))]
mod absent;
mod activity;
mod backoff;
pub mod checkpoint;
pub mod collectives;
pub mod command;
pub mod data;
#[cfg(any(feature = "mpi", test))]
mod deadline;
pub mod device;
pub mod error;
pub mod files;
pub mod generate;
pub mod greeting;
pub mod health;
pub mod heartbeat;
pub mod job;
pub mod profile;
pub mod progress;
pub mod ranks;
pub mod say;
pub mod signals;
pub mod text;
pub mod train;

pub use error::RuntimeError;
