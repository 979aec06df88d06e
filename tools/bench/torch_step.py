"""The peer: whole training steps of Hugging Face's GPTNeoX in PyTorch on the CPU.

usage: torch_step.py {m14|m70|m160} [--seq 512] [--batch 4] [--steps 8] [--threads N] [--compile] [--bf16]

A step is what a compiled plan does in one: forward, loss over the whole vocabulary, backward, clipping
to norm 1, AdamW (PyTorch's fused one), with SDPA attention. Prints one JSON object on stdout.
"""
import argparse
import json
import statistics
import time

import torch
import transformers

# hidden, layers, heads of configs/pythia/{14M,70M,160M}.yml
SHAPES = {"m14": (128, 6, 4), "m70": (512, 6, 8), "m160": (768, 12, 12)}
VOCAB = 50304
WARM_UP = 2


def build(size):
    hidden, layers, heads = SHAPES[size]
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=2048, rotary_pct=0.25,
        hidden_act="gelu_pytorch_tanh", use_parallel_residual=True, use_cache=False,
        attn_implementation="sdpa")
    return transformers.GPTNeoXForCausalLM(config).train()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    if args.steps <= WARM_UP:
        parser.error(f"--steps must be above {WARM_UP}: the first {WARM_UP} are not counted")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    model = build(args.size)
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def loss_of(tokens):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            logits = model(tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    if args.compile:
        loss_of = torch.compile(loss_of)

    seconds, losses = [], []
    for _ in range(args.steps):
        tokens = torch.randint(VOCAB, (args.batch, args.seq + 1))
        start = time.perf_counter()
        loss = loss_of(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)

    step = statistics.median(seconds[WARM_UP:])
    print(json.dumps(dict(
        size=args.size, mode=("compile" if args.compile else "eager") + (" bf16" if args.bf16 else " f32"),
        threads=torch.get_num_threads(), torch=torch.__version__, step_seconds=step,
        fastest_step_seconds=min(seconds[WARM_UP:]), tokens_per_second=args.batch * args.seq / step,
        losses=[losses[0], losses[-1]])))


if __name__ == "__main__":
    main()
