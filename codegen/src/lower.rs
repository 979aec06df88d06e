//! MLIR in upstream dialects → LLVM IR, in this thread's own MLIR context.
//!
//! MLIR contexts are not shared between threads and cost tens of milliseconds to make, so each
//! worker thread keeps one. What MLIR has to say about a module is collected, not printed.

use std::cell::RefCell;
use std::rc::Rc;

use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::ir::operation::OperationLike;
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};

use crate::CodegenError;

/// Passes from our dialects to the LLVM dialect, on every target.
const PIPELINE: &str = "builtin.module(convert-scf-to-cf,convert-vector-to-llvm,\
    convert-arith-to-llvm,convert-cf-to-llvm,convert-func-to-llvm,reconcile-unrealized-casts)";

struct Mlir {
    context: Context,
    messages: Rc<RefCell<Vec<String>>>,
}

thread_local! {
    static MLIR: RefCell<Option<Mlir>> = const { RefCell::new(None) };
}

fn new_mlir() -> Mlir {
    static PASSES: std::sync::Once = std::sync::Once::new();
    PASSES.call_once(register_all_passes);
    let registry = DialectRegistry::new();
    register_all_dialects(&registry);
    let context = Context::new();
    context.append_dialect_registry(&registry);
    context.load_all_available_dialects();
    register_all_llvm_translations(&context);
    let messages = Rc::new(RefCell::new(vec![]));
    let sink = messages.clone();
    context.attach_diagnostic_handler(move |d| {
        sink.borrow_mut().push(d.to_string());
        true
    });
    Mlir { context, messages }
}

/// Parses and verifies `text`, lowers it, and hands the LLVM module to `then`.
pub fn with_llvm<R>(
    kernel: &str,
    text: &str,
    then: impl FnOnce(&inkwell::module::Module<'_>) -> Result<R, CodegenError>,
) -> Result<R, CodegenError> {
    MLIR.with(|cell| {
        let mut slot = cell.borrow_mut();
        let mlir = slot.get_or_insert_with(new_mlir);
        mlir.messages.borrow_mut().clear();
        let fail = |stage: &'static str| CodegenError::Lower {
            kernel: kernel.to_string(),
            stage,
            message: mlir.messages.borrow().join("; "),
        };
        let mut module = Module::parse(&mlir.context, text).ok_or_else(|| fail("MLIR parser"))?;
        if !module.as_operation().verify() {
            return Err(fail("MLIR verifier"));
        }
        let passes = PassManager::new(&mlir.context);
        parse_pass_pipeline(passes.as_operation_pass_manager(), PIPELINE)
            .map_err(|_| fail("MLIR pipeline"))?;
        passes.run(&mut module).map_err(|_| fail("MLIR lowering"))?;
        let llvm = inkwell::context::Context::create();
        // SAFETY: both contexts outlive the call; the translation creates a new LLVM module in
        // `llvm`, or returns null.
        let raw = unsafe {
            mlir_sys::mlirTranslateModuleToLLVMIR(
                module.as_operation().to_raw(),
                llvm.raw() as *mut _,
            )
        };
        if raw.is_null() {
            return Err(fail("LLVM translation"));
        }
        // SAFETY: `raw` is a fresh module that nobody else owns; inkwell disposes of it.
        let translated = unsafe { inkwell::module::Module::new(raw as *mut _) };
        then(&translated)
    })
}
