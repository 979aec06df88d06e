//! A pipeline stage's schedule, ready to run: which part, or which collective, comes next.

use neoxc_plan::{Move, Plan, Schedule, Turn, name_of, parse_schedule};

use crate::RuntimeError;

/// One kind of step with everything resolved but the micro-batch.
pub enum Action {
    /// Runs the part with this number; for the last micro-batch the other one, if there is one.
    Run { part: usize, last: Option<usize> },
    /// Sends a value to the next stage, or to the one before, on one of the channels between them.
    Send { forward: bool, channel: usize, base: usize, elements: usize },
    /// Receives a value from the stage before, or from the next one.
    Receive { forward: bool, channel: usize, base: usize, elements: usize },
}

/// Where an action works: its micro-batch, the slot, and the chunk of the stage's layers.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub micro: usize,
    /// Whether no micro-batch comes after it.
    pub is_last: bool,
    pub slot: usize,
    pub chunk: usize,
    /// Slots of the chunk.
    pub slots: usize,
}

/// How often, and the numbers of the actions.
type Group = (u64, Vec<usize>);

/// The schedule of one stage.
pub struct Staged {
    /// Number of the `pipe` axis.
    pub axis: usize,
    /// Bytes from a slot to the next.
    pub stride: usize,
    /// First slot of each chunk, and how many it has.
    slots: Vec<(usize, usize)>,
    /// Names of the parts that [`Action::Run`] numbers.
    pub parts: Vec<String>,
    actions: Vec<(Action, usize)>,
    rounds: Vec<(u64, Vec<Group>)>,
    /// Micro-batches, and how often each action was made in this run.
    micro: usize,
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
        let class = plan.class_of(stage as u64);
        let places = s.places.get(class).ok_or_else(wrong)?;
        let axis = plan.tables.mesh.iter().position(|(name, _)| name == "pipe");
        let mut parts: Vec<String> = vec![];
        let mut known: Vec<Turn> = vec![];
        let mut actions = vec![];
        let mut rounds = vec![];
        let mut number = |turn: &Turn| -> Result<usize, RuntimeError> {
            if let Some(at) = known.iter().position(|k| k == turn) {
                return Ok(at);
            }
            let (step, chunk) = turn;
            let value = |name: &str| places.values.get(name).copied().ok_or_else(wrong);
            let base = |offset: u64| slots + offset as usize;
            let action = match step {
                Move::Run(name) => {
                    let mut number = |name: &str| {
                        parts.push(name_of(&format!("{}_{name}", s.prefix), class));
                        parts.len() - 1
                    };
                    let part = number(name);
                    let last = plan.last_part(s, name, class);
                    Action::Run { part, last: last.map(|_| number(&format!("{name}_last"))) }
                }
                Move::Send(name) => {
                    let forward = Move::is_forward(name);
                    // The channel is numbered by the chunk of the stage that receives.
                    let (_, channel) = s.neighbour(stage, *chunk, forward).ok_or_else(wrong)?;
                    let v = value(name)?;
                    let elements = v.elements as usize;
                    Action::Send { forward, channel, base: base(v.offset), elements }
                }
                Move::Receive(name) => {
                    let (forward, v) = (Move::is_forward(name), value(name)?);
                    let elements = v.elements as usize;
                    Action::Receive { forward, channel: *chunk, base: base(v.offset), elements }
                }
            };
            actions.push((action, *chunk));
            known.push(turn.clone());
            Ok(known.len() - 1)
        };
        for round in parse_schedule(text).ok_or_else(wrong)? {
            let mut groups = vec![];
            for (times, turns) in &round.groups {
                groups.push((*times, turns.iter().map(&mut number).collect::<Result<_, _>>()?));
            }
            rounds.push((round.times, groups));
        }
        let mut next = 0;
        let first = |n: &u64| {
            next += *n as usize;
            (next - *n as usize, *n as usize)
        };
        Ok(Self {
            axis: axis.ok_or_else(wrong)?,
            slots: s.slots.get(stage).ok_or_else(wrong)?.iter().map(first).collect(),
            stride: places.stride as usize,
            parts,
            micro: s.micro as usize,
            made: vec![0; actions.len()],
            actions,
            rounds,
        })
    }

    /// Calls `make` with every action and what it is for, in order.
    pub fn each(
        &mut self,
        make: &mut dyn FnMut(&Action, At) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        self.made.fill(0);
        for (times, groups) in &self.rounds {
            for _ in 0..*times {
                for (times, list) in groups {
                    for _ in 0..*times {
                        for at in list {
                            let (action, chunk) = &self.actions[*at];
                            let (first, slots) = self.slots[*chunk];
                            let micro = self.made[*at];
                            let slot = first + micro % slots;
                            let (chunk, is_last) = (*chunk, micro + 1 == self.micro);
                            make(action, At { micro, is_last, slot, chunk, slots })?;
                            self.made[*at] += 1;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
