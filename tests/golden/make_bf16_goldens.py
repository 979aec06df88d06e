"""Makes bf16.json: how far PyTorch's bfloat16 is from f32 on the cases of `make_goldens.py`.

usage: make_bf16_goldens.py

Every case's model (Hugging Face's, or `reference.py` for learned positions) is turned into bfloat16 as a
whole, as DeepSpeed does for GPT-NeoX, and makes logits, loss and gradients of the case's batch. What is kept
are distances from the case's f32 goldens: |x - golden| / |golden| in the Euclidean norm, of the logits, the
loss and each gradient. A compiled plan with `precision: bfloat16` must not be farther off.
"""
import json
import pathlib

import safetensors.torch
import torch

import make_goldens

HERE = pathlib.Path(__file__).parent
CASES = ["parallel_erf", "sequential_tanh", "parallel_tanh_tied", "loss_mask", "learned_positions"]


def distance(x, golden):
    return round(((x.double() - golden.double()).norm() / golden.double().norm()).item(), 6)


def measure(name):
    stored = safetensors.torch.load_file(HERE / f"{name}.safetensors")
    cfg = make_goldens.BASE | json.loads((HERE / f"{name}.json").read_text())["neox"]
    params = {
        n.removeprefix("param."): p.to(torch.bfloat16)
        for n, p in stored.items() if n.startswith("param.")
    }
    kind = make_goldens.HuggingFace if cfg["pos_emb"] == "rotary" else make_goldens.Plain
    model = kind(cfg, params)
    tokens, labels, mask = (stored[n].reshape(-1, stored[n].shape[-1]) for n in ("tokens", "labels", "mask"))
    logits = model.logits(tokens.long()).float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.long().flatten(), reduction="none")
    loss = (losses * mask.flatten()).sum() / mask.sum().clamp(min=1)
    loss.backward()
    grads = {n: distance(p.grad, stored[f"grad.{n}"]) for n, p in model.params.items()}
    return dict(
        logits=distance(logits.flatten(), stored["logits"].flatten()),
        loss=distance(loss, stored["loss"]), grads=grads)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = {name: measure(name) for name in CASES}
    out["torch"] = torch.__version__
    (HERE / "bf16.json").write_text(json.dumps(out, indent=1) + "\n")
    for name in CASES:
        print(name, out[name]["logits"], out[name]["loss"], max(out[name]["grads"].values()))
