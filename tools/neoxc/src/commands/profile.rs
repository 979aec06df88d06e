//! `neoxc profile`.

use neoxc_base::codes::internal_error::internal_error;
use neoxc_plan::Plan;
use neoxc_runtime::profile::{Options, Profile, profile};

use super::{threads, told};
use crate::Failure;
use crate::cli::Profile as Args;

/// Measures a plan's kernels on this machine.
pub fn run(a: &Args) -> Result<(), Failure> {
    let plan = Plan::open_to_run(&a.plan, a.trust_plan)?;
    let options = Options {
        steps: a.steps.into(),
        tokens: a.tokens.map(u64::from),
        threads: threads(a.threads),
        trace: a.trace.clone(),
    };
    let p = profile(&plan, &options)?;
    if a.json {
        let text = serde_json::to_string_pretty(&p)
            .map_err(|e| told(&internal_error(&e.to_string(), &[], None)))?;
        println!("{text}");
    } else {
        match a.tokens {
            None => print_step(&plan, &p),
            Some(_) => print_token(&p),
        }
        print_rows(&p, a.top);
    }
    if let Some(path) = &a.trace {
        eprintln!("the last step is in {}", path.display());
    }
    Ok(())
}

fn print_step(plan: &Plan, p: &Profile) {
    let tokens = plan.tables.tokens_per_step as f64 / p.step_ms * 1e3;
    println!(
        "step {:.1} ms, {tokens:.0} tokens/s, {:.0} % of the limits",
        p.step_ms,
        100.0 * p.of_limit
    );
}

/// A token reads every weight once, so that memory sets the limit.
fn print_token(p: &Profile) {
    let limit = p.limits.read_bytes / p.matmul_bytes;
    let tokens = 1e3 / p.step_ms;
    println!(
        "a token {:.3} ms, {tokens:.0} tokens/s, {:.0} % of the {limit:.0} that reading {:.1} MB of weights allows",
        p.step_ms,
        100.0 * tokens / limit,
        1e-6 * p.matmul_bytes
    );
}

fn print_rows(p: &Profile, top: usize) {
    println!(
        "limits measured here: {:.0} GFLOP/s f32, {:.0} bf16, {:.0} GB/s of changes in place, {:.0} of reading",
        1e-9 * p.limits.f32_flops,
        1e-9 * p.limits.bf16_flops,
        1e-9 * p.limits.memory_bytes,
        1e-9 * p.limits.read_bytes
    );
    println!(
        "{:>9} {:>6} {:>8} {:>8} {:>7} {:>6}  kernel",
        "ms", "share", "launches", "GFLOP/s", "GB/s", "limit"
    );
    let shown = if top == 0 { p.rows.len() } else { top.min(p.rows.len()) };
    for r in &p.rows[..shown] {
        let share = format!("{:.1} %", 100.0 * r.share);
        let (limit, at) = match r.family.as_str() {
            "collective" => (String::new(), format!("collectives and waiting: {}", r.name)),
            _ => (format!("{:.0} %", 100.0 * r.of_limit), format!("{} at {}", r.name, r.line)),
        };
        println!(
            "{:>9.3} {share:>6} {:>8.0} {:>8.1} {:>7.1} {limit:>6}  {at}",
            r.ms, r.launches, r.gflops, r.gbytes
        );
    }
    let more: f64 = p.rows[shown..].iter().map(|r| r.ms).sum();
    if shown < p.rows.len() {
        println!("{more:>9.3}  {} more (--top 0 shows all)", p.rows.len() - shown);
    }
    println!("{:>9.3}  between kernels", p.other_ms);
}
