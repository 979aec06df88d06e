//! GPT-NeoX's learning rates, of its main branch in 2026. W = warmup · lr_decay_iters; step s uses
//! iteration n = max(1, s - 1), so steps 1 and 2 share a value as they do upstream. Up to W the rate is
//! lr·n/W; then, with E = lr_decay_iters - W and m = n - W:
//!
//! - linear: lr·(E - m)/E
//! - cosine: min_lr + (lr - min_lr)/2·(1 + cos(π·m/E))
//! - exponential: lr·exp(-0.693·m/E)
//! - constant: lr
//!
//! and never below min_lr.

use super::settings::Settings;

/// The learning rate of optimizer step `step` (from 1).
pub fn learning_rate(s: &Settings, step: u64) -> f64 {
    let warm = s.warmup * s.lr_decay_iters as f64;
    let n = step.saturating_sub(1).max(1) as f64;
    if warm > 0.0 && n <= warm {
        return s.lr * n / warm;
    }
    let end = s.lr_decay_iters as f64 - warm;
    // Past the end of the decay the rate stays where it arrived.
    let m = (n - warm).min(end);
    let lr = match s.lr_decay_style.as_str() {
        "linear" => s.lr * (end - m) / end,
        "cosine" => {
            s.min_lr + (s.lr - s.min_lr) / 2.0 * (1.0 + (std::f64::consts::PI * m / end).cos())
        }
        "exponential" => s.lr * (-0.693 * m / end).exp(),
        _ => s.lr,
    };
    lr.max(s.min_lr)
}
