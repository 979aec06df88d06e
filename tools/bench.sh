#!/usr/bin/env bash
# Training steps per second of 14M and 70M at sequence 512, micro-batch 4, against PyTorch eager in f32
# on the same machine in the same run. PEER_PYTHON names a Python with torch and transformers.
set -euo pipefail
cd "$(dirname "$0")/.."
neoxc=target/release/neoxc
rounds=${ROUNDS:-3}
steps=${STEPS:-8}
for size in 14M 70M; do
  plan=out/bench-$size
  cache=$(mktemp -d)
  cold=$("$neoxc" compile configs/pythia/$size.yml configs/local/bench.yml -o "$plan" --cache "$cache" | tail -n 1)
  warm=$("$neoxc" compile configs/pythia/$size.yml configs/local/bench.yml -o "$plan" --cache "$cache" | tail -n 1)
  rm -rf "$cache"
  echo "$size cold: $cold"
  echo "$size warm: $warm"
  for _ in $(seq "$rounds"); do
    "$neoxc" run --plan "$plan" --steps "$steps" --synthetic 2>/dev/null | sed -n "s/^median/$size neoxc: median/p"
    if [ -n "${PEER_PYTHON:-}" ]; then
      "$PEER_PYTHON" tools/bench_torch.py "$size" 512 4 "$steps"
    fi
  done
done
