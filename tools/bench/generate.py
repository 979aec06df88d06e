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

from bench import CONFIGS, HERE, PRECISION, binary, call, circumstances, markdown

SIZES = {**CONFIGS, "m410": "410M"}


def compiled(neoxc, size, dtype, work):
    plan = work / f"{size}.plan"
    call([neoxc, "compile", f"configs/pythia/{SIZES[size]}.yml", "configs/local/bench.yml", "--set",
          "train_micro_batch_size_per_gpu=1", *PRECISION[dtype], "--cache", work / "cache", "-o", plan])
    return plan


def measure(size, args, work):
    """Prints what one size gives, and returns it: bytes read for a token, tokens/s, what they could be, and the share;
    beside a peer its tokens/s and the ratio."""
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
        limits.append(found["limits"]["read_bytes"] / found["matmul_bytes"])
        ours.append(1e3 / found["step_ms"])
        shares.append(ours[-1] / limits[-1])
        print(f"{line} neoxc {ours[-1]:.0f} tokens/s, {100 * shares[-1]:.0f} % of {limits[-1]:.0f}", flush=True)
    made = {"size": size, "dtype": args.dtype, "bytes": found["matmul_bytes"],
            "tokens_per_second": statistics.median(ours), "limit": statistics.median(limits),
            "share": statistics.median(shares)}
    if peers:
        made |= {"peer_tokens_per_second": statistics.median(peers),
                 "ratio": statistics.median(o / p for o, p in zip(ours, peers))}
    return made


def row(made):
    """A line of the table."""
    cells = [made["size"], made["dtype"], f"{made['bytes'] / 1e6:.1f} MB", f"{made['tokens_per_second']:.0f}",
             f"{made['limit']:.0f}", f"{100 * made['share']:.0f} %"]
    if "ratio" in made:
        cells += [f"{made['peer_tokens_per_second']:.0f}", f"{made['ratio']:.2f}"]
    return cells


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--dtype", choices=PRECISION, default="bf16")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default=os.environ.get("PEER_PYTHON"))
    parser.add_argument("--neoxc", default=os.environ.get("NEOXC", "target/release/neoxc"))
    args = parser.parse_args()
    args.neoxc = binary(args.neoxc)
    unknown = set(args.sizes.split(",")) - SIZES.keys()
    if unknown:
        sys.exit(f"generate: unknown size {', '.join(unknown)}; there are {', '.join(SIZES)}")
    print(circumstances(args.peer))
    with tempfile.TemporaryDirectory() as work:
        rows = [row(measure(size, args, pathlib.Path(work))) for size in args.sizes.split(",")]
    head = ["model", "dtype", "read per token", "neoxc tokens/s", "limit", "share"]
    if args.peer:
        head += ["torch tokens/s", "ratio"]
    print(f"\n{markdown(head, rows)}")


if __name__ == "__main__":
    main()
