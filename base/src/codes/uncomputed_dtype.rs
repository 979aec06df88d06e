//! NX0202: a dtype that no target computes with.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0202.
pub static KIND: Kind = Kind {
    code: "NX0202",
    title: "no target computes with this dtype",
    explanation: "\
The model asks for a dtype of matmuls and activations that no target of this version has kernels for.
Kernels compute with f32, and multiply bf16 and fp16 with sums in f32.

Use `precision: bfloat16`, `precision: fp16` or `precision: fp32`.",
    example: Example::Session(
        "\
$ neoxc opt model.mlir --passes lower-precision
error[NX0202]: no target computes with f64
  = hint: bf16, f16 or f32; in a configuration, `precision: bfloat16`, `fp16` or `fp32`",
    ),
    exit: 3,
};

/// No target computes with `dtype`, which `places` ask for.
pub fn uncomputed_dtype(dtype: &str, places: &[Span]) -> Diagnostic {
    let d = Diagnostic::error(&KIND, format!("no target computes with {dtype}"));
    places
        .iter()
        .fold(d, |d, span| d.label(span, "asked for here"))
        .hint("bf16, f16 or f32; in a configuration, `precision: bfloat16`, `fp16` or `fp32`")
}
