//! Clusters: what a rank runs on, and how ranks reach each other.
//!
//! Numbers are published peaks of one *rank* (one GPU, one die of an MI250X), in bytes, bytes per second
//! and operations per second; a bandwidth is that of one direction.

use std::collections::BTreeMap;

use crate::target::Target;

/// A way from one rank to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Bytes per second and rank, one direction.
    pub bandwidth: f64,
    /// Seconds until the first byte arrives.
    pub latency: f64,
}

/// A cluster of equal nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// The accelerator's name.
    pub accelerator: String,
    /// What its kernels are compiled for.
    pub target: Target,
    /// Memory that a rank's plan may take, bytes; none if only the machine itself knows.
    pub memory: Option<u64>,
    /// Bytes per second of that memory.
    pub memory_bandwidth: f64,
    /// Operations per second by dtype.
    pub peak_flops: BTreeMap<String, f64>,
    /// Ranks of a node.
    pub ranks_per_node: usize,
    /// Nodes.
    pub nodes: usize,
    /// Between ranks of a node.
    pub within: Link,
    /// Between ranks of different nodes.
    pub between: Link,
}

/// Which link a group of ranks meets over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// All of them are on one node.
    Within,
    /// Some of them are on different nodes.
    Between,
}

impl Cluster {
    /// The link that `ranks` ranks meet over whose numbers lie `stride` apart.
    pub fn reach(&self, stride: usize, ranks: usize) -> Reach {
        let span = stride * ranks;
        match self.ranks_per_node.is_multiple_of(span) {
            true => Reach::Within,
            false => Reach::Between,
        }
    }

    /// Ranks in all.
    pub fn ranks(&self) -> usize {
        self.ranks_per_node * self.nodes
    }
}
