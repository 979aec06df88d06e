"""Makes goldens.json: steps of torch.optim in f64, and of formulas written out where torch has no such optimizer.

    python3 optimizers/tests/make_goldens.py        (needs torch)

All cases have the same learning rates, start and gradients (with zeros in them); each has the weights after each step.
"""

import json
import math
import pathlib

import torch

STEPS, SIZE = 50, 5


def numbers(seed):
    """Numbers in [-1, 1) of a linear congruential generator: the same on every machine."""
    while True:
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (seed >> 33) / 2**30 - 1.0


def gradients(seed):
    n = numbers(seed)
    all = [[next(n) for _ in range(SIZE)] for _ in range(STEPS)]
    for step in range(STEPS):
        all[step][SIZE - 1] = 0.0  # a weight without gradient
        if step % 5 == 3:
            all[step][1] = 0.0
    return all


def rates():
    return [0.1 * min(1.0, (s + 1) / 4) * (0.5 + 0.5 * math.cos(s / STEPS * math.pi)) for s in range(STEPS)]


def by_torch(make, start, grads):
    p = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([p])
    out = []
    for lr, g in zip(rates(), grads):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        out.append(p.detach().tolist())
    return out


def lion(beta1, beta2, decay):
    """Algorithm 2 of arXiv:2302.06675."""

    def run(start, grads):
        w, m, out = list(start), [0.0] * SIZE, []
        for lr, g in zip(rates(), grads):
            for i in range(SIZE):
                c = beta1 * m[i] + (1 - beta1) * g[i]
                w[i] -= lr * ((c > 0) - (c < 0) + decay * w[i])
                m[i] = beta2 * m[i] + (1 - beta2) * g[i]
            out.append(list(w))
        return out

    return run


def sgd(**more):
    return lambda start, grads: by_torch(lambda p: torch.optim.SGD(p, lr=0.1, **more), start, grads)


def adamw(**more):
    return lambda start, grads: by_torch(lambda p: torch.optim.AdamW(p, lr=0.1, **more), start, grads)


def adam_l2(**more):
    return lambda start, grads: by_torch(lambda p: torch.optim.Adam(p, lr=0.1, **more), start, grads)


def uncorrected(beta1, beta2, eps, decay):
    """AdamW of arXiv:1711.05101 without its lines 9 and 10, the corrections of bias."""

    def run(start, grads):
        w, m, v, out = list(start), [0.0] * SIZE, [0.0] * SIZE, []
        for lr, g in zip(rates(), grads):
            for i in range(SIZE):
                m[i] = beta1 * m[i] + (1 - beta1) * g[i]
                v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
                w[i] -= lr * (m[i] / (math.sqrt(v[i]) + eps) + decay * w[i])
            out.append(list(w))
        return out

    return run


def madgrad(momentum, eps, decay):
    """Algorithm 1 of arXiv:2101.11075 (x0 fixed, c = 1 - momentum); weights decay by 1 - (lr + eps) * decay before."""

    def run(start, grads):
        w, s, q, out = list(start), [0.0] * SIZE, [0.0] * SIZE, []
        for k, (lr, g) in enumerate(zip(rates(), grads)):
            rate = lr + eps
            lamb = rate * math.sqrt(k + 1)
            for i in range(SIZE):
                s[i] += lamb * g[i]
                q[i] += lamb * g[i] ** 2
                z = start[i] - s[i] / (q[i] ** (1 / 3) + eps)
                w[i] = momentum * w[i] * (1 - rate * decay) + (1 - momentum) * z
            out.append(list(w))
        return out

    return run


def muon(rows, columns, momentum, nesterov, scale, decay):
    """https://kellerjordan.github.io/posts/muon/ in f64, with torch.optim.Muon's limit of the norm and its scales."""

    def orthogonal(g):
        a, b, c = 3.4445, -4.7750, 2.0315
        x = g.T if g.shape[0] > g.shape[1] else g
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(5):
            s = x @ x.T
            x = a * x + (b * s + c * s @ s) @ x
        return x.T if g.shape[0] > g.shape[1] else x

    def run(start, grads):
        w = torch.tensor(start, dtype=torch.float64).reshape(rows, columns)
        m, out = torch.zeros_like(w), []
        for lr, g in zip(rates(), grads):
            g = torch.tensor(g, dtype=torch.float64).reshape(rows, columns)
            m = torch.lerp(m, g, 1 - momentum)
            u = orthogonal(torch.lerp(g, m, momentum) if nesterov else m)
            w = w * (1 - lr * decay) - lr * scale * u
            out.append(w.flatten().tolist())
        return out

    return run


