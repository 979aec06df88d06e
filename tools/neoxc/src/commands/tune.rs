//! `neoxc tune`.

use neoxc_base::codes::command_line::incomplete;
use neoxc_base::codes::io::io;
use neoxc_base::codes::plan::plan as refused;
use neoxc_driver::{Phase, tune};
use neoxc_ir::target::Target;
use neoxc_plan::Plan;
use neoxc_runtime::profile::{Version, in_turn};

use super::{internal, kernel_cache, threads, told};
use crate::Failure;
use crate::cli::Tune;

/// Times every version so often.
const ROUNDS: usize = 9;
/// The model's choice stays unless another is this much faster: less is noise.
const MARGIN: f64 = 0.98;

/// Measures near ties of a plan's matmuls and keeps the fastest.
pub fn run(a: &Tune) -> Result<(), Failure> {
    let plan = Plan::open_to_run(&a.plan, a.trust_plan)?;
    if plan.tables.target != Target::X86Native.name() {
        let what = format!("the plan is for {}, not for this machine", plan.tables.target);
        let hint = format!("compile it with `--target {}`", Target::X86Native.name());
        return Err(told(&refused(&what, &hint)));
    }
    neoxc_runtime::device::check_processor(&plan)?;
    let cache = kernel_cache(a.cache.clone()).ok_or_else(|| {
        let hint = "give --cache DIR, or set NEOXC_CACHE or HOME";
        told(&incomplete("there is no folder for what is measured", hint))
    })?;
    let m = super::dump::module(&plan, Phase::Scheduled)?;
    let failed = |e: neoxc_driver::CodegenError| internal(&e.into());
    let matmuls = tune::matmuls(&m).map_err(failed)?;
    let (count, mut changed, mut rows) = (matmuls.len(), 0, vec![]);
    for (f, ties) in matmuls {
        let tie = tune::compile(&m, f, ties).map_err(failed)?;
        let versions: Vec<Version> = tie
            .versions
            .iter()
            .map(|(symbol, tasks, scratch)| Version {
                symbol: symbol.clone(),
                tasks: *tasks,
                scratch: *scratch,
            })
            .collect();
        let seconds = in_turn(&tie.library, &versions, &tie.buffers, threads(a.threads), ROUNDS)?;
        let ratios: Vec<f64> = seconds.iter().map(|s| median_ratio(s, &seconds[0])).collect();
        let fastest = (0..ratios.len()).min_by(|x, y| ratios[*x].total_cmp(&ratios[*y]));
        let best = fastest.filter(|i| ratios[*i] < MARGIN).unwrap_or(0);
        tune::keep(&cache, &tie.key, tie.cuts[best]).map_err(|e| {
            let hint = "what is measured is kept there: give another folder (`--cache`)";
            told(&io("write", &cache.display(), &e, hint))
        })?;
        changed += usize::from(best != 0);
        let (model, chosen) = (tie.cuts[0], tie.cuts[best]);
        if a.json {
            rows.push(serde_json::json!({
                "kernel": tie.kernel, "matmul": tie.key, "measured": ratios.len(), "time_of_model": ratios[best],
                "model": [model.rows, model.columns], "chosen": [chosen.rows, chosen.columns],
            }));
        } else {
            let cut = |c: &neoxc_driver::Cut| format!("{} x {}", c.rows, c.columns);
            let (model, chosen) = (cut(&model), cut(&chosen));
            let of_model = 100.0 * ratios[best];
            println!(
                "{:<12} tasks of {model:<12} -> {chosen:<12} {of_model:5.1} % of the time, of {} measured",
                tie.kernel,
                ratios.len()
            );
        }
    }
    if a.json {
        println!("{}", serde_json::json!({ "matmuls": rows, "changed": changed }));
    } else {
        println!(
            "{count} matmuls measured, {changed} have other tasks from now on: compile the plan again"
        );
    }
    Ok(())
}

/// The median over rounds of a version's time divided by the first one's in the same round.
fn median_ratio(seconds: &[f64], first: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = seconds.iter().zip(first).map(|(s, f)| s / f).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_round_counts_for_both() {
        assert_eq!(median_ratio(&[1.0, 50.0, 1.2], &[2.0, 100.0, 2.0]), 0.5);
        assert_eq!(median_ratio(&[3.0, 1.0, 9.0], &[3.0, 1.0, 9.0]), 1.0);
    }
}
