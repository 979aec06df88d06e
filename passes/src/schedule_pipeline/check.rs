//! Proof that a schedule ends, whatever the timing, and that no slot is reused too early.
//!
//! Each stage makes its steps in a fixed order and waits only to receive, or to send when all slots of
//! what it sends are still unread. What a stage does next never depends on who was faster, so that all
//! timings end in the same state: it is enough to run one of them. Every chunk of a stage's layers has
//! slots of its own and hands its values on by themselves, so that it counts by itself.

use super::{Schedule, Step, Turn};

/// Why a schedule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Stages wait for each other.
    #[error("no stage can go on: {}", waiting(.0))]
    Deadlock(Vec<(usize, Turn, usize)>),
    /// A step comes too early, too late, or on the wrong stage.
    #[error("stage {stage}: `{turn}` of micro-batch {micro} {what}")]
    Order {
        /// The stage.
        stage: usize,
        /// The step, and the chunk it is for.
        turn: Turn,
        /// Its micro-batch.
        micro: usize,
        /// What is wrong.
        what: String,
    },
}

fn waiting(list: &[(usize, Turn, usize)]) -> String {
    let one = |(stage, turn, micro): &(usize, Turn, usize)| {
        format!("stage {stage} waits at `{turn}` of micro-batch {micro}")
    };
    list.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// How often a chunk of a stage made each step.
type Made = [usize; Step::ALL.len()];

/// Checks a training schedule.
pub fn check(s: &Schedule) -> Result<(), Fault> {
    let (stages, chunks) = (s.stages.len(), s.chunks());
    let mut made: Vec<Vec<Made>> = vec![vec![[0; Step::ALL.len()]; chunks]; stages];
    let steps: Vec<Vec<(Turn, usize)>> = (0..stages).map(|n| s.steps(n)).collect();
    let mut at = vec![0; stages];
    let mut moved = true;
    while moved {
        moved = false;
        for stage in 0..stages {
            while let Some((turn, micro)) = steps[stage].get(at[stage]).copied() {
                let Turn { step, chunk } = turn;
                allowed(s, stage, turn, micro, &made[stage]).map_err(|what| Fault::Order {
                    stage,
                    turn,
                    micro,
                    what,
                })?;
                // A send is seen when it begins, and ends when the slot that the next one will need has
                // been read.
                let own = &mut made[stage][chunk][step as usize];
                if matches!(step, Step::SendY | Step::SendDx) && *own == micro {
                    *own += 1;
                    moved = true;
                }
                let made_by = |other: Option<(usize, usize)>, step: Step| {
                    other.map_or(0, |(stage, chunk)| made[stage][chunk][step as usize])
                };
                let (before, behind) = (s.before(stage, chunk), s.behind(stage, chunk));
                let slots = s.slots[stage][chunk];
                let ready = match step {
                    Step::ReceiveX => made_by(before, Step::SendY) > micro,
                    Step::ReceiveDy => made_by(behind, Step::SendDx) > micro,
                    Step::SendY => made_by(behind, Step::ReceiveX) + slots >= micro + 2,
                    Step::SendDx => made_by(before, Step::ReceiveDy) + slots >= micro + 2,
                    _ => true,
                };
                if !ready {
                    break;
                }
                if !matches!(step, Step::SendY | Step::SendDx) {
                    made[stage][chunk][step as usize] += 1;
                }
                at[stage] += 1;
                moved = true;
            }
        }
    }
    let stuck: Vec<(usize, Turn, usize)> = (0..stages)
        .filter_map(|n| steps[n].get(at[n]).map(|(turn, micro)| (n, *turn, *micro)))
        .collect();
    if !stuck.is_empty() {
        return Err(Fault::Deadlock(stuck));
    }
    for (stage, made) in made.iter().enumerate() {
        for (chunk, made) in made.iter().enumerate() {
            for step in Step::ALL.into_iter().filter(|step| belongs(s, *step, stage, chunk)) {
                let want = match step {
                    _ if once(step) => 1,
                    Step::Weights if !s.split => 0,
                    _ => s.micro,
                };
                if made[step as usize] != want {
                    let what = format!("is made {} times, not {want}", made[step as usize]);
                    let turn = Turn { step, chunk };
                    return Err(Fault::Order { stage, turn, micro: 0, what });
                }
            }
        }
    }
    Ok(())
}

fn once(step: Step) -> bool {
    matches!(step, Step::Start | Step::Finish)
}

/// Whether a stage makes such steps for a chunk at all.
fn belongs(s: &Schedule, step: Step, stage: usize, chunk: usize) -> bool {
    let first = s.before(stage, chunk).is_none();
    let last = s.behind(stage, chunk).is_none();
    match step {
        Step::Start | Step::Finish => chunk == 0,
        Step::Enter | Step::Leave => first,
        Step::ReceiveX | Step::SendDx => !first,
        Step::SendY | Step::ReceiveDy => !last,
        Step::Head => last,
        _ => true,
    }
}

/// The steps that end a micro-batch on a chunk.
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
    Turn { step, chunk }: Turn,
    micro: usize,
    all: &[Made],
) -> Result<(), String> {
    let Some(made) = all.get(chunk).filter(|_| belongs(s, step, stage, chunk)) else {
        return Err("does not belong to this stage".into());
    };
    let first = s.before(stage, chunk).is_none();
    let last = s.behind(stage, chunk).is_none();
    if once(step) && micro > 0 || micro >= s.micro {
        return Err("is one too many".into());
    }
    let after = |needed: Step| match made[needed as usize] > micro {
        true => Ok(()),
        false => Err(format!("comes before `{}`", Turn { step: needed, chunk })),
    };
    if step != Step::Start && all[0][Step::Start as usize] == 0 {
        return Err("comes before `start`".into());
    }
    if all[0][Step::Finish as usize] > 0 {
        return Err("comes after `finish`".into());
    }
    match step {
        Step::Enter | Step::ReceiveX => {
            // The last ones to use the slot before.
            let slots = s.slots[stage][chunk];
            for end in ends(s, first) {
                if micro >= slots && made[*end as usize] + slots <= micro {
                    let end = Turn { step: *end, chunk };
                    return Err(format!("overwrites a slot before `{end}` is done with it"));
                }
            }
            Ok(())
        }
        Step::Forward => after(if first { Step::Enter } else { Step::ReceiveX }),
        Step::SendY | Step::Head => after(Step::Forward),
        Step::ReceiveDy => after(Step::SendY),
        Step::Backward => after(if last { Step::Head } else { Step::ReceiveDy }),
        Step::SendDx | Step::Leave | Step::Weights => after(Step::Backward),
        Step::Finish => {
            let done = |(chunk, made): (usize, &Made)| {
                let first = s.before(stage, chunk).is_none();
                ends(s, first).iter().all(|end| made[*end as usize] == s.micro)
            };
            match all.iter().enumerate().all(done) {
                true => Ok(()),
                false => Err("comes before the last micro-batch is done".into()),
            }
        }
        Step::Start => Ok(()),
    }
}
