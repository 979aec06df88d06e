"""Measures what this project aims at, and prints one table: goal, measured, reached or not.

usage: goals.py [--all] [--only steps,matmuls,attention,text,large] [--dtypes f32,bf16] [--rounds 3]
                [--configs FOLDER] [--peer PYTHON] [--neoxc BINARY]

Without --all a small selection of each kind (minutes); with it all sizes, shapes and lengths (hours beside
torch.compile). Each part prints what it measures as it goes, and of each step every kernel's place under the limits
(`neoxc profile`). --dtypes is what this processor multiplies fast, unless it is said: where bfloat16 is made of other
instructions, PyTorch takes minutes a step. What is measured against PyTorch is left out without --peer, and compiling
20B without --configs, the folder of GPT-NeoX's configurations. --rounds is of steps and text; matmuls take three times
as many, attention its own.
Exits with 1 when a command fails, not when a goal is missed.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import bench
import generate
from bench import ROOT, call, markdown

STEP = {"f32": 2.4, "bf16": 1.8}
MATMUL = {"f32": 85, "bf16": 80}
ATTENTION = 1.5
MEMORY = 0.5
TEXT = 0.7
COLD, CACHED, LARGE = 5.0, 0.3, 20.0
# The large one: its published configuration, for 96 ranks, x86 and PTX.
LARGE_PLAN = ["20B.yml", "--cluster", "configs/clusters/a100-80g.yml", "--target", "x86-64-native,sm_80",
              "--set", "padded_vocab_size=50304", "--set", "world_size=96", "--set", "model_parallel_size=2",
              "--set", "pipe_parallel_size=4", "--set", "fp16.enabled=false"]


def goal(work, against, wanted, found, least=True):
    """A row of the table, of numbers that should all be at least (or at most) `wanted`."""
    good = sum(x >= wanted if least else x <= wanted for x in found)
    span = f"{min(found):.2f}" if len(found) == 1 else f"{min(found):.2f}–{max(found):.2f}"
    sign = "≥" if least else "≤"
    reached = ("yes" if good else "no") if len(found) == 1 else f"{good} of {len(found)}"
    return [work, against, f"{sign} {wanted}", span, reached]


def cells(text):
    """The rows of all tables in Markdown, without heads, as lists of cells."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ruled = [set("".join(row)) <= set("-: ") for row in rows]
    return [row for i, row in enumerate(rows) if not ruled[i] and not (i + 1 < len(rows) and ruled[i + 1])]


def shares(cell):
    """The numbers of `91 %, 85 %`: at best and usually."""
    return [float(part.strip().rstrip("%")) for part in cell.split(",")] if cell else []


