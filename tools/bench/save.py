"""Measures what a checkpoint costs the training step that runs beside it.

usage: save.py [--size m70] [--seq 512] [--dtype f32] [--every 4] [--steps 21] [--folder DIR] [--neoxc BINARY]

Trains on made-up tokens and saves after every few steps. Prints the median of the steps beside no save, each step that
ran beside one, and the ratio of the two medians; then what training waited. The checkpoints go to a temporary folder in
DIR, so that another disk can be named. Compare only within a run: see README.md.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

from bench import BATCH, CONFIGS, PRECISION, ROOT, WARM_UP, batch_of, call


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=BATCH, default="m70")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--dtype", choices=PRECISION, default="f32")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--neoxc", default=os.environ.get("NEOXC", "target/release/neoxc"))
    args = parser.parse_args()
    args.neoxc = (ROOT / args.neoxc).resolve()
    if not args.neoxc.exists():
        sys.exit(f"save: no {args.neoxc}; run: make build")
    if args.every < 2 or args.steps < args.every + WARM_UP:
        sys.exit("save: some steps must run beside a save, and some beside none")
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.2f} before the start")
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        metrics, save = pathlib.Path(work) / "metrics.jsonl", pathlib.Path(work) / "save"
        call([args.neoxc, "run", f"configs/pythia/{CONFIGS[args.size]}.yml", "configs/local/bench.yml",
              "--set", f"seq_length={args.seq}", "--set", f"train_micro_batch_size_per_gpu={batch_of(args.size, args.seq)}",
              "--set", f"checkpoint_factor={args.every}", "--set", "keep_last_n_checkpoints=1", *PRECISION[args.dtype],
              "--synthetic", "--steps", args.steps, "--save", save, "--metrics", metrics])
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        size = sum(f.stat().st_size for f in save.glob("*/*.safetensors"))
    is_beside = lambda line: line["step"] > args.every and line["step"] % args.every == 1
    beside = [line["step_seconds"] for line in lines if is_beside(line)]
    others = [line["step_seconds"] for line in lines[WARM_UP:] if not is_beside(line)]
    usual = statistics.median(others)
    print(f"{args.size}, sequence {args.seq}, {args.dtype}: {size / 1e9:.2f} GB a save")
    print(f"steps beside no save: median {usual:.3f} s, {min(others):.3f} to {max(others):.3f}")
    print("steps beside a save: " + ", ".join(f"{s:.3f}" for s in beside) + " s")
    print(f"ratio {statistics.median(beside) / usual:.3f}; "
          f"waited at most {1e3 * max(line['checkpoint_seconds'] for line in lines):.1f} ms")


if __name__ == "__main__":
    main()
