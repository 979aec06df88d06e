//! x86: kernels to objects to one shared object.
//!
//! Objects are cached by content (MLIR text, target, compiler); a damaged cache entry is noticed
//! by its hash and rebuilt. Kernels compile in parallel; the result does not depend on the order.

mod cache;
mod cpu;
pub(crate) mod link;

use std::path::Path;
use std::sync::OnceLock;

use inkwell::OptimizationLevel;
use inkwell::attributes::AttributeLoc;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target as LlvmTarget, TargetMachine,
    TargetTriple,
};
use neoxc_ir::target::Target;
use rayon::prelude::*;

use crate::CodegenError;
use crate::emit::Instructions;
use crate::kernels::Kernel;
use crate::lower::with_llvm;

pub use cache::Cache;
pub use cpu::{Bf16, Cpu};

/// What a set of kernels became.
#[derive(Debug)]
pub struct Compiled {
    /// The shared object.
    pub so: Vec<u8>,
    /// How many objects came from the cache.
    pub cached: usize,
}

/// What LLVM does to a kernel before it chooses instructions.
fn passes(kernel: &Kernel) -> &'static str {
    if kernel.unrolled {
        // The same inner loops as after `default<O2>`, in less time. Loops of known length are for packing.
        "function(sroa,early-cse,instcombine,simplifycfg,loop-mssa(loop-rotate,licm),\
         loop(loop-unroll-full),early-cse,instcombine,simplifycfg,adce)"
    } else {
        // Unrolling other loops too hides the latency of exponentials and divisions.
        "default<O2>"
    }
}

/// Vector lanes of f32 on a target.
pub fn lanes(target: Target) -> usize {
    match target {
        Target::X86V3 => 8,
        // Whoever has this part of AVX-512 has the base too.
        Target::X86Native if !std::arch::is_x86_feature_detected!("avx512dq") => 8,
        _ => 16,
    }
}

/// What a target has that others have not.
pub(crate) fn instructions(target: Target) -> Instructions {
    let native = target == Target::X86Native;
    Instructions {
        avx512: lanes(target) == 16,
        avx512_bf16: native && std::arch::is_x86_feature_detected!("avx512bf16"),
        amx: native && cpu::native_bf16() == Bf16::Tiles,
    }
}

/// CPU name and features for LLVM.
fn cpu(target: Target) -> (String, String) {
    match target {
        Target::X86V3 => ("x86-64-v3".into(), String::new()),
        Target::X86V4 => ("x86-64-v4".into(), String::new()),
        _ => (
            TargetMachine::get_host_cpu_name().to_string(),
            TargetMachine::get_host_cpu_features().to_string(),
        ),
    }
}

/// Features of the processor that a target's kernels may use.
pub fn features(target: Target) -> Vec<String> {
    neoxc_ir::processor::of(target, &cpu(target).1)
}

fn machine(target: Target) -> Result<TargetMachine, CodegenError> {
    static INIT: OnceLock<()> = OnceLock::new();
    INIT.get_or_init(|| LlvmTarget::initialize_x86(&InitializationConfig::default()));
    let triple = TargetTriple::create("x86_64-unknown-linux-gnu");
    let (cpu, features) = cpu(target);
    let fail = |m: String| CodegenError::Link(format!("LLVM target machine: {m}"));
    LlvmTarget::from_triple(&triple)
        .map_err(|e| fail(e.to_string()))?
        .create_target_machine(
            &triple,
            &cpu,
            &features,
            OptimizationLevel::Aggressive,
            RelocMode::PIC,
            CodeModel::Default,
        )
        .ok_or_else(|| fail(format!("no machine for {cpu}")))
}

fn object(kernel: &Kernel, target: Target) -> Result<Vec<u8>, CodegenError> {
    let machine = machine(target)?;
    with_llvm(&kernel.symbol, &kernel.mlir, |module| {
        let fail = |stage, e: String| CodegenError::Lower {
            kernel: kernel.symbol.clone(),
            stage,
            message: e,
        };
        module.set_triple(&machine.get_triple());
        module.set_data_layout(&machine.get_target_data().get_data_layout());
        let context = module.get_context();
        let width = if lanes(target) == 16 { "512" } else { "256" };
        for f in module.get_functions() {
            for key in ["prefer-vector-width", "min-legal-vector-width"] {
                f.add_attribute(
                    AttributeLoc::Function,
                    context.create_string_attribute(key, width),
                );
            }
        }
        module
            .run_passes(passes(kernel), &machine, PassBuilderOptions::create())
            .map_err(|e| fail("LLVM passes", e.to_string()))?;
        let object = machine
            .write_to_memory_buffer(module, FileType::Object)
            .map_err(|e| fail("LLVM code generation", e.to_string()))?;
        Ok(object.as_slice().to_vec())
    })
}

/// Compiles `kernels` for `target` into one shared object.
pub fn compile(
    kernels: &[Kernel],
    target: Target,
    cache: Option<&Path>,
) -> Result<Compiled, CodegenError> {
    link::start()?;
    let cache = cache.map(|dir| Cache::of(dir, target));
    let objects: Vec<(Vec<u8>, bool)> = kernels
        .par_iter()
        .map(|k| {
            let key = cache.as_ref().map(|c| c.key_of_kernel(passes(k), &k.mlir));
            if let (Some(c), Some(key)) = (&cache, &key)
                && let Some(bytes) = c.get(key)
            {
                return Ok((bytes, true));
            }
            let bytes = object(k, target)?;
            if let (Some(c), Some(key)) = (&cache, &key) {
                c.put(key, &bytes);
            }
            Ok((bytes, false))
        })
        .collect::<Result<_, CodegenError>>()?;
    let cached = objects.iter().filter(|o| o.1).count();
    let objects: Vec<Vec<u8>> = objects.into_iter().map(|o| o.0).collect();
    let key = cache.as_ref().map(|c| c.key(&objects));
    if let (Some(c), Some(key)) = (&cache, &key)
        && let Some(so) = c.get(key)
    {
        return Ok(Compiled { so, cached });
    }
    let so = link::shared_object(&objects, link::X86)?;
    if let (Some(c), Some(key)) = (&cache, &key) {
        c.put(key, &so);
    }
    Ok(Compiled { so, cached })
}