def benchmark(package, name, words, **environment):
    """The table that a benchmark prints, shown as it comes; it knows of a peer only what `environment` says."""
    environment = {key: value for key, value in os.environ.items() if key != "PEER_PYTHON"} | environment
    command = ["cargo", "bench", "--quiet", "-p", package, "--bench", name, "--", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    lines = []
    for line in child.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if child.wait() != 0:
        sys.exit(f"goals: exit code {child.returncode} from: {name}")
    return "".join(lines)


def steps(args, work):
    sizes, seqs = (["m14", "m70", "m160"], [512, 2048]) if args.all else (["m14"], [512])
    bench.write_tokens(work / "tokens")
    rows = []
    for dtype in args.dtypes:
        found = []
        for size, seq in [(size, seq) for size in sizes for seq in seqs]:
            found.append(bench.measure((size, seq, dtype), args, work))
            print(call([args.neoxc, "profile", "--plan", found[-1]["plan"], "--top", 0])[0], flush=True)
        if args.peer:
            rows.append(goal(f"{dtype} step", "torch.compile", STEP[dtype], [f["ratio"] for f in found]))
            rows.append(goal(f"{dtype} step, memory", "torch.compile", MEMORY, [f["memory_ratio"] for f in found], False))
        small = [f for f in found if f["case"][0] == "m14"]
        rows.append(goal(f"{dtype} 14M compiled, seconds", "clock", COLD, [f["cold"] for f in small], False))
        rows.append(goal(f"{dtype} 14M from the cache", "clock", CACHED, [f["cached"] for f in small], False))
    return rows


def matmuls(args, _work):
    rows = []
    for dtype in args.dtypes:
        words = dtype if args.all else f"m14 {dtype}"
        table = benchmark("neoxc-driver", "matmul_bench", [words], ROUNDS=str(3 * args.rounds))
        found = [f for f in (shares(row[5]) for row in cells(table)) if f]
        if not found:
            print(f"goals: this processor has no dot products of pairs of {dtype} to measure a peak of")
            continue
        for i, how in enumerate(["at best", "usually"]):
            rows.append(goal(f"{dtype} matmuls {how}, %", "measured peak", MATMUL[dtype], [f[i] for f in found]))
    return rows


def attention(args, _work):
    if not args.peer:
        print("no PEER_PYTHON: nothing to compare with")
        return []
    rows = []
    for dtype in args.dtypes:
        words = dtype if args.all else f"{dtype} 4 × 8 × 512"
        # Cargo starts a benchmark in the folder of its package, where a relative path would not be found.
        peer = os.path.abspath(shutil.which(args.peer) or args.peer)
        table = benchmark("neoxc-codegen", "kernel_bench", ["sdpa", words], PEER_PYTHON=peer)
        ratios = [float(row[-1]) for row in cells(table)]
        rows.append(goal(f"{dtype} attention with backward", "PyTorch's", ATTENTION, ratios))
    return rows


def text(args, work):
    sizes = list(generate.SIZES) if args.all else ["m14", "m70"]
    alone = argparse.Namespace(**{**vars(args), "peer": None, "dtype": "bf16", "tokens": 128})
    found = [generate.measure(size, alone, work) for size in sizes]
    return [goal("bf16 text", "reading weights once", TEXT, [f["share"] for f in found])]


def large(args, work):
    """Compiling 20B for a cluster, with nothing in the cache."""
    if not args.configs:
        print("no --configs: 20B is not compiled")
        return []
    rows = []
    for dtype in ["f32", "bf16"] if args.all else ["f32"]:
        folder = work / f"large-{dtype}"
        out, seconds, _ = call([args.neoxc, "compile", "-d", args.configs, *LARGE_PLAN, *bench.PRECISION[dtype],
                                "--cache", folder / "cache", "-o", folder / "plan"])
        print(f"{dtype}, 20B for 96 ranks: {out.splitlines()[-1]}")
        rows.append(goal(f"{dtype} 20B compiled, seconds", "clock", LARGE, [seconds], False))
    return rows


PARTS = {"steps": steps, "matmuls": matmuls, "attention": attention, "text": text, "large": large}


def fast_dtypes():
    """What this processor has instructions for."""
    flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    return ["f32", "bf16"] if {"avx512_bf16", "amx_bf16"} & set(flags) else ["f32"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--dtypes", default=",".join(fast_dtypes()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--configs", type=pathlib.Path)
    parser.add_argument("--peer", default=os.environ.get("PEER_PYTHON"))
    parser.add_argument("--neoxc", default=os.environ.get("NEOXC", "target/release/neoxc"))
    args = parser.parse_args()
    only, args.dtypes = args.only.split(","), args.dtypes.split(",")
    for what, given, known in [("part", only, PARTS), ("dtype", args.dtypes, bench.PRECISION)]:
        unknown = set(given) - set(known)
        if unknown:
            sys.exit(f"goals: unknown {what} {', '.join(unknown)}; there are {', '.join(known)}")
    if args.rounds < 1:
        sys.exit("goals: --rounds must be at least 1")
    args.neoxc = bench.binary(args.neoxc)
    args.configs = args.configs and args.configs.resolve()
    args.peer_mode, args.steps, args.set = "compile", 6, []
    print(bench.circumstances(args.peer))
    rows = []
    for part in only:
        print(f"\n## {part}", flush=True)
        with tempfile.TemporaryDirectory() as work:
            rows += PARTS[part](args, pathlib.Path(work))
    print(f"\n{markdown(['work', 'against', 'goal', 'measured', 'reached'], rows)}")


if __name__ == "__main__":
    main()
