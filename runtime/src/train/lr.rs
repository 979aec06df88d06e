//! GPT-NeoX's learning rates, of its main branch in 2026. W = warmup · lr_decay_iters; step s uses
//! iteration n = s - 1. Up to W the rate is lr·max(1, n)/W, so steps 1 and 2 of a warm-up share a value as they do
//! upstream, but never above lr: a warm-up shorter than a step (a short run with the default `warmup` of 0.01) would begin
//! with lr/W there, 20 times lr for 5 steps; then, with E = lr_decay_iters - W and m = n - W:
//!
//! - linear: lr·(E - m)/E
//! - cosine: min_lr + (lr - min_lr)/2·(1 + cos(π·m/E))
//! - exponential: lr·exp(-0.693·m/E)
//! - constant: lr
//!
//! Two more are not in GPT-NeoX:
//!
//! - wsd (arXiv 2404.06395): lr until C = wsd_decay_ratio · lr_decay_iters steps are left, then with x from 0 to 1 over
//!   these min_lr + (lr - min_lr)·f(x), where f(x) is 1 - x, (1 + cos πx)/2 or 1 - √x (arXiv 2405.18392)
//! - inverse_sqrt (arXiv 1706.03762): lr·√(max(1, W)/max(1, n))
//!
//! and never below min_lr.

use neoxc_config::{Cooldown, Decay, LearningRate};

/// The learning rate of optimizer step `step` (from 1).
pub fn learning_rate(s: &LearningRate, step: u64) -> f64 {
    let warm = s.warmup * s.iters as f64;
    let n = step.saturating_sub(1) as f64;
    if warm > 0.0 && n <= warm {
        return s.lr * (n.max(1.0) / warm).min(1.0);
    }
    let end = s.iters as f64 - warm;
    // Past the end of the decay the rate stays where it arrived.
    let m = (n - warm).min(end);
    let lr = match s.style {
        Decay::Linear => s.lr * (end - m) / end,
        Decay::Cosine => {
            s.min_lr + (s.lr - s.min_lr) / 2.0 * (1.0 + (std::f64::consts::PI * m / end).cos())
        }
        Decay::Exponential => s.lr * (-0.693 * m / end).exp(),
        Decay::Constant => s.lr,
        Decay::Wsd => s.min_lr + (s.lr - s.min_lr) * cooled(s, n),
        Decay::InverseSqrt => s.lr * (warm.max(1.0) / (warm + m).max(1.0)).sqrt(),
    };
    lr.max(s.min_lr)
}

/// How much of the way from `min_lr` to the peak the rate has after `n` steps: all until the cooldown, nothing after it.
fn cooled(s: &LearningRate, n: f64) -> f64 {
    let end = s.iters as f64;
    let steps = s.cooldown * end;
    let begin = end - steps;
    if n <= begin || steps <= 0.0 {
        return 1.0;
    }
    let x = ((n - begin) / steps).min(1.0);
    match s.cooldown_style {
        Cooldown::Linear => 1.0 - x,
        Cooldown::Cosine => (1.0 + (std::f64::consts::PI * x).cos()) / 2.0,
        Cooldown::OneMinusSqrt => 1.0 - x.sqrt(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Worked out by hand from the formulas above.
    #[test]
    fn the_first_steps_have_upstream_s_rates() {
        let rates = |style: &str, warmup: f64| {
            let style = Decay::parse(style).unwrap();
            let (cooldown, cooldown_style) = (0.5, Cooldown::Linear);
            let s = LearningRate {
                lr: 1.0,
                min_lr: 0.0,
                style,
                iters: 4,
                warmup,
                cooldown,
                cooldown_style,
            };
            [1, 2, 3, 4, 5, 9].map(|step| (learning_rate(&s, step) * 1e4).round() / 1e4)
        };
        assert_eq!(rates("constant", 0.0), [1.0; 6]);
        assert_eq!(rates("linear", 0.0), [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
        assert_eq!(rates("cosine", 0.0), [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]);
        assert_eq!(rates("exponential", 0.0), [1.0, 0.8409, 0.7072, 0.5947, 0.5001, 0.5001]);
        assert_eq!(rates("linear", 0.5), [0.5, 0.5, 1.0, 0.5, 0.0, 0.0]);
        assert_eq!(rates("constant", 0.5), [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]);
        let thousandths = rates("inverse_sqrt", 0.5).map(|x| (x * 1e3).round());
        assert_eq!(thousandths, [500.0, 500.0, 1000.0, 817.0, 707.0, 707.0]);
        // A warm-up of less than a step.
        assert_eq!(rates("constant", 0.01), [1.0; 6]);
    }

    /// The formulas of arXiv 2404.06395 and 2405.18392, by hand: stable to step 9, then four steps of a cooldown.
    #[test]
    fn a_cooldown_falls_in_the_last_steps() {
        let rates = |style: &str| {
            let s = LearningRate {
                lr: 1.0,
                min_lr: 0.2,
                style: Decay::Wsd,
                iters: 12,
                warmup: 0.25,
                cooldown: 1.0 / 3.0,
                cooldown_style: Cooldown::parse(style).unwrap(),
            };
            [2, 4, 9, 10, 11, 12, 13, 99].map(|n| (learning_rate(&s, n) * 1e3).round() as u32)
        };
        assert_eq!(rates("linear"), [333, 1000, 1000, 800, 600, 400, 200, 200]);
        assert_eq!(rates("cosine"), [333, 1000, 1000, 883, 600, 317, 200, 200]);
        assert_eq!(rates("1-sqrt"), [333, 1000, 1000, 600, 434, 307, 200, 200]);
    }
}
