//! Plans: tables and programs.

use arbitrary::{Result, Unstructured};
use neoxc_plan::{Plan, parse_program, print_program};
use serde_json::Value;

use crate::{Target, wreck};

/// The names that a program's text may use.
fn names(plan: &Plan) -> (Vec<String>, Vec<String>) {
    let tables = &plan.tables;
    let segments = tables.segments.iter().map(|s| s.name.clone());
    (segments.collect(), tables.kernels.iter().map(|k| k.name.clone()).collect())
}

/// Reads tables and programs as opening a plan does, past its hashes, and checks what comes out.
pub struct PlanTarget {
    plan: Plan,
    tables: Value,
    /// Name, text.
    programs: Vec<String>,
}

impl PlanTarget {
    /// Damages `plan`, which is valid.
    ///
    /// # Panics
    /// If it is not.
    pub fn new(mut plan: Plan) -> Self {
        // Machine code and IR are not looked at, and would be copied for every run.
        plan.files.clear();
        plan.check().expect("a valid plan to begin with");
        let tables = serde_json::to_value(&plan.tables).expect("tables are JSON");
        let (segments, kernels) = names(&plan);
        let text = |p: &neoxc_plan::Program| print_program(&p.body, &segments, &kernels);
        Self { tables, programs: plan.programs.iter().map(text).collect(), plan }
    }

    fn attempt(&self, u: &mut Unstructured) -> Result<bool> {
        let mut plan = self.plan.clone();
        for _ in 0..u.int_in_range(1..=2)? {
            if u.arbitrary()? {
                let mut tables = self.tables.clone();
                for _ in 0..u.int_in_range(1..=2)? {
                    wreck::json(u, &mut tables)?;
                }
                let Ok(read) = serde_json::from_value(tables) else { return Ok(false) };
                plan.tables = read;
            } else {
                let at = u.choose_index(self.programs.len())?;
                let mut text = self.programs[at].clone().into_bytes();
                wreck::bytes(u, &mut text)?;
                let (segments, kernels) = names(&plan);
                let text = String::from_utf8_lossy(&text);
                let Ok(body) = parse_program(&text, &segments, &kernels) else { return Ok(false) };
                let again = print_program(&body, &segments, &kernels);
                assert_eq!(parse_program(&again, &segments, &kernels).as_ref(), Ok(&body));
                plan.programs[at].body = body;
            }
        }
        Ok(plan.check().is_ok())
    }
}

impl Target for PlanTarget {
    fn run(&self, choices: &[u8]) -> bool {
        self.attempt(&mut Unstructured::new(choices)).unwrap_or(false)
    }
}
