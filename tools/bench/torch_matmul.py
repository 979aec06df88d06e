"""torch.matmul on request, for matmul_bench: reads lines, answers each "go" with the seconds of one product, the
second of two: the first wakes the threads.

A line `KIND M N K DTYPE THREADS` makes operands as a linear layer has them: forward x (m, k) times w (n, k) transposed,
dx y (m, k) times w (k, n), dw y (k, m) transposed times x (k, n). Then every line `go` multiplies them once.
"""
import sys
import time

import torch

product = None
for line in sys.stdin:
    words = line.split()
    if words == ["go"]:
        product()
        start = time.perf_counter()
        product()
        print(time.perf_counter() - start, flush=True)
        continue
    kind, (m, n, k) = words[0], map(int, words[1:4])
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[words[4]]
    torch.set_num_threads(int(words[5]))
    a = torch.randn((k, m) if kind == "dw" else (m, k)).to(dtype)
    b = torch.randn((n, k) if kind == "forward" else (k, n)).to(dtype)
    a, b = (a.T if kind == "dw" else a), (b.T if kind == "forward" else b)
    out = torch.empty((m, n), dtype=dtype)
    product = lambda: torch.matmul(a, b, out=out)
    product()
