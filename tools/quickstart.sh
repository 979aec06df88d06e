#!/usr/bin/env bash
# The road from text to a model, on the CPU: tokenizer, data, plan, training, a sample.
# Can be run again: tokenizer and data are kept, training starts anew.
set -euo pipefail
cd "$(dirname "$0")/.."
neoxc=target/release/neoxc
out=out/quickstart
mkdir -p "$out"
[ -f "$out/tokenizer.json" ] ||
  "$neoxc" tokenizer train data/shakespeare.jsonl --vocab-size 4096 -o "$out/tokenizer.json"
[ -f "$out/shakespeare_text_document.idx" ] ||
  "$neoxc" data preprocess data/shakespeare.jsonl --vocab-file "$out/tokenizer.json" --append-eod \
    -o "$out/shakespeare" --force
"$neoxc" compile configs/pythia/14M.yml configs/local/quickstart.yml -o "$out/plan"
rm -rf "$out/checkpoints" "$out/metrics.jsonl"
"$neoxc" run --plan "$out/plan" --metrics "$out/metrics.jsonl"
echo
echo "A sample of what it learned:"
"$neoxc" generate --plan "$out/plan" --prompt "ROMEO:" --max-tokens 100 --temperature 0.7 --top-k 40
