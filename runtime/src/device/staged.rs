//! A pipeline stage's schedule, ready to run: which part, or which exchange, comes next.

use neoxc_plan::{Move, Plan, Schedule, parse_schedule};

use crate::RuntimeError;

/// One kind of step with everything resolved but the micro-batch.
pub enum Action {
    /// Runs the part with this number.
    Run(usize),
    /// Gives a value to the next stage, or to the one before.
    Send { forward: bool, base: usize },
    /// Takes a value from the stage before, or from the next.
    Receive { forward: bool, base: usize, elements: usize },
}

/// The schedule of one stage.
pub struct Staged {
    /// Number of the `pipe` axis.
    pub axis: usize,
    /// Slots, and bytes from one to the next.
    pub slots: usize,
    pub stride: usize,
    /// Names of the parts that [`Action::Run`] numbers.
    pub parts: Vec<String>,
    actions: Vec<Action>,
    groups: Vec<(u64, Vec<usize>)>,
    /// How often each action was made in this run.
    made: Vec<usize>,
}

impl Staged {
    /// The schedule `s` of the stage `stage`; `slots` is the address of their segment.
    pub fn new(
        plan: &Plan,
        s: &Schedule,
        stage: usize,
        slots: usize,
    ) -> Result<Self, RuntimeError> {
        let wrong =
            || RuntimeError::Settings(format!("the plan has no schedule for stage {stage}"));
        let text = s.stages.get(stage).ok_or_else(wrong)?;
        let axis = plan.tables.mesh.iter().position(|(name, _)| name == "pipe");
        let mut parts: Vec<String> = vec![];
        let mut known: Vec<Move> = vec![];
        let mut actions = vec![];
        let mut groups = vec![];
        for (times, moves) in parse_schedule(text).ok_or_else(wrong)? {
            let mut list = vec![];
            for step in moves {
                if let Some(at) = known.iter().position(|k| *k == step) {
                    list.push(at);
                    continue;
                }
                let value = |name: &str| s.values.get(name).copied().ok_or_else(wrong);
                let base = |offset: u64| slots + offset as usize;
                actions.push(match &step {
                    Move::Run(name) => {
                        parts.push(format!("{}_{name}", s.prefix));
                        Action::Run(parts.len() - 1)
                    }
                    Move::Send(name) => {
                        let forward = Move::is_forward(name);
                        Action::Send { forward, base: base(value(name)?.offset) }
                    }
                    Move::Receive(name) => {
                        let (forward, v) = (Move::is_forward(name), value(name)?);
                        let elements = v.elements as usize;
                        Action::Receive { forward, base: base(v.offset), elements }
                    }
                });
                known.push(step);
                list.push(known.len() - 1);
            }
            groups.push((times, list));
        }
        Ok(Self {
            axis: axis.ok_or_else(wrong)?,
            slots: s.slots.get(stage).map_or(1, |n| *n as usize),
            stride: s.stride as usize,
            parts,
            made: vec![0; actions.len()],
            actions,
            groups,
        })
    }

    /// Calls `make` with every action and the micro-batch it is for, in order.
    pub fn each(
        &mut self,
        make: &mut dyn FnMut(&Action, usize) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        self.made.fill(0);
        for (times, list) in &self.groups {
            for _ in 0..*times {
                for at in list {
                    make(&self.actions[*at], self.made[*at])?;
                    self.made[*at] += 1;
                }
            }
        }
        Ok(())
    }
}
