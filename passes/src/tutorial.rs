//! A tutorial: one small function, rewritten, differentiated and divided over two ranks. Every block is run as a test.
//!
//! # 1. Build
//! A module is a list of functions, and a function is a straight line of ops. This one is a layer with a loss: a matmul with the
//! weights, a softmax written in five simple ops, and a sum of squares. Types have named dims, and ops speak of dims by name.
//!
//! ```
//! use neoxc_ir::{Attr, Attrs, Builder, Function, Module, OpKind, TensorType, keys, text};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut f = Function::new("loss");
//! let weights = Attrs::new().with(keys::PARAM, Attr::Str("layer.weight".into()));
//! let batch = Attrs::new().with(keys::ROLE, Attr::Str("batch".into()));
//! let w = f.add_param("w", TensorType::f32(&[("ffn", 8), ("embed", 4)]), weights);
//! let x = f.add_param("x", TensorType::f32(&[("seq", 6), ("embed", 4)]), batch);
//!
//! let mut b = Builder::new(&mut f);
//! let scores = b.matmul(x, w, &["embed"])?; // [seq, ffn]
//! let max = b.one(OpKind::ReduceMax, &[scores], Attrs::new().with("dims", Attr::strs(&["ffn"])))?;
//! let low = b.sub(scores, max)?;
//! let e = b.unary(OpKind::Exp, low)?;
//! let sum = b.reduce_sum(e, &["ffn"])?;
//! let p = b.div(e, sum)?;
//! let squares = b.mul(p, p)?;
//! let loss = b.reduce_sum(squares, &["seq", "ffn"])?;
//! f.results = vec![loss];
//!
//! let module = Module { functions: vec![f], ..Module::default() };
//! neoxc_ir::verify(&module)?;
//! assert_eq!(text::print(&module), include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tutorial.mlir")));
//! # Ok(())
//! # }
//! ```
//! The last line compares the module with a file, which is its text:
//! ```text
#![doc = include_str!("tutorial.mlir")]
//! ```
//! The text says all there is, so that the next steps read it from there.
//!
//! # 2. Rewrite
//! [`rewrite_graph`](crate::rewrite_graph) searches for faster forms with the rules of [`rules`](crate::rules). One of the rules knows
//! what a softmax looks like when it is written out; the new form has one op instead of five. The function's
//! `neox.choices` says what was chosen instead of what.
//!
//! ```
//! # use neoxc_ir::{Attr, Module, TensorType, keys, text};
//! # const LOSS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tutorial.mlir"));
//! use neoxc_ir::eval::{Tensor, run};
//! use neoxc_ir::target::Target;
//! use neoxc_passes::{PassCx, pipeline};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cx = PassCx::new(Target::X86V3);
//! let before = text::parse(LOSS)?;
//! let mut after = before.clone();
//! let rewrite = pipeline::find("rewrite-graph").expect("a pass");
//! pipeline::run_pass(&mut after, &rewrite, &cx)?;
//!
//! let ops = |m: &Module| m.functions[0].ops.iter().map(|o| o.kind.name()).collect::<Vec<_>>();
//! assert!(ops(&before).contains(&"exp"));
//! assert!(ops(&after).contains(&"softmax") && !ops(&after).contains(&"exp"));
//!
//! // The reference evaluator runs both, in f64.
//! let wave = |n: usize| move |i: &[usize]| (1.0 + (i[0] * n + i[1]) as f64).sin();
//! let f = &before.functions[0];
//! let inputs: Vec<Tensor> =
//!     f.params.iter().map(|p| Tensor::from_fn(f.ty(*p).clone(), wave(4))).collect();
//! let (a, b) = (run(&before, "loss", &inputs)?, run(&after, "loss", &inputs)?);
//! assert!((a[0].data[0] - b[0].data[0]).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```
//!
//! # 3. Differentiate
//! [`differentiate_loss`](crate::differentiate_loss) makes `@micro_step` of `@loss`, by the gradient rule of each op. The new function
//! takes one accumulator per parameter, then the batch, then the parameters; it returns the accumulators with the gradients
//! added, and the loss.
//!
//! ```
//! # use neoxc_ir::{Attr, Module, TensorType, keys, text};
//! # const LOSS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tutorial.mlir"));
//! # use neoxc_ir::eval::{Tensor, run};
//! # use neoxc_ir::target::Target;
//! # use neoxc_passes::{PassCx, pipeline};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cx = PassCx::new(Target::X86V3);
//! let mut m = text::parse(LOSS)?;
//! for name in ["rewrite-graph", "differentiate-loss"] {
//!     pipeline::run_pass(&mut m, &pipeline::find(name).expect("a pass"), &cx)?;
//! }
//! let f = m.function("micro_step").expect("the pass made it");
//! let zeros = Tensor::fill(f.ty(f.params[0]).clone(), 0.0);
//! let x = Tensor::from_fn(f.ty(f.params[1]).clone(), |i| (i[0] as f64 - i[1] as f64) / 3.0);
//! let w = Tensor::from_fn(f.ty(f.params[2]).clone(), |i| ((i[0] * 4 + i[1]) as f64).cos());
//! let step = run(&m, "micro_step", &[zeros, x.clone(), w.clone()])?;
//!
//! // A central difference in one weight gives the same number as the gradient. (@eval_step is what @loss was.)
//! let loss = |change: f64| -> Result<f64, neoxc_ir::op::OpError> {
//!     let mut w = w.clone();
//!     w.data[5] += change;
//!     Ok(run(&m, "eval_step", &[w, x.clone()])?[0].data[0])
//! };
//! let slope = (loss(1e-6)? - loss(-1e-6)?) / 2e-6;
//! assert!((slope - step[0].data[5]).abs() < 1e-8);
//! # Ok(())
//! # }
//! ```
//!
//! # 4. Divide over two ranks
//! A layout names, for each dim of a tensor, the axis of the mesh that divides it. Here two `tensor` ranks divide the weights
//! along `ffn`. [`partition_program`](crate::partition_program) propagates these layouts through every op, and inserts a
//! collective where two layouts meet: the softmax needs whole rows. Each rank then has a program over its shards. (A real step
//! has a loop over micro-batches and an update around `@micro_step`; here `@micro_step` is the whole step.)
//!
//! ```
//! # use neoxc_ir::{Attr, Module, TensorType, keys, text};
//! # const LOSS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tutorial.mlir"));
//! use neoxc_ir::eval_ranks::run_ranks;
//! use neoxc_passes::pass::Degrees;
//! # use neoxc_ir::eval::{Tensor, run};
//! # use neoxc_ir::op::Class;
//! # use neoxc_ir::target::Target;
//! # use neoxc_passes::{PassCx, pipeline};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut cx = PassCx::new(Target::X86V3);
//! # let mut m = text::parse(LOSS)?;
//! # for name in ["rewrite-graph", "differentiate-loss"] {
//! #     pipeline::run_pass(&mut m, &pipeline::find(name).expect("a pass"), &cx)?;
//! # }
//! m.functions.retain(|f| f.name == "micro_step");
//! let f = &mut m.functions[0];
//! f.name = "train_step".into();
//! f.param_attrs[2].set(keys::LAYOUT, Attr::strs(&["tensor", ""]));
//! let whole = m.clone();
//! cx.degrees = Degrees { tensor: 2, ..Degrees::ONE };
//! pipeline::run_pass(&mut m, &pipeline::find("partition-program").expect("a pass"), &cx)?;
//! let f = m.function("train_step").expect("it is an entry");
//! assert_eq!(f.ty(f.params[2]).size("ffn"), Some(4), "each rank has four of the eight rows");
//! assert!(f.ops.iter().any(|op| op.kind.def().class() == Class::Collective));
//!
//! // The evaluator runs both ranks in step. What an entry returns is the same on every rank: here the whole gradient.
//! let zeros = Tensor::fill(f.ty(f.params[0]).clone(), 0.0);
//! let x = Tensor::from_fn(f.ty(f.params[1]).clone(), |i| (i[0] as f64 - i[1] as f64) / 3.0);
//! let rows = |from: usize, rows| {
//!     Tensor::from_fn(TensorType::f32(&[("ffn", rows), ("embed", 4)]), move |i| {
//!         (((from + i[0]) * 4 + i[1]) as f64).cos()
//!     })
//! };
//! let want = run(&whole, "train_step", &[zeros.clone(), x.clone(), rows(0, 8)])?;
//! let axes: Vec<_> = cx.degrees.axes().map(|(name, size)| (name.to_string(), size)).into();
//! let inputs = [0, 4].map(|from| vec![zeros.clone(), x.clone(), rows(from, 4)]);
//! for rank in run_ranks(&m, "train_step", &axes, &inputs)? {
//!     for (got, want) in rank.iter().zip(&want) {
//!         assert!(got.data.iter().zip(&want.data).all(|(a, b)| (a - b).abs() < 1e-12));
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go on
//! [`fuse_kernels`](crate::fuse_kernels) groups ops into kernels, and [`place_memory`](crate::place_memory) gives values addresses. The tutorial
//! of `neoxc-codegen` compiles a kernel and runs it. `docs/howto/add-a-pass.md` and `add-a-rule.md` say how to add to this crate.
