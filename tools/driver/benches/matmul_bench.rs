//! Matmuls of the compiler beside the processor's peak, and beside those of others, in turn.
//!
//! `[PEER_PYTHON=PYTHON] cargo bench -p neoxc-driver --bench matmul_bench [-- FILTER]` prints a line of a table
//! for each matmul whose name has all words of FILTER: squares, and forward, data gradient and weight gradient of every
//! layer of the 14M, 70M and 160M models, in f32 and bfloat16, on one core and on all. ROUNDS=N sets how often;
//! PEERS=torch,numpy with whom: numpy has OpenBLAS, no bfloat16, and needs threadpoolctl.
//!
//! A round measures the peak in registers on the same threads, then the matmul, then the peers', each by the clock. Of a
//! share there are two numbers: the quickest round against the highest peak, which is what the matmul can do, and the
//! median round against the median peak, which is what it does beside others on the same processor (they share caches and
//! memory, which the peak does not use). GFLOP/s are medians, and so are ratios to a peer, of whose own share of the peak
//! there are the same two numbers.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use neoxc_codegen::{kernels, x86};
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, Module, TensorType};
use neoxc_runtime::device::Bench;
use neoxc_runtime::profile::{Multiplier, multiply};

type Error = Box<dyn std::error::Error>;

/// What of a linear layer y = x wᵀ.
#[derive(Clone, Copy)]
enum Kind {
    /// y of x and w.
    Forward,
    /// The gradient of x, of that of y and w.
    Dx,
    /// The gradient of w, of that of y and x.
    Dw,
}

/// A matmul: m × n of contractions over k.
struct Case {
    name: String,
    kind: Kind,
    size: [usize; 3],
    dtype: DType,
}

impl Case {
    fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Forward => "forward",
            Kind::Dx => "dx",
            Kind::Dw => "dw",
        }
    }

    fn flops(&self) -> f64 {
        2.0 * self.size.iter().map(|s| *s as f64).product::<f64>()
    }

    /// The kernel function; weight gradients are f32, as in training.
    fn function(&self) -> Result<Function, Error> {
        let [m, n, k] = self.size;
        let (a, b) = match self.kind {
            Kind::Forward => ([("m", m), ("k", k)], [("n", n), ("k", k)]),
            Kind::Dx => ([("m", m), ("k", k)], [("k", k), ("n", n)]),
            Kind::Dw => ([("k", k), ("m", m)], [("k", k), ("n", n)]),
        };
        let mut f = Function::new("matmul");
        f.attrs.set("neox.kernel", Attr::Str("matmul".into()));
        let mut param = |name: &str, dims: [(&str, usize); 2]| {
            let dims = dims.iter().map(|(n, s)| Dim::new(n, *s)).collect();
            f.add_param(name, TensorType::new(self.dtype, dims), Attrs::new())
        };
        let (a, b) = (param("a", a), param("b", b));
        let mut builder = Builder::new(&mut f);
        let y = builder.matmul(a, b, &["k"])?;
        let to = if matches!(self.kind, Kind::Dw) { DType::F32 } else { self.dtype };
        let y = builder.cast(y, to)?;
        f.results = vec![y];
        Ok(f)
    }
}

/// The three matmuls of a layer of `t` tokens, in both dtypes.
fn layer(name: &str, t: usize, inputs: usize, outputs: usize, cases: &mut Vec<Case>) {
    for dtype in [DType::F32, DType::Bf16] {
        for (kind, size) in [
            (Kind::Forward, [t, outputs, inputs]),
            (Kind::Dx, [t, inputs, outputs]),
            (Kind::Dw, [outputs, inputs, t]),
        ] {
            cases.push(Case { name: name.to_string(), kind, size, dtype });
        }
    }
}

fn cases() -> Vec<Case> {
    let mut all = vec![];
    for s in [512, 1024, 2048, 4096] {
        layer(&format!("square {s}"), s, s, s, &mut all);
    }
    // Tokens of a micro-batch as in tools/bench, and of a part of the head.
    for (model, h, t) in [("m14", 128, 2048), ("m70", 512, 2048), ("m160", 768, 1024)] {
        for (name, t, inputs, outputs) in [
            ("qkv", t, h, 3 * h),
            ("dense", t, h, h),
            ("up", t, h, 4 * h),
            ("down", t, 4 * h, h),
            ("head", 512, h, 50304),
        ] {
            layer(&format!("{model} {name}"), t, inputs, outputs, &mut all);
        }
    }
    all
}

/// A python that multiplies with torch or numpy on request.
struct Peer {
    name: String,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &str, name: &str) -> Result<Peer, Error> {
        if !["torch", "numpy"].contains(&name) {
            return Err(format!("PEERS: there is no {name}, but torch and numpy").into());
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/peer_matmul.py");
        let mut child = Command::new(python)
            .args([script, name])
            // Threads that wait for their next matmul would take the cores from ours.
            .envs([("KMP_BLOCKTIME", "0"), ("OMP_WAIT_POLICY", "passive")])
            .env("OPENBLAS_THREAD_TIMEOUT", "4")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("PEER_PYTHON={python}: {e}"))?;
        let out = child.stdout.take().ok_or("a peer has no output")?;
        Ok(Peer { name: name.to_string(), child, answers: BufReader::new(out) })
    }

    /// Whether it has matmuls of `c`'s dtype.
    fn takes(&self, c: &Case) -> bool {
        self.name != "numpy" || c.dtype == DType::F32
    }

    fn say(&mut self, line: &str) -> Result<(), Error> {
        Ok(writeln!(self.child.stdin.as_mut().ok_or("a peer has no input")?, "{line}")?)
    }

    fn prepare(&mut self, c: &Case, threads: usize) -> Result<(), Error> {
        let [m, n, k] = c.size;
        self.say(&format!("{} {m} {n} {k} {} {threads}", c.kind(), c.dtype.name()))
    }

    fn seconds(&mut self) -> Result<f64, Error> {
        self.say("go")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse().map_err(|_| format!("{} ended", self.name))?)
    }
}

