"""The peer: one f32 training step of transformers' GPTNeoX on the CPU, PyTorch eager.

usage: bench_torch.py 14M|70M|160M SEQ BATCH STEPS
"""
import statistics
import sys
import time

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

SHAPES = {"14M": (128, 6, 4), "70M": (512, 6, 8), "160M": (768, 12, 12)}
name, seq, batch, steps = sys.argv[1], *map(int, sys.argv[2:5])
width, layers, heads = SHAPES[name]
torch.manual_seed(0)
model = GPTNeoXForCausalLM(
    GPTNeoXConfig(
        vocab_size=50304, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=2048, rotary_pct=0.25,
        tie_word_embeddings=False, attn_implementation="sdpa", use_cache=False,
        hidden_dropout=0.0, attention_dropout=0.0,
    )
).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
times = []
for step in range(steps):
    tokens = torch.randint(0, 50000, (batch, seq + 1))
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    logits = model(tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    times.append(time.perf_counter() - start)
median = statistics.median(times[1:])
print(f"{name} torch eager: median step {median:.3f} s, {batch * seq / median:.0f} tokens/s")
