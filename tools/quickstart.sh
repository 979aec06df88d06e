#!/bin/sh
# From text to a model that writes: the whole road once, in out/quickstart.
# The tokenizer, the tokens and compiled kernels are kept; the training starts anew each time.
# usage: tools/quickstart.sh        NEOXC names the binary (default target/release/neoxc)
set -eu
cd "$(dirname "$0")/.."
neoxc=${NEOXC:-${CARGO_TARGET_DIR:-target}/release/neoxc}
text=data/shakespeare.jsonl
out=out/quickstart
[ -x "$neoxc" ] || { echo "quickstart: no $neoxc; run: make build" >&2; exit 1; }
mkdir -p "$out"

# Shows a command, then runs it, so that a reader can repeat every step by hand.
run() { echo; echo "$ neoxc $*"; "$neoxc" "$@"; }

if ! [ "$out/tokenizer.json" -nt "$text" ]; then
  run tokenizer train "$text" --vocab-size 4096 -o "$out/tokenizer.json" --force
fi
tokens=$out/shakespeare_text_document
if ! { [ "$tokens.idx" -nt "$out/tokenizer.json" ] && [ "$tokens.bin" -nt "$out/tokenizer.json" ]; }; then
  run data preprocess "$text" --vocab-file "$out/tokenizer.json" --append-eod \
    -o "$out/shakespeare" --force
fi
run compile configs/pythia/14M.yml configs/local/quickstart.yml -o "$out/plan"
rm -rf "$out/checkpoints" "$out/metrics.jsonl"
run run --plan "$out/plan" --save "$out/checkpoints" --metrics "$out/metrics.jsonl"
run generate --plan "$out/plan" --prompt "ROMEO:" --temperature 0.8 --top-k 40 --max-tokens 120
