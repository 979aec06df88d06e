//! The loss scale from step to step, and which steps count: GPT-NeoX's two rules for fp16, of its main branch in 2026
//! with DeepSpeed 0.16.
//!
//! A step with a gradient that is not finite is *skipped*: it changes no weights and no optimizer state, and the
//! schedule of the learning rate does not move; its data is consumed. The program of a step computes with the scale that
//! it is given and leaves the weights alone after an overflow; what follows from that for the next step is decided
//! here, on every rank alike, because the learning rate, which is made here too, depends on it.

use neoxc_config::LossScaling;
use serde::{Deserialize, Serialize};

/// So many skipped steps in a row end a run.
pub const MOST_IN_A_ROW: u64 = 50;

/// What a checkpoint keeps of the loss scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScaleState {
    /// The scale of the next step.
    pub scale: f64,
    /// Steps from the last overflow to the next step, or from the start.
    pub since_overflow: u64,
    /// Overflows until one halves the scale.
    pub patience: u64,
    /// Steps that were skipped.
    pub skipped: u64,
    /// Of these, the ones since the last step that counted.
    pub in_a_row: u64,
    /// Steps that counted before the optimizer's state began, where it is not that of the whole run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub before_state: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Why a run cannot go on after an overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The scale is at its minimum.
    AtMinimum,
    /// [`MOST_IN_A_ROW`] steps were skipped.
    InARow,
}

/// The loss scale of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaler {
    rule: Option<LossScaling>,
    state: ScaleState,
}

impl Scaler {
    /// That of a run's first step; always 1 without a rule.
    pub fn new(rule: Option<LossScaling>) -> Scaler {
        let (scale, patience) = match rule {
            None => (1.0, 1),
            Some(LossScaling::Fixed(scale)) => (scale, 1),
            Some(LossScaling::Dynamic(d)) => (d.initial, d.patience()),
        };
        let state = ScaleState {
            scale,
            since_overflow: 1,
            patience,
            skipped: 0,
            in_a_row: 0,
            before_state: 0,
        };
        Scaler { rule, state }
    }

    /// Goes on where another run was. What is not decided by overflows stays as this run's configuration says.
    pub fn resume(&mut self, saved: ScaleState) {
        self.state.skipped = saved.skipped;
        self.state.in_a_row = saved.in_a_row;
        self.state.before_state = saved.before_state;
        if let Some(LossScaling::Dynamic(d)) = self.rule {
            let patience = saved.patience.clamp(1, d.patience());
            self.state = ScaleState { patience, ..saved };
        }
    }

    /// Goes on behind step `step` of another run with fresh state of the optimizer: the schedule goes on, and what
    /// corrects young moments begins anew, as does the loss scale.
    pub fn begin_anew(&mut self, step: u64, saved: Option<ScaleState>) {
        self.state.skipped = saved.map_or(0, |s| s.skipped);
        self.state.before_state = step.saturating_sub(self.state.skipped);
    }

    /// What a checkpoint keeps; nothing of a run whose steps all count.
    pub fn state(&self) -> Option<ScaleState> {
        let s = &self.state;
        (self.rule.is_some() || s.skipped > 0 || s.before_state > 0).then_some(*s)
    }

    /// Whether overflows are to be expected.
    pub fn scales(&self) -> bool {
        self.rule.is_some()
    }

    /// What the loss of the next step is multiplied by.
    pub fn scale(&self) -> f64 {
        self.state.scale
    }

    /// Steps that were skipped.
    pub fn skipped(&self) -> u64 {
        self.state.skipped
    }

    /// Step `step`'s number among those that count.
    pub fn counted(&self, step: u64) -> u64 {
        step.saturating_sub(self.state.skipped).max(1)
    }

    /// Its number among those that the optimizer's state has seen, from which the corrections of its moments follow.
    pub fn corrected(&self, step: u64) -> u64 {
        self.counted(step).saturating_sub(self.state.before_state).max(1)
    }

    /// Takes note of a step that counted.
    pub fn good(&mut self) {
        let s = &mut self.state;
        s.in_a_row = 0;
        let Some(LossScaling::Dynamic(d)) = self.rule else { return };
        let is_whole = |steps: u64| steps.is_multiple_of(d.window);
        let rises = match d.hysteresis {
            None => s.since_overflow > 1 && is_whole(s.since_overflow - 1),
            Some(_) => is_whole(s.since_overflow),
        };
        if rises {
            s.scale *= 2.0;
        }
        if d.hysteresis.is_some_and(|h| h.consecutive || rises) {
            s.patience = d.patience();
        }
        s.since_overflow += 1;
    }