CASES = {
    "sgd momentum=0 dampening=0 nesterov=0 weight_decay=0": sgd(),
    "sgd momentum=0 dampening=0 nesterov=0 weight_decay=0.1": sgd(weight_decay=0.1),
    "sgd momentum=0.9 dampening=0 nesterov=0 weight_decay=0.1": sgd(momentum=0.9, weight_decay=0.1),
    "sgd momentum=0.8 dampening=0.25 nesterov=0 weight_decay=0.01":
        sgd(momentum=0.8, dampening=0.25, weight_decay=0.01),
    "sgd momentum=0.9 dampening=0 nesterov=1 weight_decay=0.1":
        sgd(momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam beta1=0.9 beta2=0.95 eps=1e-8 weight_decay=0.1":
        adamw(betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    "adam beta1=0.9 beta2=0.95 eps=1e-8 adam_w_mode=0 weight_decay=0.1":
        adam_l2(betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    "adam beta1=0.8 beta2=0.9 eps=1e-3 adam_w_mode=0 weight_decay=0":
        adam_l2(betas=(0.8, 0.9), eps=1e-3, weight_decay=0),
    "adam beta1=0.9 beta2=0.95 eps=1e-6 bias_correction=0 weight_decay=0.1":
        uncorrected(0.9, 0.95, 1e-6, 0.1),
    "muon beta1=0.9 beta2=0.95 eps=1e-8 weight_decay=0.1":
        adamw(betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    "madgrad_wd momentum=0.9 eps=1e-6 weight_decay=0.1": madgrad(0.9, 1e-6, 0.1),
    "madgrad_wd momentum=0.5 eps=1e-3 weight_decay=0": madgrad(0.5, 1e-3, 0.0),
    "lion beta1=0.9 beta2=0.99 weight_decay=0.1": lion(0.9, 0.99, 0.1),
    "lion beta1=0.95 beta2=0.98 weight_decay=0": lion(0.95, 0.98, 0.0),
}

# Updates of matrices: rows and columns, and the optimizer.
MATRICES = {
    (2, 3, "muon momentum=0.95 nesterov=1 adjust_lr_fn=0 weight_decay=0.1"): muon(2, 3, 0.95, True, 1.0, 0.1),
    (3, 2, "muon momentum=0.9 nesterov=0 adjust_lr_fn=0 weight_decay=0"): muon(3, 2, 0.9, False, math.sqrt(3 / 2), 0.0),
    (3, 2, "muon momentum=0.95 nesterov=1 adjust_lr_fn=1 weight_decay=0.1"):
        muon(3, 2, 0.95, True, 0.2 * math.sqrt(3), 0.1),
}

start, grads = [0.5, -0.25, 0.125, 1.0, -1.0], gradients(1)
made = {optimizer: run(start, grads) for optimizer, run in CASES.items()}
n = numbers(2)
of_matrix = [[next(n) for _ in range(6)] for _ in range(STEPS)]
of_matrix[0] = [0.0] * 6  # a matrix without gradient, at the start
matrices = [
    {"rows": rows, "columns": columns, "optimizer": optimizer, "weights": run([*start, 0.75], of_matrix)}
    for (rows, columns, optimizer), run in MATRICES.items()
]
text = json.dumps({"start": start, "rates": rates(), "gradients": grads, "weights": made,
                   "matrix_start": [*start, 0.75], "matrix_gradients": of_matrix, "matrices": matrices})
for case in ["gradients", "weights", "matrix_gradients", "matrices", *CASES]:
    text = text.replace(f'"{case}":', f'\n"{case}":')
pathlib.Path(__file__).with_name("goldens.json").write_text(text + "\n")
