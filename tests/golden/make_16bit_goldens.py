"""Makes bf16.json and fp16.json: how far PyTorch's 16-bit floats are from f32 on the cases of `make_goldens.py`.

usage: make_16bit_goldens.py [bf16|fp16]…

Every case's model (Hugging Face's, or `reference.py` for learned positions) is turned into the dtype as a
whole, as DeepSpeed does for GPT-NeoX, and makes logits, loss and gradients of the case's batch; in fp16 the
gradients are those of 1024 times the loss, over 1024. What is kept
are distances from the case's f32 goldens: |x - golden| / |golden| in the Euclidean norm, of the logits, the
loss and each gradient. A compiled plan with that precision must not be farther off.
"""
import json
import pathlib
import sys

import safetensors.torch
import torch

import make_goldens

HERE = pathlib.Path(__file__).parent
DTYPES = {"bf16": (torch.bfloat16, 1), "fp16": (torch.float16, 1024)}
CASES = ["parallel_erf", "sequential_tanh", "parallel_tanh_tied", "loss_mask", "learned_positions"]


def distance(x, golden):
    return round(((x.double() - golden.double()).norm() / golden.double().norm()).item(), 6)


def measure(name, dtype, scale):
    stored = safetensors.torch.load_file(HERE / f"{name}.safetensors")
    cfg = make_goldens.BASE | json.loads((HERE / f"{name}.json").read_text())["neox"]
    params = {
        n.removeprefix("param."): p.to(dtype)
        for n, p in stored.items() if n.startswith("param.")
    }
    kind = make_goldens.HuggingFace if cfg["pos_emb"] == "rotary" else make_goldens.Plain
    model = kind(cfg, params)
    tokens, labels, mask = (stored[n].reshape(-1, stored[n].shape[-1]) for n in ("tokens", "labels", "mask"))
    logits = model.logits(tokens.long()).float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.long().flatten(), reduction="none")
    loss = (losses * mask.flatten()).sum() / mask.sum().clamp(min=1)
    (scale * loss).backward()
    grads = {n: distance(p.grad.float() / scale, stored[f"grad.{n}"]) for n, p in model.params.items()}
    return dict(
        logits=distance(logits.flatten(), stored["logits"].flatten()),
        loss=distance(loss, stored["loss"]), grads=grads)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in sys.argv[1:] or DTYPES:
        out = {name: measure(name, *DTYPES[kind]) for name in CASES}
        out["torch"] = torch.__version__
        (HERE / f"{kind}.json").write_text(json.dumps(out, indent=1) + "\n")
        for name in CASES:
            print(kind, name, out[name]["logits"], out[name]["loss"], max(out[name]["grads"].values()))
