#!/bin/sh
# neoxc beside PyTorch on this machine: step times, compile times, memory. See README.md.
set -eu
exec python3 "$(dirname "$0")/bench.py" "$@"
