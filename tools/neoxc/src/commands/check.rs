//! `neoxc check`.

use super::load;
use crate::Failure;
use crate::cli::Check;

/// Says all that is wrong with a configuration.
pub fn run(a: &Check) -> Result<(), Failure> {
    let c = load(&a.config)?;
    println!(
        "ok: {} layers, width {}, {} heads, {} tokens × {} sequences × {} micro-batches per step",
        c.model.num_layers,
        c.model.hidden_size,
        c.model.num_attention_heads,
        c.model.seq_length,
        c.run.micro_batch,
        c.run.grad_accum
    );
    Ok(())
}
