#!/bin/sh
# Cuts the link between two hosts of a training job: all ranks have to end soon after the timeout, and on each
# side one has to name a rank on the other side, and what it waited for. The hosts are network namespaces of this machine, joined by a cable.
# With `hole` the link stays, and loses every frame over 700 bytes: signs of life pass, data do not. All ranks have to
# end too, and to name whom they waited for in which collective.
# usage: tools/cut-link.sh [NEOXC] [cut|hole]     NEOXC is the program [default: target/release/neoxc]
# Needs root; where namespaces cannot be made it says so and tests nothing.
set -eu
cd "$(dirname "$0")/.."
neoxc=$(realpath "${1:-target/release/neoxc}")
timeout=4
what=${2:-cut}
say() { echo "cut-link: $*"; }

work=$(mktemp -d)
a=nxa$$ b=nxb$$
end() {
  for host in $a $b; do
    for process in $(ip netns pids $host 2>/dev/null); do kill -9 "$process" 2>/dev/null || true; done
    ip netns del $host 2>/dev/null || true
  done
  rm -rf "$work"
}
trap end EXIT
if ! command -v ip >/dev/null || ! ip netns add $a 2>/dev/null || ! ip netns add $b 2>/dev/null; then
  say "skipped: network namespaces cannot be made here (root and iproute2 are needed)"
  exit 0
fi
ip link add va$$ netns $a type veth peer name vb$$ netns $b
for host in "$a va$$ 10.93.0.1" "$b vb$$ 10.93.0.2"; do
  # shellcheck disable=SC2086
  set -- $host
  ip -n "$1" addr add "$3/24" dev "$2"
  ip -n "$1" link set "$2" up
  ip -n "$1" link set lo up
done

# Stands in for ssh: the only other host is the second namespace.
cat >"$work/agent" <<EOF
#!/bin/sh
shift
exec ip netns exec $b unshare --uts sh -c 'hostname $b; exec sh -c "\$0"' "\$*"
EOF
chmod +x "$work/agent"

cat >"$work/model.yml" <<EOF
{ "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "seq_length": 16, "max_position_embeddings": 16,
  "padded_vocab_size": 64, "pos_emb": "rotary", "train_micro_batch_size_per_gpu": 1, "train_iters": 100000,
  "eval_iters": 0, "optimizer": {"type": "Adam", "params": {"lr": 0.001}} }
EOF
"$neoxc" compile "$work/model.yml" --set world_size=4 --set model_parallel_size=2 -o "$work/plan" >/dev/null
net=10.93.0.0/24
ip netns exec $a unshare --uts sh -c "hostname $a; exec mpirun --allow-run-as-root --oversubscribe --bind-to none \
  --host 10.93.0.1:2,10.93.0.2:2 --mca plm_rsh_agent $work/agent --mca oob_tcp_if_include $net --mca pml ob1 \
  --mca btl self,vader,tcp --mca btl_tcp_if_include $net --mca btl_vader_single_copy_mechanism none \
  --output-filename $work/out \
  $neoxc run --plan $work/plan --synthetic --threads 1 --timeout $timeout --metrics $work/m.jsonl" \
  >"$work/log" 2>&1 &
for _ in $(seq 600); do
  [ -s "$work/m.jsonl" ] && break
  sleep 0.1
done
[ -s "$work/m.jsonl" ] || { cat "$work/log"; say "failed: the job does not train"; exit 1; }
case $what in
  cut) ip -n $a link set va$$ down ;;
  # A frame that is longer than a burst is dropped.
  hole) tc -n $a qdisc add dev va$$ root tbf rate 100mbit burst 700 limit 100000 ;;
esac
say "cut after $(wc -l <"$work/m.jsonl") steps"

# Twice the timeout: one to notice, and some for a busy machine.
left() { pgrep -f "run --plan $work/plan" | while read -r p; do
  [ "$(cat "/proc/$p/comm" 2>/dev/null)" = neoxc ] && echo "$p"; done; }
for _ in $(seq $((timeout * 20))); do
  [ -z "$(left)" ] && break
  sleep 0.1
done
[ -z "$(left)" ] || { say "failed: ranks go on without each other"; exit 1; }
all=$(cat "$work"/out/*/*/stderr)
if [ "$what" = hole ]; then
  told="rank 0 has waited for $timeout s, and so have all others: .*waited for rank.* in .*programs/"
  echo "$all" | grep "NXR0603.*$told" || { echo "$all"; say "failed: nobody says what it waited for"; exit 1; }
  say "passed: all ranks ended, and named what they waited for"
  exit 0
fi
# mpirun may end the second rank of a side when the first has ended.
for side in '[01] [23]' '[23] [01]'; do
  mine=${side% *} other=${side#* }
  lost="rank $mine: error\[NXR0603\]: rank $other was silent for $timeout s"
  if ! echo "$all" | grep -q "$lost.* waited for rank.* \(in .*programs/\|between programs\)"; then
    echo "$all"
    say "failed: no rank $mine says whom it lost, and what it waited for"
    exit 1
  fi
done
echo "$all" | grep NXR0603
say "passed: all ranks ended, and each side named a rank of the other"
