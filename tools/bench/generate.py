"""Measures how fast neoxc makes text on the CPU, and PyTorch beside it: greedy, one text, token by token.

usage: generate.py [--sizes m14,m70,m160,m410] [--dtype bf16] [--tokens 128] [--rounds 3] [--peer PYTHON] [--neoxc BINARY]

A token reads every weight once. The share is of the tokens/s at which the bytes of the weights would be read as fast as
the machine reads memory, measured in the same process. Compare only within a run: see README.md.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

from bench import CONFIGS, HERE, PRECISION, ROOT, call

SIZES = {**CONFIGS, "m410": "410M"}


def compiled(neoxc, size, dtype, work):
    plan = work / f"{size}.plan"
    call([neoxc, "compile", f"configs/pythia/{SIZES[size]}.yml", "configs/local/bench.yml", "--set",
          "train_micro_batch_size_per_gpu=1", *PRECISION[dtype], "--cache", work / "cache", "-o", plan])
    return plan


def measure(size, args, work):
    """Prints what one size gives; returns its row of the table."""
    plan = compiled(args.neoxc, size, args.dtype, work)
    ours, shares, peers, limits = [], [], [], []
    for turn in range(1, args.rounds + 1):
        line = f"{size} round {turn}:"
        if args.peer:
            flags = ["--bf16"] * (args.dtype == "bf16")
            out, _, _ = call([args.peer, HERE / "torch_generate.py", size, "--tokens", args.tokens, *flags])
            peers.append(json.loads(out.splitlines()[-1])["tokens_per_second"])
            line += f" torch {peers[-1]:.0f} tokens/s,"
        out, _, _ = call([args.neoxc, "profile", "--plan", plan, "--tokens", args.tokens, "--json"])
        found = json.loads(out)
        limits.append(found["limits"]["read_bytes"] / found["product_bytes"])
        ours.append(1e3 / found["step_ms"])
        shares.append(ours[-1] / limits[-1])
        print(f"{line} neoxc {ours[-1]:.0f} tokens/s, {100 * shares[-1]:.0f} % of {limits[-1]:.0f}", flush=True)
    row = [size, args.dtype, f"{found['product_bytes'] / 1e6:.1f} MB", f"{statistics.median(ours):.0f}",
           f"{statistics.median(limits):.0f}", f"{100 * statistics.median(shares):.0f} %"]
    if peers:
        row += [f"{statistics.median(peers):.0f}", f"{statistics.median(o / p for o, p in zip(ours, peers)):.2f}"]
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--dtype", choices=PRECISION, default="bf16")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default=os.environ.get("PEER_PYTHON"))
    parser.add_argument("--neoxc", default=os.environ.get("NEOXC", "target/release/neoxc"))
    args = parser.parse_args()
    args.neoxc = (ROOT / args.neoxc).resolve()
    if not args.neoxc.exists():
        sys.exit(f"generate: no {args.neoxc}; run: make build")
    unknown = set(args.sizes.split(",")) - SIZES.keys()
    if unknown:
        sys.exit(f"generate: unknown size {', '.join(unknown)}; there are {', '.join(SIZES)}")
    if not args.peer:
        print("no PEER_PYTHON: neoxc alone (see tools/bench/README.md)")
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.2f} before the start")
    with tempfile.TemporaryDirectory() as work:
        rows = [measure(size, args, pathlib.Path(work)) for size in args.sizes.split(",")]
    head = ["model", "dtype", "read per token", "neoxc tokens/s", "limit", "share"]
    if args.peer:
        head += ["torch tokens/s", "ratio"]
    print()
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
