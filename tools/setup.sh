#!/bin/sh
# Installs what building neoxc needs on Debian 12 and nothing that is already there.
# usage: tools/setup.sh [--test]
#   --test   also .venv-test/bin/ptxas, NVIDIA's assembler, which the tests feed every PTX kernel to
# Asks nothing, may be run again at any time; takes a fraction of a second when all is there.
set -eu
cd "$(dirname "$0")/.."

# LLVM and MLIR 22 with what their static parts link to; ld.lld makes the GPU objects and x86
# libraries; libclang is for the build scripts of mlir-sys and mpi-sys. OpenMPI starts ranks as processes.
packages="gcc g++ make libc6-dev llvm-22-dev libmlir-22-dev mlir-22-tools lld-22 libpolly-22-dev
 libclang1-22 libclang-common-22-dev libzstd-dev zlib1g-dev openmpi-bin libopenmpi-dev"
ptxas_version=12.9.86
test=0
for arg in "$@"; do
  case $arg in
    --test) test=1 ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "setup: unknown argument $arg (--test is the only one)" >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*" >&2; }
die() { say "$@"; exit 1; }

# The name of each package that dpkg does not have installed.
missing() {
  # shellcheck disable=SC2086
  have=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' $packages 2>/dev/null |
    sed -n 's/ installed$//p')
  for p in $packages; do
    case "
$have
" in *"
$p
"*) ;; *) printf '%s ' "$p" ;; esac
  done
}

command -v dpkg-query >/dev/null ||
  die "this script knows Debian; elsewhere install LLVM and MLIR 22 (with lld and libclang) under /usr/lib/llvm-22"

# A virtual environment needs Python's venv and ensurepip, which Debian packages apart from python3.
if [ $test = 1 ] && [ ! -x .venv-test/bin/ptxas ]; then
  python3 -c 'import venv, ensurepip' 2>/dev/null || packages="$packages python3 python3-venv"
fi

needed=$(missing)
if [ -n "$needed" ]; then
  command="apt-get install -y --no-install-recommends $needed"
  [ "$(id -u)" = 0 ] || die "missing: $needed
setup: run this as root, then start again:  $command"
  say "installing $needed"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || die "apt-get update failed: is there a network, and are the sources right?"
  for p in $needed; do
    candidate=$(apt-cache policy "$p" | sed -n 's/^  Candidate: //p')
    if [ -z "$candidate" ] || [ "$candidate" = "(none)" ]; then
      die "apt offers no $p. On Debian 12 LLVM 22 comes with the security updates:
setup: add 'bookworm-security main' to the apt sources and start again"
    fi
  done
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $needed >&2 || die "failed: $command"
fi

command -v cargo >/dev/null ||
  die "no cargo: install Rust 1.95 or newer, with rustfmt and clippy, and put it on the PATH"

if [ $test = 1 ] && [ ! -x .venv-test/bin/ptxas ]; then
  say "making .venv-test with ptxas $ptxas_version"
  rm -rf .venv-test
  python3 -m venv .venv-test || die "python3 -m venv .venv-test failed"
  .venv-test/bin/pip install -q --disable-pip-version-check --no-deps \
    "nvidia-cuda-nvcc-cu12==$ptxas_version" >&2 || die "pip could not install ptxas"
  found=$(find "$PWD/.venv-test/lib" -path '*/cuda_nvcc/bin/ptxas' | head -n 1)
  [ -n "$found" ] || die "the wheel of ptxas $ptxas_version holds no cuda_nvcc/bin/ptxas"
  chmod +x "$found"
  "$found" --version >/dev/null || die "$found does not run"
  # The last step, so that a setup that was cut short is made anew.
  ln -s "$found" .venv-test/bin/ptxas
fi
