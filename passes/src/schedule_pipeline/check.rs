//! Proof that a schedule ends, whatever the timing, and that no slot is reused too early.
//!
//! Each stage makes its steps in a fixed order and waits only to receive, or to send when all slots of
//! what it sends are still unread. What a stage does next never depends on who was faster, so that all
//! timings end in the same state: it is enough to run one of them.

use super::{Schedule, Step};

/// Why a schedule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Stages wait for each other.
    #[error("no stage can go on: {}", waiting(.0))]
    Deadlock(Vec<(usize, Step, usize)>),
    /// A step comes too early, too late, or on the wrong stage.
    #[error("stage {stage}: `{}` of micro-batch {micro} {what}", step.name())]
    Order {
        /// The stage.
        stage: usize,
        /// The step.
        step: Step,
        /// Its micro-batch.
        micro: usize,
        /// What is wrong.
        what: String,
    },
}

fn waiting(list: &[(usize, Step, usize)]) -> String {
    let one = |(stage, step, micro): &(usize, Step, usize)| {
        format!("stage {stage} waits at `{}` of micro-batch {micro}", step.name())
    };
    list.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// How often a stage made each step.
type Made = [usize; Step::ALL.len()];

/// Checks a training schedule.
pub fn check(s: &Schedule) -> Result<(), Fault> {
    let stages = s.stages.len();
    let mut made: Vec<Made> = vec![[0; Step::ALL.len()]; stages];
    let steps: Vec<Vec<(Step, usize)>> = (0..stages).map(|n| s.steps(n)).collect();
    let mut at = vec![0; stages];
    let mut moved = true;
    while moved {
        moved = false;
        for stage in 0..stages {
            while let Some((step, micro)) = steps[stage].get(at[stage]).copied() {
                let fault = |what: &str| Fault::Order { stage, step, micro, what: what.into() };
                allowed(s, stage, step, micro, &made[stage]).map_err(|what| fault(&what))?;
                // A send is seen when it begins, and ends when the slot that the next one will need has
                // been read.
                if matches!(step, Step::SendY | Step::SendDx) && made[stage][step as usize] == micro
                {
                    made[stage][step as usize] += 1;
                    moved = true;
                }
                let made_by = |stage: usize, step: Step| made[stage][step as usize];
                let ready = match step {
                    Step::ReceiveX => made_by(stage - 1, Step::SendY) > micro,
                    Step::ReceiveDy => made_by(stage + 1, Step::SendDx) > micro,
                    Step::SendY => made_by(stage + 1, Step::ReceiveX) + s.slots[stage] >= micro + 2,
                    Step::SendDx => {
                        made_by(stage - 1, Step::ReceiveDy) + s.slots[stage] >= micro + 2
                    }
                    _ => true,
                };
                if !ready {
                    break;
                }
                if !matches!(step, Step::SendY | Step::SendDx) {
                    made[stage][step as usize] += 1;
                }
                at[stage] += 1;
                moved = true;
            }
        }
    }
    let stuck: Vec<(usize, Step, usize)> = (0..stages)
        .filter_map(|n| steps[n].get(at[n]).map(|(step, micro)| (n, *step, *micro)))
        .collect();
    if !stuck.is_empty() {
        return Err(Fault::Deadlock(stuck));
    }
    for (stage, made) in made.iter().enumerate() {
        for step in Step::ALL.into_iter().filter(|step| belongs(*step, stage, stages)) {
            let want = match step {
                _ if once(step) => 1,
                Step::Weights if !s.split => 0,
                _ => s.micro,
            };
            if made[step as usize] != want {
                let what = format!("is made {} times, not {want}", made[step as usize]);
                return Err(Fault::Order { stage, step, micro: 0, what });
            }
        }
    }
    Ok(())
}

fn once(step: Step) -> bool {
    matches!(step, Step::Start | Step::Finish)
}

/// Whether a stage makes such steps at all.
fn belongs(step: Step, stage: usize, stages: usize) -> bool {
    match step {
        Step::Enter | Step::Leave => stage == 0,
        Step::ReceiveX | Step::SendDx => stage > 0,
        Step::SendY | Step::ReceiveDy => stage + 1 < stages,
        Step::Head => stage + 1 == stages,
        _ => true,
    }
}

/// The steps that end a micro-batch on a stage.
fn ends(s: &Schedule, first: bool) -> &'static [Step] {
    match (first, s.split) {
        (true, false) => &[Step::Leave],
        (false, false) => &[Step::SendDx],
        (true, true) => &[Step::Leave, Step::Weights],
        (false, true) => &[Step::SendDx, Step::Weights],
    }
}

/// Whether the stage may make the step now, by what it made itself.
fn allowed(
    s: &Schedule,
    stage: usize,
    step: Step,
    micro: usize,
    made: &Made,
) -> Result<(), String> {
    let stages = s.stages.len();
    if !belongs(step, stage, stages) {
        return Err("does not belong to this stage".into());
    }
    let (first, last) = (stage == 0, stage + 1 == stages);
    if once(step) && micro > 0 || micro >= s.micro {
        return Err("is one too many".into());
    }
    let after = |needed: Step| match made[needed as usize] > micro {
        true => Ok(()),
        false => Err(format!("comes before `{}`", needed.name())),
    };
    if step != Step::Start && made[Step::Start as usize] == 0 {
        return Err("comes before `start`".into());
    }
    if made[Step::Finish as usize] > 0 {
        return Err("comes after `finish`".into());
    }
    match step {
        Step::Enter | Step::ReceiveX => {
            // The last ones to use the slot before.
            for end in ends(s, first) {
                if micro >= s.slots[stage] && made[*end as usize] + s.slots[stage] <= micro {
                    return Err(format!(
                        "overwrites a slot before `{}` is done with it",
                        end.name()
                    ));
                }
            }
            Ok(())
        }
        Step::Forward => after(if first { Step::Enter } else { Step::ReceiveX }),
        Step::SendY | Step::Head => after(Step::Forward),
        Step::ReceiveDy => after(Step::SendY),
        Step::Backward => after(if last { Step::Head } else { Step::ReceiveDy }),
        Step::SendDx | Step::Leave | Step::Weights => after(Step::Backward),
        Step::Finish => match ends(s, first).iter().all(|end| made[*end as usize] == s.micro) {
            true => Ok(()),
            false => Err("comes before the last micro-batch is done".into()),
        },
        Step::Start => Ok(()),
    }
}
