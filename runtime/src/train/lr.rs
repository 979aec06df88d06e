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
//! and never below min_lr.

use neoxc_config::{Decay, LearningRate};

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
    };
    lr.max(s.min_lr)
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
            let s = LearningRate { lr: 1.0, min_lr: 0.0, style, iters: 4, warmup };
            [1, 2, 3, 4, 5, 9].map(|step| (learning_rate(&s, step) * 1e4).round() / 1e4)
        };
        assert_eq!(rates("constant", 0.0), [1.0; 6]);
        assert_eq!(rates("linear", 0.0), [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
        assert_eq!(rates("cosine", 0.0), [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]);
        assert_eq!(rates("exponential", 0.0), [1.0, 0.8409, 0.7072, 0.5947, 0.5001, 0.5001]);
        assert_eq!(rates("linear", 0.5), [0.5, 0.5, 1.0, 0.5, 0.0, 0.0]);
        assert_eq!(rates("constant", 0.5), [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]);
        // A warm-up of less than a step.
        assert_eq!(rates("constant", 0.01), [1.0; 6]);
    }
}
