#!/bin/sh
# Time to compile, and size of the plan, as layers, micro-batches and ranks grow: neither should.
# usage: tools/bench/scaling.sh [NEOXC]     (kernels come from the cache: the second run of each counts)
set -eu
cd "$(dirname "$0")/../.."
neoxc=${1:-target/release/neoxc}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# $1: a label; the rest: keys on top of a model of 4096 columns on 4 stages × 8 tensor ranks.
row() {
  label=$1
  shift
  for round in 1 2; do
    "$neoxc" compile --cache "$folder/cache" -o "$folder/plan" --json \
      --cluster configs/clusters/h100.yml --set hidden_size=4096 --set num_attention_heads=32 \
      --set seq_length=2048 --set max_position_embeddings=2048 --set padded_vocab_size=50432 \
      --set pos_emb=rotary --set no_weight_tying=true --set train_micro_batch_size_per_gpu=1 \
      --set 'optimizer={"type": "Adam", "params": {"lr": 0.0001}}' --set train_iters=1 \
      --set checkpoint_activations=true --set 'zero_optimization={"stage": 1}' \
      --set model_parallel_size=8 --set pipe_parallel_size=4 "$@" >"$folder/json" 2>"$folder/err" ||
      { cat "$folder/err" >&2; exit 1; }
  done
  bytes=$(du -sb "$folder/plan" | cut -f 1)
  python3 - "$folder/json" "$label" "$bytes" <<'PY'
import json, sys
o = json.load(open(sys.argv[1]))
ms = o["phases_ms"]
total = sum(ms.values())
print(f"| {sys.argv[2]} | {o['world_size']} | {total:.0f} ms | {total - ms['kernels']:.0f} ms | {int(sys.argv[3]) / 1e6:.2f} MB |")
PY
}

echo "| | ranks | compile | without kernels | plan |"
echo "|---|---|---|---|---|"
for layers in 8 32 128 512; do
  row "$layers layers" --set num_layers=$layers --set world_size=64 --set gradient_accumulation_steps=32
done
for micro in 8 64 512 4096; do
  row "$micro micro-batches" --set num_layers=32 --set world_size=64 --set gradient_accumulation_steps=$micro
done
for ranks in 32 256 1024 4096; do
  row "$ranks ranks" --set num_layers=32 --set world_size=$ranks --set gradient_accumulation_steps=32
done
for pipe in 2 8 32 64; do
  row "$pipe stages" --set num_layers=128 --set world_size=1024 --set pipe_parallel_size=$pipe \
    --set gradient_accumulation_steps=128
done
