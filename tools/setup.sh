#!/usr/bin/env bash
# Installs what a fresh Debian 12 machine lacks: LLVM and MLIR 22, the linker, and with --test what only
# tests need. Idempotent and silent when there is nothing to do; needs root only to install.
set -euo pipefail
packages=(g++ libc6-dev llvm-22-dev libmlir-22-dev mlir-22-tools lld-22 libpolly-22-dev libclang1-22
  libclang-common-22-dev libzstd-dev zlib1g-dev)
missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${Status}' "$p" 2>/dev/null)" = "install ok installed" ] || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "setup: these packages are missing; as root run:" >&2
    echo "  apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  if ! apt-cache show llvm-22-dev >/dev/null 2>&1; then
    echo "setup: apt offers no llvm-22-dev; Debian 12's security archive has it: enable it first" >&2
    exit 1
  fi
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
command -v cargo >/dev/null || { echo "setup: cargo is missing: install Rust 1.95 or newer" >&2; exit 1; }
