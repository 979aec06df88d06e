//! Clusters: what a rank runs on, and how ranks reach each other.
//!
//! Numbers are published peaks of one *rank* (one GPU, one die of an MI250X), in bytes, bytes per second
//! and operations per second; a bandwidth is that of one direction.

use std::collections::BTreeMap;

use crate::target::{Rates, Target};

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

    /// The peak in FLOP/s of matmuls of factors of `dtype`: that of f32 where the cluster does not say.
    pub fn peak(&self, dtype: &str) -> f64 {
        let peak = self.peak_flops.get(dtype).or(self.peak_flops.get("f32"));
        peak.copied().unwrap_or(self.target.rates().flops)
    }

    /// What the cost model knows of a rank that multiplies factors of `dtype`.
    pub fn machine(&self, dtype: &str) -> Machine {
        let usual = self.target.rates();
        let rates = Rates { flops: self.peak(dtype), memory_bytes: self.memory_bandwidth, ..usual };
        let (within, between) = (self.within, self.between);
        Machine { rates, ranks_per_node: self.ranks_per_node, within, between }
    }

    /// Ranks in all.
    pub fn ranks(&self) -> usize {
        self.ranks_per_node * self.nodes
    }
}

/// What the cost model knows of a rank: its rates, and its links to others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Rates of what runs the kernels.
    pub rates: Rates,
    /// Ranks of a node.
    pub ranks_per_node: usize,
    /// Between ranks of a node.
    pub within: Link,
    /// Between ranks of different nodes.
    pub between: Link,
}

impl Machine {
    /// One node of a target of which no cluster is known: ranks meet in memory that they share, where a
    /// reduction passes every byte about four times.
    pub const fn of(target: Target) -> Machine {
        let rates = target.rates();
        let link = Link { bandwidth: rates.memory_bytes / 4.0, latency: 5e-6 };
        Machine { rates, ranks_per_node: usize::MAX, within: link, between: link }
    }

    /// The link that `ranks` ranks meet over whose numbers lie `stride` apart.
    pub fn link(&self, stride: usize, ranks: usize) -> Link {
        match self.ranks_per_node == usize::MAX
            || self.ranks_per_node.is_multiple_of(stride * ranks)
        {
            true => self.within,
            false => self.between,
        }
    }

    /// Seconds that a kernel takes at least: launch, and arithmetic or memory, whichever is more.
    pub fn kernel_seconds(&self, flops: f64, bytes: f64) -> f64 {
        let busy = (flops / self.rates.flops).max(bytes / self.rates.memory_bytes);
        self.rates.launch_seconds + busy
    }
}

impl Link {
    /// Seconds until a rank has sent `bytes`.
    pub fn seconds(&self, bytes: f64) -> f64 {
        self.latency + bytes / self.bandwidth
    }
}
