"""PyTorch's causal attention, timed for `kernel_bench sdpa`, which starts this and asks by lines on standard input.

`shape f32|bf16 BATCH HEADS SEQ WIDTH` makes operands; `forward` and `both` (forward and backward) run once and answer
with the seconds that took. The argument is the number of threads.
"""
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def attend():
    return torch.nn.functional.scaled_dot_product_attention(*qkv, is_causal=True)


for line in sys.stdin:
    what, *rest = line.split()
    if what == "shape":
        dtype, size = DTYPES[rest[0]], [int(n) for n in rest[1:]]
        qkv = [torch.randn(size, dtype=dtype, requires_grad=True) for _ in range(3)]
        gradient = torch.randn(size, dtype=dtype)
        continue
    start = time.perf_counter()
    if what == "forward":
        with torch.no_grad():
            attend()
    else:
        torch.autograd.grad(attend(), qkv, gradient)
    print(time.perf_counter() - start, flush=True)