/// Seconds that `work` takes.
fn seconds(work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x.get(x.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One round: the peaks, and the seconds of the matmul and of each peer's.
struct Round {
    peaks: Vec<f64>,
    seconds: f64,
    peers: Vec<Option<f64>>,
}

fn measure(c: &Case, threads: usize, rounds: usize, peers: &mut [Peer]) -> Result<String, Error> {
    let f = c.function()?;
    let kernel = kernels::build(&Module::new(), &f, Target::X86Native)?;
    let library = x86::compile(std::slice::from_ref(&kernel), Target::X86Native, None)?.so;
    let buffers: Vec<u64> =
        f.params.iter().chain(&f.results).map(|v| f.ty(*v).bytes() as u64).collect();
    let mut bench = Bench::new(&library, &buffers, threads, kernel.scratch_bytes)?;
    for p in peers.iter_mut().filter(|p| p.takes(c)) {
        p.prepare(c, threads)?;
        p.seconds()?;
    }
    let peaks: &[Multiplier] = match c.dtype {
        DType::Bf16 => &[Multiplier::Pairs, Multiplier::Tiles],
        _ => &[Multiplier::F32],
    };
    bench.launch(&kernel.symbol, kernel.tasks)?;
    let mut all = vec![];
    for _ in 0..rounds {
        let mut found = vec![];
        for p in peaks {
            let mut best: Option<f64> = None;
            // New threads may begin on one core.
            for _ in 0..3 {
                let mut done = None;
                let t = seconds(|| {
                    done = multiply(threads, *p);
                    Ok(())
                })?;
                best = done.map(|operations| f64::max(best.unwrap_or(0.0), operations / t));
            }
            found.extend(best);
        }
        // The first wakes the other threads.
        bench.launch(&kernel.symbol, kernel.tasks)?;
        let seconds = seconds(|| Ok(bench.launch(&kernel.symbol, kernel.tasks)?))?;
        let peers = peers.iter_mut().map(|p| p.takes(c).then(|| p.seconds()).transpose());
        all.push(Round { peaks: found, seconds, peers: peers.collect::<Result<_, Error>>()? });
    }
    let usual = median(all.iter().map(|r| r.seconds).collect());
    let share = |i: usize, times: Vec<f64>| {
        let peaks: Vec<f64> = all.iter().filter_map(|r| r.peaks.get(i).copied()).collect();
        if peaks.is_empty() {
            return String::new();
        }
        let highest = peaks.iter().copied().fold(0.0, f64::max);
        let of = |seconds, peak| 100.0 * c.flops() / seconds / peak;
        let best = times.iter().copied().fold(f64::INFINITY, f64::min);
        format!("{:.0} %, {:.0} %", of(best, highest), of(median(times), median(peaks)))
    };
    let ours = || all.iter().map(|r| r.seconds).collect();
    let [m, n, k] = c.size;
    let gflops = 1e-9 * c.flops() / usual;
    let beside = (0..peers.len()).map(|i| {
        let times: Vec<f64> = all.iter().filter_map(|r| r.peers[i]).collect();
        if times.is_empty() {
            return " | |".to_string();
        }
        let ratios = all.iter().filter_map(|r| Some(r.peers[i]? / r.seconds)).collect();
        format!(" {:.2} | {} |", median(ratios), share(0, times))
    });
    Ok(format!(
        "| {} {} | {m} x {n} x {k} | {} | {threads} | {gflops:.0} | {} | {} |{}",
        c.name,
        c.kind(),
        c.dtype.name(),
        share(0, ours()),
        share(1, ours()),
        beside.collect::<String>()
    ))
}

fn main() -> Result<(), Error> {
    // `cargo bench` adds `--bench` to what was asked.
    let filter = std::env::args().skip(1).find(|a| a != "--bench").unwrap_or_default();
    let rounds = std::env::var("ROUNDS").map_or(Ok(9), |n| n.parse())?;
    let mut peers = vec![];
    if let Ok(python) = std::env::var("PEER_PYTHON") {
        let names = std::env::var("PEERS").unwrap_or_else(|_| "torch".into());
        peers = names.split(',').map(|n| Peer::start(&python, n)).collect::<Result<_, Error>>()?;
    }
    let cores = std::thread::available_parallelism()?.get();
    let counts = if cores > 1 { vec![1, cores] } else { vec![1] };
    let names: String = peers.iter().map(|p| format!(" x {} | its share |", p.name)).collect();
    println!(
        "| matmul | m x n x k | dtype | cores | GFLOP/s | of the peak: best, usual | of AMX's |{names}"
    );
    println!("|---|---|---|---|---|---|---|{}", "---|---|".repeat(peers.len()));
    for c in cases() {
        let name = format!("{} {} {}", c.name, c.kind(), c.dtype.name());
        let wanted = filter.split_whitespace().all(|word| name.contains(word));
        for threads in counts.iter().filter(|_| wanted) {
            println!("{}", measure(&c, *threads, rounds, &mut peers)?);
        }
    }
    Ok(())
}
