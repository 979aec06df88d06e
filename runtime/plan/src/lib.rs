//! The plan: a versioned artifact.