    /// Takes note of a step that was skipped.
    ///
    /// # Errors
    /// The scale cannot fall, or too many steps were skipped.
    pub fn overflow(&mut self) -> Result<(), Exhausted> {
        let s = &mut self.state;
        s.skipped += 1;
        s.in_a_row += 1;
        if let Some(LossScaling::Dynamic(d)) = self.rule {
            s.since_overflow = 1;
            if s.patience > 1 {
                s.patience -= 1;
            } else if d.hysteresis.is_some() && s.scale == d.minimum {
                return Err(Exhausted::AtMinimum);
            } else {
                s.scale = (s.scale / 2.0).max(d.minimum);
            }
        }
        if s.in_a_row >= MOST_IN_A_ROW { Err(Exhausted::InARow) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neoxc_config::{DynamicScaling, Hysteresis};

    /// The two rules of `fp16` in the words of DeepSpeed's counters: iterations in absolute numbers, the last overflow
    /// at -1 before there was one.
    struct Reference {
        rule: DynamicScaling,
        scale: f64,
        iteration: i64,
        last_overflow: i64,
        hysteresis: i64,
    }

    impl Reference {
        /// The scale after a step; none where DeepSpeed raises.
        fn step(&mut self, overflow: bool) -> Option<f64> {
            let (window, least) = (self.rule.window as i64, self.rule.minimum);
            let shift = self.rule.hysteresis.map_or(0, |h| h.overflows as i64);
            let distance = self.iteration - self.last_overflow;
            match (self.rule.hysteresis, overflow) {
                (None, true) => {
                    self.scale = f64::max(self.scale / 2.0, least);
                    self.last_overflow = self.iteration;
                }
                (None, false) => {
                    let stable = distance - 1;
                    if stable > 0 && stable % window == 0 {
                        self.scale *= 2.0;
                    }
                }
                (Some(_), true) => {
                    if shift == 1 || self.hysteresis == 1 {
                        if self.scale == least {
                            return None;
                        }
                        self.scale = f64::max(self.scale / 2.0, least);
                    } else {
                        self.hysteresis -= 1;
                    }
                    self.last_overflow = self.iteration;
                }
                (Some(h), false) => {
                    if h.consecutive {
                        self.hysteresis = shift;
                    }
                    if distance % window == 0 {
                        if !h.consecutive {
                            self.hysteresis = shift;
                        }
                        self.scale *= 2.0;
                    }
                }
            }
            self.iteration += 1;
            Some(self.scale)
        }
    }

    fn rules() -> Vec<DynamicScaling> {
        let mut all = vec![];
        for (window, minimum) in [(1, 1.0), (2, 0.25), (3, 1.0), (7, 128.0)] {
            let mut kinds = vec![None];
            for overflows in 1..=3 {
                let both = [false, true];
                kinds.extend(both.map(|consecutive| Some(Hysteresis { overflows, consecutive })));
            }
            for hysteresis in kinds {
                all.push(DynamicScaling { initial: 1024.0, window, minimum, hysteresis });
            }
        }
        all
    }

    /// 560 patterns of 200 steps: rare overflows, frequent ones, and phases of both.
    #[test]
    fn scales_are_those_of_deepspeeds_counters() {
        let (mut ends, mut rises, mut falls) = (0, 0, 0);
        for (n, rule) in rules().into_iter().enumerate() {
            for pattern in 0..20u64 {
                let mut r = pattern * 977 + n as u64 + 1;
                let mut ours = Scaler::new(Some(LossScaling::Dynamic(rule)));
                let hysteresis = rule.hysteresis.map_or(0, |h| h.overflows as i64);
                let (scale, last_overflow) = (rule.initial, -1);
                let mut theirs = Reference { rule, scale, iteration: 0, last_overflow, hysteresis };
                for step in 0..200u64 {
                    r = r.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let rate = if pattern.is_multiple_of(3) && step / 20 % 2 == 0 {
                        90
                    } else {
                        4 * pattern
                    };
                    let overflow = (r >> 33) % 100 < rate;
                    let before = ours.scale();
                    let want = theirs.step(overflow);
                    let got = match overflow {
                        true => ours.overflow(),
                        false => {
                            ours.good();
                            Ok(())
                        }
                    };
                    if got == Err(Exhausted::InARow) {
                        break;
                    }
                    assert_eq!(got.ok().map(|()| ours.scale()), want, "{rule:?} {pattern} {step}");
                    rises += u32::from(ours.scale() > before);
                    falls += u32::from(ours.scale() < before);
                    if want.is_none() {
                        ends += 1;
                        break;
                    }
                    // A checkpoint at any step changes nothing.
                    let mut resumed = Scaler::new(Some(LossScaling::Dynamic(rule)));
                    resumed.resume(ours.state().unwrap());
                    assert_eq!(resumed, ours);
                }
            }
        }
        assert!(ends > 50 && rises > 1000 && falls > 1000, "{ends} {rises} {falls}");
    }

    #[test]
    fn skipped_steps_do_not_count_and_fifty_in_a_row_end_a_run() {
        let mut s = Scaler::new(Some(LossScaling::Fixed(8.0)));
        assert_eq!(s.counted(1), 1);
        assert_eq!(s.overflow(), Ok(()));
        assert_eq!((s.counted(2), s.scale(), s.skipped()), (1, 8.0, 1));
        s.good();
        assert_eq!(s.counted(3), 2);
        for _ in 1..MOST_IN_A_ROW {
            assert_eq!(s.overflow(), Ok(()));
        }
        assert_eq!(s.overflow(), Err(Exhausted::InARow));
    }

    #[test]
    fn a_run_without_scaling_goes_on_where_one_with_it_left_the_schedule() {
        let mut s = Scaler::new(None);
        assert_eq!((s.scale(), s.state(), s.counted(9)), (1.0, None, 9));
        let saved = ScaleState {
            scale: 64.0,
            since_overflow: 4,
            patience: 1,
            skipped: 3,
            in_a_row: 0,
            before_state: 0,
        };
        s.resume(saved);
        assert_eq!((s.scale(), s.counted(9)), (1.0, 6));
        // A fixed scale is the configuration's, too.
        let mut s = Scaler::new(Some(LossScaling::Fixed(8.0)));
        s.resume(saved);
        assert_eq!((s.scale(), s.skipped()), (8.0, 3));
        s.good();
        assert!(s.state().is_some_and(|s| s.skipped == 3));
        // With fresh state the schedule goes on at step 10, and corrections begin at 1; so they do when that is resumed.
        let mut s = Scaler::new(None);
        s.begin_anew(9, Some(saved));
        assert_eq!((s.counted(10), s.corrected(10), s.corrected(12)), (7, 1, 3));
        let mut again = Scaler::new(None);
        again.resume(s.state().expect("steps do not all count"));
        assert_eq!((again.counted(12), again.corrected(12)), (9, 3));
    }
}
