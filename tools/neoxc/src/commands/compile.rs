//! `neoxc compile`.

use std::path::Path;

use neoxc_driver::report::RankClass;
use neoxc_driver::{Compiled, Options};
use neoxc_frontend::Config;
use neoxc_ir::Module;
use neoxc_ir::diag::Sources;
use neoxc_ir::target::Target;
use neoxc_runtime::files::write_bytes;

use super::opt::{read_module, settings};
use super::{cluster, internal, load_with_sources, options};
use crate::cli::Compile;
use crate::{Failure, render};

/// Compiles, writes the plan, prints a summary (or JSON).
pub fn run(a: Compile) -> Result<(), Failure> {
    let output = a.output.clone().unwrap_or_else(|| "plan".into());
    // What cannot be written in the end is not worth compiling.
    if a.dump.as_ref().is_none_or(|dump| dump.starts_with("all=")) {
        neoxc_plan::may_replace(&output)?;
    }
    let from = a.from.as_deref().map(read_module).transpose()?;
    let (config, sources) = match &from {
        None => load_with_sources(&a.config)?,
        Some(module) => {
            (neoxc_driver::config(module).map_err(|e| internal(&e))?, Sources::default())
        }
    };
    let cluster = a.cluster.as_ref().map(|path| cluster::load(path, &config, sources.clone()));
    let cluster = cluster.transpose()?;
    let machine = cluster.as_ref().map(|c| c.cluster.machine(c.dtype));
    let usual = match (&a.from, &from) {
        (Some(file), Some(module)) => settings(file, module)?.target,
        _ => Target::X86Native,
    };
    let mut options = options(&a.target, usual, machine, true);
    if let Some(c) = &cluster
        && !options.targets.contains(&c.cluster.target)
    {
        options.targets.push(c.cluster.target);
    }
    let limit = cluster.as_ref().and_then(|c| c.cluster.memory);
    let compiled = compiled(&config, from.as_ref(), options, limit)?;
    render::report(&compiled.warnings, &sources);
    // A plan that does not fit is refused before anything is written.
    let classes = cluster.as_ref().map(|c| c.classes(&config, &compiled)).transpose()?;
    let on_cluster = cluster.as_ref().zip(classes.as_deref());
    let plan = &compiled.plan;
    if let Some(dump) = &a.dump {
        if let Some(folder) = dump.strip_prefix("all=") {
            write_all(plan, Path::new(folder))?;
        } else {
            let phase = super::dump::phase(dump)?;
            print!("{}", super::dump::text(plan, phase)?);
            return Ok(());
        }
    }
    plan.write(&output)?;
    if a.json {
        println!("{}", json(&compiled, on_cluster));
    } else {
        summary(&output, &compiled, on_cluster);
    }
    Ok(())
}

/// Compiles the configuration, or goes on from a module; once more without collectives beside compute if a rank takes more
/// than `limit` bytes with them.
fn compiled(
    config: &Config,
    from: Option<&Module>,
    mut options: Options,
    limit: Option<u64>,
) -> Result<Compiled, Failure> {
    let compile = |options: &Options| {
        let compiled = match from {
            None => neoxc_driver::compile(config, options),
            Some(module) => neoxc_driver::compile_from(module.clone(), options),
        };
        compiled.map_err(|e| internal(&e))
    };
    let first = compile(&options)?;
    if limit.is_none_or(|limit| first.plan.tables.memory.peak <= limit) {
        return Ok(first);
    }
    // Perhaps only because of what collectives on their way take.
    tracing::info!("does not fit; compiling again without collectives beside compute");
    options.overlap = false;
    compile(&options)
}

/// A cluster, and what each class of its ranks takes.
type OnCluster<'a> = Option<(&'a cluster::Checked, &'a [RankClass])>;

/// What the plan is, as one JSON object.
fn json(compiled: &Compiled, on_cluster: OnCluster<'_>) -> serde_json::Value {
    let (plan, t, k) = (&compiled.plan, &compiled.plan.tables, compiled.kernels);
    let phases: serde_json::Map<String, serde_json::Value> =
        compiled.phases_ms.iter().map(|(n, ms)| (n.clone(), (*ms).into())).collect();
    let mut object = serde_json::json!({
        "parameters": t.parameter_count,
        "world_size": plan.ranks(),
        "tokens_per_step": t.tokens_per_step,
        "flops_per_step": t.flops_per_step,
        "phases_ms": phases,
        "kernels": { "count": k.count, "distinct": k.distinct, "cached": k.cached },
        "memory": t.memory,
    });
    if let (Some((c, classes)), Some(o)) = (on_cluster, object.as_object_mut()) {
        o.insert("cluster".into(), c.json(classes, compiled.bubble));
    }
    object
}

/// Prints what the plan in `output` is: model, ranks, kernels, memory, and how long each phase took.
fn summary(output: &Path, compiled: &Compiled, on_cluster: OnCluster<'_>) {
    let (plan, t, k) = (&compiled.plan, &compiled.plan.tables, compiled.kernels);
    println!(
        "{}: {} parameters, {} tokens per step, {:.1} GFLOP per step",
        output.display(),
        t.parameter_count,
        t.tokens_per_step,
        t.flops_per_step / 1e9
    );
    if plan.ranks() > 1 {
        let several = t.mesh.iter().filter(|(_, size)| *size > 1);
        let axes: Vec<String> = several.map(|(n, size)| format!("{size} {n}")).collect();
        let (ranks, axes) = (plan.ranks(), axes.join(" × "));
        println!("ranks     {ranks} ({axes}); memory is that of a rank of the first stage");
    }
    let (distinct, launches, cached) = (k.distinct, k.count, k.cached);
    println!("kernels   {distinct} distinct, {launches} launches, {cached} from the cache");
    match on_cluster {
        Some((c, classes)) => c.print(classes, compiled.bubble),
        None => super::print_memory(&t.memory, ""),
    }
    let phases: Vec<String> =
        compiled.phases_ms.iter().map(|(n, ms)| format!("{n} {ms:.0}")).collect();
    let total: f64 = compiled.phases_ms.iter().map(|(_, ms)| ms).sum();
    println!("compiled in {total:.0} ms ({})", phases.join(", "));
}

fn write_all(plan: &neoxc_plan::Plan, folder: &Path) -> Result<(), Failure> {
    for (name, bytes) in plan.files.iter().filter(|(n, _)| n.starts_with("ir/")) {
        write_bytes(&folder.join(name.trim_start_matches("ir/")), bytes)?;
    }
    Ok(())
}
