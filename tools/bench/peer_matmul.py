"""Matmuls of torch or numpy on request, for matmul_bench: reads lines, answers each "go" with the seconds of one
matmul, the second of two: the first wakes the threads.

`peer_matmul.py torch|numpy`. A line `KIND M N K DTYPE THREADS` makes operands as a linear layer has them: forward
x (m, k) times w (n, k) transposed, dx y (m, k) times w (k, n), dw y (k, m) transposed times x (k, n). Then every line
`go` multiplies them once.
"""
import sys
import time


def shapes(kind, m, n, k):
    """Shapes of both operands as they lie in memory, and which of them is transposed."""
    a = (k, m) if kind == "dw" else (m, k)
    b = (n, k) if kind == "forward" else (k, n)
    return a, b, kind == "dw", kind == "forward"


def torch_matmul(kind, m, n, k, dtype, threads):
    import torch

    torch.set_num_threads(threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    a, b, turn_a, turn_b = shapes(kind, m, n, k)
    a, b = torch.randn(a).to(dtype), torch.randn(b).to(dtype)
    a, b = (a.T if turn_a else a), (b.T if turn_b else b)
    out = torch.empty((m, n), dtype=dtype)
    return lambda: torch.matmul(a, b, out=out)


def numpy_matmul(kind, m, n, k, dtype, threads):
    import numpy
    from threadpoolctl import threadpool_limits

    if dtype != "f32":
        raise ValueError(f"numpy has no {dtype}")
    threadpool_limits(threads)
    a, b, turn_a, turn_b = shapes(kind, m, n, k)
    a, b = (numpy.random.standard_normal(s).astype(numpy.float32) for s in (a, b))
    a, b = (a.T if turn_a else a), (b.T if turn_b else b)
    out = numpy.empty((m, n), numpy.float32)
    return lambda: numpy.dot(a, b, out=out)


MAKERS = {"torch": torch_matmul, "numpy": numpy_matmul}
if len(sys.argv) != 2 or sys.argv[1] not in MAKERS:
    sys.exit(f"usage: peer_matmul.py {'|'.join(MAKERS)}")
make = MAKERS[sys.argv[1]]
matmul = None
for line in sys.stdin:
    words = line.split()
    if words == ["go"]:
        matmul()
        start = time.perf_counter()
        matmul()
        print(time.perf_counter() - start, flush=True)
        continue
    matmul = make(words[0], *map(int, words[1:4]), words[4], int(words[5]))
    matmul()
