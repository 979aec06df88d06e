//! Scheduled IR and compiled kernels → a plan.
