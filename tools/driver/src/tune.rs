//! `neoxc tune`: cuts of matmuls that the model finds nearly equal, compiled to be measured, and the winners kept.

use std::collections::HashSet;
use std::path::Path;

use neoxc_codegen::CodegenError;
use neoxc_codegen::kernels::{self, Choice, Cut, Tuned};
use neoxc_codegen::x86::{self, Cpu};
use neoxc_ir::Module;
use neoxc_ir::target::Target;

/// A matmul with several near ties.
pub struct Tie {
    /// Names the matmul and the machine.
    pub key: String,
    /// The first kernel of the plan that is this matmul.
    pub kernel: String,
    /// Rows and columns of a task: the model's first.
    pub cuts: Vec<Cut>,
    /// A shared object with a kernel of each cut.
    pub library: Vec<u8>,
    /// Symbol, tasks and scratch bytes of each.
    pub versions: Vec<(String, u64, u64)>,
    /// Bytes of the kernel's parameters and results.
    pub buffers: Vec<u64>,
}

/// The distinct matmuls of a scheduled module that can be cut in several ways.
pub fn matmuls(m: &Module) -> Result<Vec<(&neoxc_ir::Function, kernels::Ties)>, CodegenError> {
    let mut seen = HashSet::new();
    let mut out = vec![];
    for f in neoxc_codegen::emit_plan::kernel_functions(m) {
        let ties = kernels::build(m, f, Target::X86Native)?.ties;
        out.extend(ties.filter(|t| t.cuts.len() > 1 && seen.insert(t.key.clone())).map(|t| (f, t)));
    }
    Ok(out)
}

/// Compiles every near tie of a matmul.
pub fn compile(
    m: &Module,
    f: &neoxc_ir::Function,
    ties: kernels::Ties,
) -> Result<Tie, CodegenError> {
    let target = Target::X86Native;
    let mut built = vec![];
    for (i, cut) in ties.cuts.iter().enumerate() {
        let mut f = f.clone();
        f.name = format!("{}_{i}", f.name);
        built.push(kernels::build_for(m, &f, target, Cpu::of(target), Choice::This(*cut))?);
    }
    let library = x86::compile(&built, target, None)?.so;
    let versions = built.into_iter().map(|k| (k.symbol, k.tasks, k.scratch_bytes)).collect();
    let all = f.params.iter().chain(&f.results);
    let buffers = all.map(|v| f.ty(*v).bytes() as u64).collect();
    let (key, cuts) = (ties.key, ties.cuts);
    Ok(Tie { key, kernel: f.name.clone(), cuts, library, versions, buffers })
}

/// Keeps the cut of a matmul in the kernel cache, for compiling on this machine from now on.
///
/// # Errors
/// It could not be written.
pub fn keep(cache: &Path, key: &str, cut: Cut) -> std::io::Result<()> {
    Tuned::open(cache, Target::X86Native).map_or(Ok(()), |tuned| tuned.keep(key, cut))
}
