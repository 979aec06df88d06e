//! `neoxc compile --cluster`: what a plan asks of a cluster, and whether it fits.

use std::path::Path;

use neoxc_base::codes::does_not_fit;
use neoxc_base::diag::{Sources, Span};
use neoxc_driver::Compiled;
use neoxc_driver::report::{RankClass, classes};
use neoxc_frontend::Config;
use neoxc_frontend::cluster::{LoadedCluster, load_cluster};
use neoxc_ir::cluster::Cluster;

use crate::{Failure, render};
use neoxc_runtime::progress::human;

/// A cluster with what is needed to complain about it.
pub struct Checked {
    /// The cluster.
    pub cluster: Cluster,
    /// What the configuration multiplies.
    pub dtype: &'static str,
    loaded: LoadedCluster,
    sources: Sources,
}

/// Reads a cluster file and sees whether it has the configuration's ranks.
pub fn load(path: &Path, config: &Config, mut sources: Sources) -> Result<Checked, Failure> {
    let loaded = load_cluster(path, &mut sources);
    render::report(&loaded.diagnostics, &sources);
    let cluster = loaded.cluster.clone().ok_or_else(|| Failure::told(3))?;
    let dtype = config.model.precision.name();
    let checked = Checked { cluster, dtype, loaded, sources };
    let p = &config.parallel;
    let (wanted, there) = (p.ranks(), checked.cluster.ranks());
    if wanted > there {
        let c = &checked.cluster;
        let message =
            format!("the configuration wants {wanted} ranks, and the cluster has {there}");
        let text = format!("{} nodes of {} ranks", c.nodes, c.ranks_per_node);
        return checked.refuse(config, &message, "nodes", &text, "world_size", "fewer ranks");
    }
    Ok(checked)
}

impl Checked {
    /// Refuses with a label in the cluster file and one in the configuration.
    fn refuse<T>(
        &self,
        config: &Config,
        message: &str,
        key: &str,
        text: &str,
        other: &str,
        hint: &str,
    ) -> Result<T, Failure> {
        let mut places = vec![];
        if let Some(span) = self.loaded.places.get(key) {
            places.push((span.clone(), text.to_string()));
        }
        if let Some((file, line, column)) = config.places.get(other) {
            let file = file.as_str().into();
            let span = Span { file, line: *line, column: *column, length: other.len() as u32 };
            places.push((span, format!("`{other}`")));
        }
        let d = does_not_fit::does_not_fit(message, &places, hint);
        render::report(&[d], &self.sources);
        Err(Failure::told(3))
    }

    /// What each class of ranks needs; refuses a plan that takes more memory than a rank has.
    pub fn classes(&self, config: &Config, c: &Compiled) -> Result<Vec<RankClass>, Failure> {
        let m = c.plan.tables.memory;
        if let Some(limit) = self.cluster.memory.filter(|limit| m.peak > *limit) {
            let message = format!(
                "a rank needs {} ({} bytes), {} over what it has",
                human(m.peak),
                m.peak,
                human(m.peak - limit)
            );
            let text = format!("{} are left for the plan", human(limit));
            let most = [
                (m.activations + m.workspace, "train_micro_batch_size_per_gpu"),
                (m.optimizer, "zero_optimization"),
                (m.parameters + m.gradients, "model_parallel_size"),
            ];
            let (_, key) = most.into_iter().max().unwrap_or_default();
            let p = config.parallel;
            let hint = match key {
                "zero_optimization" if p.data > 1 && p.zero_stage == 0 => {
                    "most of it is optimizer state: ZeRO stage 1, or more ranks"
                }
                "zero_optimization" => {
                    "most of it is optimizer state: a larger model_parallel_size or \
                     pipe_parallel_size, or data ranks and ZeRO"
                }
                "model_parallel_size" => {
                    "most of it is weights and gradients: a larger model_parallel_size or \
                     pipe_parallel_size"
                }
                _ => "most of it is activations: a smaller micro-batch, checkpoint_activations",
            };
            return self.refuse(config, &message, "memory_gib", &text, key, hint);
        }
        Ok(classes(c, &self.cluster, self.dtype))
    }

    /// Prints the classes.
    pub fn print(&self, classes: &[RankClass], bubble: f64) {
        let c = &self.cluster;
        println!("cluster   {} × {} on {} nodes", c.ranks(), c.accelerator, c.nodes);
        println!(
            "bubble    {:.1} % of a step, if backward takes twice as long as forward",
            100.0 * bubble
        );
        for class in classes {
            let (first, last) = class.stages;
            let stages = match first == last {
                true => format!("stage {first}"),
                false => format!("stages {first}–{last}"),
            };
            println!("{stages}: {} ranks", class.ranks);
            super::print_memory(&class.memory, "  ");
            let least = class.flops / c.peak(self.dtype);
            println!(
                "  {:<12}{:>9.1} GFLOP  {least:.3} s at the {} peak, {:.3} s by kernels' rooflines",
                "compute",
                class.flops / 1e9,
                self.dtype,
                class.seconds
            );
            for t in &class.traffic {
                // What of the sends between stages others wait for is in the bubble.
                let hidden = match t.axis.as_str() {
                    "pipe" => String::new(),
                    _ => {
                        let part = 100.0 * t.hidden / t.seconds.max(f64::MIN_POSITIVE);
                        format!(", {part:.0} % of it hidden")
                    }
                };
                println!(
                    "  {:<12}{:>12}  {} collectives over {} ranks, {} nodes, {:.3} s on the link{hidden}",
                    t.axis,
                    human(t.bytes),
                    t.collectives,
                    t.ranks,
                    t.link,
                    t.seconds
                );
            }
        }
    }

    /// For `--json`.
    pub fn json(&self, classes: &[RankClass], bubble: f64) -> serde_json::Value {
        serde_json::json!({
            "accelerator": self.cluster.accelerator,
            "nodes": self.cluster.nodes,
            "ranks_per_node": self.cluster.ranks_per_node,
            "bubble": bubble,
            "rank_classes": classes,
        })
    }
}
