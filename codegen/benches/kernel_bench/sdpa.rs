//! Attention on all cores beside PyTorch's `scaled_dot_product_attention`, in turn. Both passes are the kernels that a
//! plan has for them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use neoxc_codegen::kernels::{self, Choice};
use neoxc_codegen::x86::Cpu;
use neoxc_ir::target::Target;
use neoxc_ir::{DType, Module};
use neoxc_passes::{PassCx, fuse_kernels, split_sums};

use crate::{Aligned, Case, Entry, Error, Loaded, Size, attention};

/// A python with torch that answers questions.
struct Peer {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &str, threads: usize) -> Result<Peer, Error> {
        let script =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/bench/sdpa_peer.py").to_string();
        let mut process = Command::new(python)
            .args([script, threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = process.stdin.take().ok_or("no standard input")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        Ok(Peer { process, ask, answers })
    }

    fn say(&mut self, line: &str) -> Result<(), Error> {
        writeln!(self.ask, "{line}")?;
        Ok(self.ask.flush()?)
    }

    /// Seconds of what `line` asks for.
    fn time(&mut self, line: &str) -> Result<f64, Error> {
        self.say(line)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let seconds = answer.trim().parse().map_err(|_| "PyTorch did not answer")?;
        // Its threads spin a while after their work, and would slow down ours.
        std::thread::sleep(Duration::from_millis(30));
        Ok(seconds)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Kernels one behind the other, each with the numbers of its buffers.
struct Program {
    calls: Vec<(Loaded, Vec<usize>)>,
}

impl Program {
    /// What a plan has for the op of `case`: parameters, then results, are the first of `buffers`, where what else is needed
    /// is added.
    fn of(case: &Case, cpu: Cpu, buffers: &mut Vec<Aligned>) -> Result<Program, Error> {
        let mut f = case.f.clone();
        f.attrs.0.remove("neox.kernel");
        let name = f.name.clone();
        let mut m = Module::new();
        m.insert(f);
        let cx = PassCx::new(Target::X86Native);
        for pass in [split_sums::PASS, fuse_kernels::PASS] {
            (pass.run)(&mut m, &cx)?;
        }
        let f = m.function(&name).ok_or("the passes lost the function")?;
        let mut place = vec![None; f.values.len()];
        for (at, v) in f.params.iter().chain(&f.results).enumerate() {
            place[v.index()] = Some(at);
        }
        let mut calls = vec![];
        for op in &f.ops {
            let callee = op.attrs.symbol("callee").and_then(|name| m.function(name));
            let kernel = callee.ok_or("an op that is no kernel")?;
            let k = kernels::build_for(&m, kernel, Target::X86Native, cpu, Choice::Model)?;
            let mut args = vec![];
            for v in op.operands.iter().chain(&op.results) {
                let at = *place[v.index()].get_or_insert_with(|| {
                    buffers.push(Aligned::new(f.ty(*v).elements()));
                    buffers.len() - 1
                });
                args.push(at);
            }
            calls.push((Loaded::new(&k, vec![])?, args));
        }
        Ok(Program { calls })
    }

    /// Floats of scratch that a thread needs.
    fn scratch(&self) -> usize {
        self.calls.iter().map(|(k, _)| k.scratch.0.len()).max().unwrap_or(0)
    }

    fn launch(&self, buffers: &mut [Aligned], scratch: &mut [Aligned]) -> Result<(), Error> {
        for (kernel, args) in &self.calls {
            let pointers = args.iter().map(|at| buffers[*at].pointer() as usize).collect();
            launch(kernel, pointers, scratch)?;
        }
        Ok(())
    }
}

/// Runs all tasks on all of `scratch`'s threads, as the runtime shares them out.
fn launch(kernel: &Loaded, pointers: Vec<usize>, scratch: &mut [Aligned]) -> Result<(), Error> {
    // SAFETY: the symbol has the kernel ABI.
    let entry: libloading::Symbol<Entry> = unsafe { kernel.library.get(kernel.symbol.as_bytes())? };
    let next = AtomicI64::new(0);
    let batch = (kernel.tasks / (8 * scratch.len() as i64)).max(1);
    let work = |scratch: &mut Aligned| {
        let pointers: Vec<*mut u8> = pointers.iter().map(|p| *p as *mut u8).collect();
        loop {
            let lo = next.fetch_add(batch, Ordering::Relaxed);
            if lo >= kernel.tasks {
                return;
            }
            let hi = (lo + batch).min(kernel.tasks);
            // SAFETY: every buffer has the size of its tensor, and tasks write what no other task touches.
            unsafe { entry(pointers.as_ptr(), lo, hi, scratch.pointer()) };
        }
    };
    std::thread::scope(|scope| {
        let (own, others) = scratch.split_at_mut(1);
        for s in others {
            scope.spawn(|| work(s));
        }
        work(&mut own[0]);
    });
    Ok(())
}

/// Prints times and ratios: forward, and forward and backward. Rounds alternate, and the best of each counts.
pub fn compare(python: &str, cpu: Cpu, filter: &str) -> Result<(), Error> {
    let threads = std::thread::available_parallelism()?.get();
    let mut peer = Peer::start(python, threads)?;
    println!(
        "{threads} cores; milliseconds of neoxc and PyTorch, the best of rounds in turn, and ratios\n"
    );
    println!(
        "| dtype | batch × heads × sequence × width | forward | PyTorch | ratio | with backward | PyTorch | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (dtype, name) in [(DType::F32, "f32"), (DType::Bf16, "bf16")] {
        for (batch, heads, seq, rounds) in [(4, 8, 512, 15), (1, 8, 2048, 9), (1, 4, 8192, 3)] {
            for width in [32, 64, 128] {
                let size = Size { batch, heads, seq, width };
                let case = format!("{name} {batch} × {heads} × {seq} × {width}");
                if !case.contains(filter) {
                    continue;
                }
                peer.say(&format!("shape {name} {batch} {heads} {seq} {width}"))?;
                let [ours, theirs] = times(&mut peer, size, dtype, cpu, threads, rounds)?;
                print!("| {name} | {batch} × {heads} × {seq} × {width} |");
                for (a, b) in ours.into_iter().zip(theirs) {
                    print!(" {:.2} | {:.2} | {:.2} |", a * 1e3, b * 1e3, b / a);
                }
                println!();
            }
        }
    }
    Ok(())
}

/// Seconds of forward and of both passes, ours and the peer's.
fn times(
    peer: &mut Peer,
    size: Size,
    dtype: DType,
    cpu: Cpu,
    threads: usize,
    rounds: usize,
) -> Result<[[f64; 2]; 2], Error> {
    let cases = attention(size, dtype)?;
    let [forward, backward] = &cases[..] else { return Err("two kernels".into()) };
    let new = |v: &neoxc_ir::ValueId| Aligned::new(backward.f.ty(*v).elements());
    let mut buffers: Vec<Aligned> =
        backward.f.params.iter().chain(&backward.f.results).map(new).collect();
    // Forward makes what backward reads behind q, k and v: out and the log-sum-exp.
    let forward = Program::of(forward, cpu, &mut buffers)?;
    let backward = Program::of(backward, cpu, &mut buffers)?;
    let floats = forward.scratch().max(backward.scratch());
    let mut scratch: Vec<Aligned> = (0..threads).map(|_| Aligned::new(floats)).collect();
    let mut ours = |both: bool| -> Result<f64, Error> {
        let start = Instant::now();
        forward.launch(&mut buffers, &mut scratch)?;
        if both {
            backward.launch(&mut buffers, &mut scratch)?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    let mut least = [[f64::INFINITY; 2]; 2];
    // The first round only warms up.
    for round in 0..=rounds {
        for (i, what) in ["forward", "both"].into_iter().enumerate() {
            for (side, t) in [ours(i == 1)?, peer.time(what)?].into_iter().enumerate() {
                if round > 0 {
                    least[side][i] = least[side][i].min(t);
                }
            }
        }
    }
    Ok(least)
}
