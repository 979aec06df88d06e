//! GPT-NeoX's learning rates. Warm-up is linear over `warmup · lr_decay_iters` iterations; step s
//! uses iteration max(1, s - 1), so steps 1 and 2 share a value as they do upstream; decay runs over
//! `lr_decay_iters` counted from the end of the warm-up.

use super::settings::Settings;

/// The learning rate of optimizer step `step` (from 1).
pub fn learning_rate(s: &Settings, step: u64) -> f64 {
    let end = s.lr_decay_iters as f64;
    let warm = s.warmup * end;
    let now = (step.saturating_sub(1)).max(1) as f64;
    let n = now.min(end - warm);
    if warm > 0.0 && now <= warm {
        return s.lr * n / warm;
    }
    let n = n - warm;
    let lr = match s.lr_decay_style.as_str() {
        "linear" => s.lr * (end - n) / end,
        "cosine" => s.lr / 2.0 * ((std::f64::consts::PI * n / end).cos() + 1.0),
        "exponential" => s.lr * (-0.693 * n / end).exp(),
        _ => s.lr,
    };
    lr.max(s.min_lr)
}
