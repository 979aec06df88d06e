//! GPUs: the same kernels as PTX (NVIDIA) and as code objects (AMD).
//!
//! Schedules are simple for now: a GPU thread does what a CPU thread does, one task, with short
//! vectors that the back end takes apart. Every kernel assembles and links; none is fast.

use inkwell::OptimizationLevel;
use inkwell::module::FlagBehavior;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target as LlvmTarget, TargetMachine,
    TargetTriple,
};
use neoxc_ir::target::{Family, Target};
use rayon::prelude::*;

use crate::CodegenError;
use crate::kernels::Kernel;
use crate::lower::with_llvm;
use crate::x86::{Cache, link};

/// f32 lanes of the short vectors.
pub const LANES: usize = 8;
/// Threads per block (work group).
pub const BLOCK_THREADS: usize = 64;

/// LLVM's numbers of the kernel calling conventions.
const PTX_KERNEL: u32 = 71;
const AMDGPU_KERNEL: u32 = 91;
/// Version of AMD's code object format.
const CODE_OBJECT: u64 = 500;

/// Kernels for one GPU target.
#[derive(Debug)]
pub struct Compiled {
    /// PTX text, or an AMD code object.
    pub file: Vec<u8>,
    /// `ptx` or `hsaco`.
    pub extension: &'static str,
    /// How many kernels came from the cache.
    pub cached: usize,
}

fn machine(target: Target) -> Result<TargetMachine, CodegenError> {
    let config = InitializationConfig::default();
    let triple = match target.family() {
        Family::Nvidia => {
            LlvmTarget::initialize_nvptx(&config);
            "nvptx64-nvidia-cuda"
        }
        _ => {
            LlvmTarget::initialize_amd_gpu(&config);
            "amdgcn-amd-amdhsa"
        }
    };
    let triple = TargetTriple::create(triple);
    let fail = |m: String| CodegenError::Link(format!("LLVM target machine for {target}: {m}"));
    LlvmTarget::from_triple(&triple)
        .map_err(|e| fail(e.to_string()))?
        .create_target_machine(
            &triple,
            target.name(),
            "",
            OptimizationLevel::Default,
            RelocMode::PIC,
            CodeModel::Default,
        )
        .ok_or_else(|| fail("there is none".into()))
}

/// The assembly text of one kernel, to read: PTX, or AMD's instructions.
pub fn assembly(kernel: &Kernel, target: Target) -> Result<String, CodegenError> {
    let text = assemble(kernel, target, FileType::Assembly)?;
    Ok(String::from_utf8_lossy(&text).trim_end_matches('\0').to_string())
}

fn assemble(kernel: &Kernel, target: Target, kind: FileType) -> Result<Vec<u8>, CodegenError> {
    let machine = machine(target)?;
    let nvidia = target.family() == Family::Nvidia;
    with_llvm(&kernel.symbol, &kernel.mlir, |module| {
        let fail = |stage, e: String| CodegenError::Lower {
            kernel: kernel.symbol.clone(),
            stage,
            message: e,
        };
        module.set_triple(&machine.get_triple());
        module.set_data_layout(&machine.get_target_data().get_data_layout());
        if let Some(f) = module.get_function(&kernel.symbol) {
            f.set_call_conventions(if nvidia { PTX_KERNEL } else { AMDGPU_KERNEL });
        }
        if !nvidia {
            let version = module.get_context().i32_type().const_int(CODE_OBJECT, false);
            module.add_basic_value_flag("amdhsa_code_object_version", FlagBehavior::Error, version);
        }
        module
            .run_passes("default<O1>", &machine, PassBuilderOptions::create())
            .map_err(|e| fail("LLVM passes", e.to_string()))?;
        let out = machine
            .write_to_memory_buffer(module, kind)
            .map_err(|e| fail("LLVM code generation", e.to_string()))?;
        Ok(out.as_slice().to_vec())
    })
}

/// Compiles `kernels` (made by [`crate::kernels::build_gpu`]) for a GPU target.
pub fn compile(
    kernels: &[Kernel],
    target: Target,
    cache: Option<&std::path::Path>,
) -> Result<Compiled, CodegenError> {
    crate::x86::link::start()?;
    let cache = cache.map(|dir| Cache::new(dir, target.name()));
    let kind = match target.family() {
        Family::Nvidia => FileType::Assembly,
        _ => FileType::Object,
    };
    let parts: Vec<(Vec<u8>, bool)> = kernels
        .par_iter()
        .map(|k| {
            let key = cache.as_ref().map(|c| (c, c.key_of_kernel("", &k.mlir)));
            if let Some((c, key)) = &key
                && let Some(bytes) = c.get(key)
            {
                return Ok((bytes, true));
            }
            let bytes = assemble(k, target, kind)?;
            if let Some((c, key)) = &key {
                c.put(key, &bytes);
            }
            Ok((bytes, false))
        })
        .collect::<Result<_, CodegenError>>()?;
    let cached = parts.iter().filter(|p| p.1).count();
    let parts: Vec<Vec<u8>> = parts.into_iter().map(|p| p.0).collect();
    Ok(match target.family() {
        Family::Nvidia => Compiled { file: join_ptx(&parts), extension: "ptx", cached },
        _ => Compiled { file: link::shared_object(&parts, link::AMD)?, extension: "hsaco", cached },
    })
}

/// One PTX module from several: the first one's header serves all.
fn join_ptx(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = String::new();
    for (i, part) in parts.iter().enumerate() {
        for line in String::from_utf8_lossy(part).lines() {
            let header =
                [".version", ".target", ".address_size"].iter().any(|h| line.starts_with(h));
            if i == 0 || !header && !line.starts_with("//") {
                // LLVM ends its text with a NUL when it hands over a buffer.
                out.push_str(line.trim_end_matches('\0'));
                out.push('\n');
            }
        }
    }
    out.into_bytes()
}
