"""Measures neoxc, and PyTorch beside it, on the CPU; bench.sh is its front door.

usage: bench.py [--sizes m14,m70] [--seqs 512] [--dtypes f32,bf16] [--peer-mode eager|compile] [--rounds 3] [--steps 8]
                [--peer PYTHON] [--neoxc BINARY] [--set checkpoint_activations=true]

For each size, sequence and dtype: compile cold and from the cache, then alternate PyTorch and `neoxc-run`, which lies
beside `neoxc`, so that whatever else the machine does hits both. At the end a table of all ratios, as Markdown. Only the ratio within a round means anything on a shared machine.
Uses the standard library only. Exits with 1 when a command fails, not when a goal is missed.
"""
import argparse
import array
import json
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONFIGS = {"m14": "14M", "m70": "70M", "m160": "160M"}
WARM_UP = 2
# Sequences of a micro-batch: 4 of up to 512 tokens (2 for m160), fewer where they are longer.
BATCH = {"m14": 4, "m70": 4, "m160": 2}
PRECISION = {"f32": [], "bf16": ["--set", "precision=bfloat16"]}
MIB = 2**20


def call(command):
    """Runs a command; returns its stdout, wall seconds and peak resident bytes."""
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        child = subprocess.Popen(
            [str(c) for c in command], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True)
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            errors.seek(0)
            sys.stderr.write(errors.read())
            sys.exit(f"bench: exit code {child.returncode} from: {' '.join(map(str, command))}")
    return out, wall, usage.ru_maxrss * 1024


def write_tokens(prefix, count=100_000):
    """A data set of one document of random tokens below 50,000, in Megatron's .bin/.idx format."""
    tokens = array.array("H", random.Random(1).choices(range(50_000), k=count))
    pathlib.Path(f"{prefix}.bin").write_bytes(tokens.tobytes())
    uint16 = 8
    pathlib.Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, uint16, 1, 2)
        + struct.pack("<i", count) + struct.pack("<q", 0) + struct.pack("<qq", 0, 1))


def binary(path):
    """The compiler at `path`, seen from the project, and the runtime beside it."""
    neoxc = (ROOT / path).resolve()
    for found in (neoxc, neoxc.with_name("neoxc-run")):
        if not found.exists():
            sys.exit(f"bench: no {found}; run: make build")
    return neoxc


def circumstances(peer):
    """What numbers have to be read with."""
    alone = "" if peer else "no PEER_PYTHON: neoxc alone (see tools/bench/README.md)\n"
    return f"{alone}{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.2f} before the start"


