"""The peer of generate.py: Hugging Face's GPTNeoX in PyTorch makes a text of its likeliest tokens on the CPU.

usage: torch_generate.py {m14|m70|m160|m410} [--tokens 128] [--bf16]

One text, token by token, with the keys and values of those before it kept. Prints one JSON object on stdout.
"""
import argparse
import json
import statistics
import time

import torch
from torch_step import SHAPES, VOCAB
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

WARM_UP = 8
SIZES = {**SHAPES, "m410": (1024, 24, 16)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    hidden, layers, heads = SIZES[args.size]
    torch.manual_seed(1)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=2048, rotary_pct=0.25, attn_implementation="sdpa"))
    model = model.eval().to(torch.bfloat16 if args.bf16 else torch.float32)
    token, past, seconds = torch.zeros(1, 1, dtype=torch.long), None, []
    with torch.inference_mode():
        for _ in range(WARM_UP + args.tokens):
            start = time.perf_counter()
            out = model(token, past_key_values=past, use_cache=True)
            past, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
            seconds.append(time.perf_counter() - start)
    print(json.dumps(dict(size=args.size, torch=torch.__version__,
                          tokens_per_second=1 / statistics.median(seconds[WARM_UP:]))))


if __name__ == "__main__":
    main()