def markdown(head, rows):
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def batch_of(size, seq):
    return max(1, BATCH[size] * 512 // seq)


def compile_twice(neoxc, case, sets, work):
    """The plan, its memory line in bytes, and the seconds without and with a filled cache."""
    size, seq, dtype = case
    name = f"{size}-{seq}-{dtype}"
    plan = work / f"{name}.plan"
    command = [neoxc, "compile", f"configs/pythia/{CONFIGS[size]}.yml", "configs/local/bench.yml",
               "--set", f"data_path={work}/tokens", "--set", "split=100,0,0", "--set", f"seq_length={seq}",
               "--set", f"train_micro_batch_size_per_gpu={batch_of(size, seq)}", *PRECISION[dtype],
               *(word for s in sets for word in ("--set", s)), "--cache", work / f"{name}.cache", "-o", plan, "--json"]
    out, cold, _ = call(command)
    _, cached, _ = call(command)
    return plan, json.loads(out), cold, cached


def run_neoxc(runner, plan, steps, work):
    """Median seconds of the steps after the first two, and the process's peak resident bytes."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        metrics = pathlib.Path(folder) / "metrics.jsonl"
        _, _, rss = call([runner, "--plan", plan, "--steps", steps, "--save", f"{folder}/save",
                          "--metrics", metrics])
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return statistics.median(line["step_seconds"] for line in lines[WARM_UP:]), rss


def run_torch(python, case, steps, compiled):
    size, seq, dtype = case
    flags = ["--compile"] * compiled + ["--bf16"] * (dtype == "bf16")
    out, _, rss = call([python, HERE / "torch_step.py", size, "--steps", steps, "--seq", seq,
                        "--batch", batch_of(size, seq), *flags])
    return json.loads(out.splitlines()[-1])["step_seconds"], rss


def measure(case, args, work):
    """Prints what one case gives, and returns it: the plan, seconds to compile, tokens/s, resident bytes; beside a
    peer its tokens/s and bytes, and the ratios."""
    size, seq, dtype = case
    plan, facts, cold, cached = compile_twice(args.neoxc, case, args.set, work)
    tokens, planned = facts["tokens_per_step"], facts["memory"]["peak"]
    print(f"{size}, sequence {seq}, {dtype}: {facts['parameters'] / 1e6:.1f} M parameters, {tokens} tokens a step")
    print(f"  compile: {cold:.2f} s cold, {cached:.2f} s from the cache")
    ours, peers, peak, peer_peak = [], [], 0, 0
    for turn in range(1, args.rounds + 1):
        line = f"  round {turn}:"
        if args.peer:
            seconds, rss = run_torch(args.peer, case, args.steps, args.peer_mode == "compile")
            peers.append(seconds)
            peer_peak = max(peer_peak, rss)
            line += f" torch {args.peer_mode} {seconds:.3f} s/step ({tokens / seconds:.0f} tokens/s),"
        seconds, rss = run_neoxc(args.neoxc.with_name("neoxc-run"), plan, args.steps, work)
        ours.append(seconds)
        peak = max(peak, rss)
        line += f" neoxc {seconds:.3f} s/step ({tokens / seconds:.0f} tokens/s)"
        if args.peer:
            line += f", neoxc is {peers[-1] / seconds:.2f} times as fast"
        print(line, flush=True)
    print(f"  memory: {peak / MIB:.0f} MiB resident at most, {planned / MIB:.0f} MiB planned, "
          f"{(peak - planned) / 1e6:+.0f} MB")
    found = {"case": case, "plan": plan, "cold": cold, "cached": cached,
             "tokens_per_second": tokens / statistics.median(ours), "resident": peak}
    if peers:
        found |= {"peer_tokens_per_second": tokens / statistics.median(peers), "peer_resident": peer_peak,
                  "ratio": statistics.median(p / o for p, o in zip(peers, ours)), "memory_ratio": peak / peer_peak}
    return found


def row(found):
    """A line of the table."""
    cells = [*found["case"], f"{found['tokens_per_second']:.0f}"]
    if "ratio" in found:
        cells += [f"{found['peer_tokens_per_second']:.0f}", f"{found['ratio']:.2f}",
                  f"{found['resident'] / MIB:.0f} / {found['peer_resident'] / MIB:.0f} MiB",
                  f"{found['memory_ratio']:.2f}"]
    return cells


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="m14,m70")
    parser.add_argument("--seqs", default="512")
    parser.add_argument("--dtypes", default="f32")
    parser.add_argument("--peer-mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--peer", default=os.environ.get("PEER_PYTHON"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--neoxc", default=os.environ.get("NEOXC", "target/release/neoxc"))
    args = parser.parse_args()
    args.neoxc = binary(args.neoxc)
    if args.steps <= WARM_UP:
        sys.exit(f"bench: --steps must be above {WARM_UP}: the first {WARM_UP} are not counted")
    sizes, seqs, dtypes = (text.split(",") for text in (args.sizes, args.seqs, args.dtypes))
    for what, given, known in [("size", sizes, CONFIGS), ("dtype", dtypes, PRECISION)]:
        unknown = set(given) - known.keys()
        if unknown:
            sys.exit(f"bench: unknown {what} {', '.join(unknown)}; there are {', '.join(known)}")
    if not all(seq.isdigit() and 0 < int(seq) <= 2048 for seq in seqs):
        sys.exit("bench: --seqs are numbers from 1 to 2048")
    print(circumstances(args.peer))
    with tempfile.TemporaryDirectory() as work:
        write_tokens(pathlib.Path(work) / "tokens")
        cases = [(size, int(seq), dtype) for size in sizes for seq in seqs for dtype in dtypes]
        rows = [row(measure(case, args, pathlib.Path(work))) for case in cases]
    head = ["model", "sequence", "dtype", "neoxc tokens/s"]
    if args.peer:
        head += [f"torch {args.peer_mode} tokens/s", "ratio", "resident", "of torch's"]
    print(f"\n{markdown(head, rows)}")


if __name__ == "__main__":
    main()
