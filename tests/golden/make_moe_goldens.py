"""Makes the goldens of models with experts: GPT-NeoX with a mixture of experts in plain float64 PyTorch.

usage: make_moe_goldens.py

Attention, norms and the loss are `reference.py`'s; experts, routing and the load-balancing loss are
written here, token by token, and gradients are autograd's. Hugging Face has no such model.
`logits` are those of evaluation: one sequence at a time, chosen by probability, with the slots of evaluation.
"""
import json
import math
import pathlib

import safetensors
import safetensors.torch
import torch

import reference

HERE = pathlib.Path(__file__).parent
BASE = dict(
    hidden_size=16, num_layers=2, num_attention_heads=2, seq_length=11, max_position_embeddings=16,
    padded_vocab_size=37, make_vocab_size_divisible_by=1, pos_emb="rotary", rotary_pct=0.25,
    rotary_emb_base=10000, gpt_j_residual=True, no_weight_tying=True, bias_gelu_fusion=False,
    norm="layernorm", layernorm_epsilon=1e-5, train_micro_batch_size_per_gpu=2,
    gradient_accumulation_steps=1, hidden_dropout=0, attention_dropout=0)
CASES = {
    "experts_dropless": dict(
        moe_num_experts=4, moe_router_type="topk", moe_top_k=2, gradient_accumulation_steps=2),
    "experts_dropping": dict(
        moe_num_experts=3, moe_router_type="topk", moe_top_k=2, moe_expert_interval=2,
        moe_token_dropping=True, moe_train_capacity_factor=0.75, moe_eval_capacity_factor=1.25,
        moe_min_capacity=2, moe_loss_coeff=0.05, gpt_j_residual=False, bias_gelu_fusion=True,
        gradient_accumulation_steps=2),
    "experts_sinkhorn": dict(moe_num_experts=4, moe_router_type="sinkhorn", moe_top_k=1),
}
# Choices that are nearer to each other than this could turn by rounding to f32.
MARGIN = 1e-4


def sinkhorn(scores, tolerance=1e-4, eps=1e-8):
    cost = scores.exp()
    tokens, experts = cost.shape
    b = torch.ones(experts, dtype=cost.dtype)
    moved = math.inf
    while moved > tolerance:
        a = 1 / (tokens * (cost @ b + eps))
        new = 1 / (experts * (a @ cost + eps))
        moved = (new - b).abs().mean()
        b = new
    return a[:, None] * cost * b


class Experts:
    """The MLP of a layer with experts, in the place of `reference.mlp`."""

    def __init__(self):
        self.training, self.losses, self.dropped = True, [], 0

    def __call__(self, x, p, at, cfg):
        if at + "router.weight" not in p:
            return DENSE(x, p, at, cfg)
        rows = x.reshape(-1, x.shape[-1])
        n, k = cfg["moe_num_experts"], cfg["moe_top_k"]
        scores = rows @ p[at + "router.weight"].T
        balanced = cfg["moe_router_type"] == "sinkhorn"
        weights = scores.sigmoid() if balanced and k == 1 else scores.softmax(-1)
        with torch.no_grad():
            by = sinkhorn(scores) if balanced and self.training else weights
            ranked = by.sort(-1, descending=True)
            gaps = (ranked.values[:, :-1] - ranked.values[:, 1:])[:, :k] / ranked.values[:, :1]
            assert gaps.min() > MARGIN, gaps.min()
            chosen = ranked.indices[:, :k]
        slots = len(rows) * k
        if cfg.get("moe_token_dropping"):
            factor = cfg["moe_train_capacity_factor" if self.training else "moe_eval_capacity_factor"]
            slots = max(math.ceil(factor * len(rows) * k / n), cfg["moe_min_capacity"])
        taken, out = [0] * n, [torch.zeros_like(row) for row in rows]
        for choice in range(k):
            for t, row in enumerate(rows):
                e = int(chosen[t, choice])
                if taken[e] == slots:
                    self.dropped += 1
                    continue
                taken[e] += 1
                wide = p[at + "experts.dense_h_to_4h.weight"][e] @ row + p[at + "experts.dense_h_to_4h.bias"][e]
                y = p[at + "experts.dense_4h_to_h.weight"][e] @ reference.gelu(wide, cfg["bias_gelu_fusion"])
                out[t] = out[t] + weights[t, e] * (y + p[at + "experts.dense_4h_to_h.bias"][e])
        share = torch.bincount(chosen.flatten(), minlength=n).to(weights.dtype) / chosen.numel()
        self.losses.append(n * (share * weights.mean(0)).sum())
        return torch.stack(out).reshape(x.shape)


DENSE = reference.mlp


def shapes(cfg):
    e, v, n = cfg["hidden_size"], cfg["padded_vocab_size"], cfg["moe_num_experts"]
    f = 4 * e
    out = {"gpt_neox.embed_in.weight": (v, e)}
    for i in range(cfg["num_layers"]):
        at = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out |= {at + norm + ".weight": (e,), at + norm + ".bias": (e,)}
        for linear, rows, cols in (("query_key_value", 3 * e, e), ("dense", e, e)):
            out |= {at + f"attention.{linear}.weight": (rows, cols), at + f"attention.{linear}.bias": (rows,)}
        experts = i % cfg.get("moe_expert_interval", 1) == 0
        lead, where = ((n,), "mlp.experts.") if experts else ((), "mlp.")
        if experts:
            out[at + "mlp.router.weight"] = (n, e)
        for linear, rows, cols in (("dense_h_to_4h", f, e), ("dense_4h_to_h", e, f)):
            out |= {at + where + linear + ".weight": (*lead, rows, cols), at + where + linear + ".bias": (*lead, rows)}
    out |= {"gpt_neox.final_layer_norm.weight": (e,), "gpt_neox.final_layer_norm.bias": (e,),
            "embed_out.weight": (v, e)}
    return out


def run(cfg, params, tokens, labels, mask):
    """Values of one optimizer step and of evaluation, and how many choices were dropped."""
    layer = Experts()
    reference.mlp = layer
    p = {key: value.clone().requires_grad_() for key, value in params.items()}
    losses, trained = [], []
    for t, l, m in zip(tokens, labels, mask):
        layer.losses = []
        logits = reference.logits(p, t, cfg)
        loss = reference.masked_loss(logits, l, m.to(logits.dtype))
        total = loss + cfg.get("moe_loss_coeff", 0) * sum(layer.losses)
        (total / len(tokens)).backward()
        losses.append(loss.detach())
        trained.append(logits.detach())
    dropped, layer.training = layer.dropped, False
    with torch.no_grad():
        rows = [reference.logits(p, row[None], cfg)[0] for row in tokens.reshape(-1, tokens.shape[-1])]
    losses = torch.stack(losses)
    values = dict(micro_losses=losses, loss=losses.mean(), train_logits=torch.stack(trained),
                  logits=torch.stack(rows).reshape(*tokens.shape, -1))
    return values | {"grad." + key: value.grad for key, value in p.items()}, dropped


def apart(a, b):
    """The worst over tensors of max|a-b| / max|b|."""
    return max(((a[n].double() - b[n]).abs().max() / b[n].abs().max().clamp(min=1e-30)).item() for n in b)


def make(name, change, seed):
    cfg = BASE | change
    gen = torch.Generator().manual_seed(seed)
    stored = {}
    for key, shape in shapes(cfg).items():
        value = torch.randn(shape, generator=gen) * (0.5 if "router" in key else 0.12)
        stored[key] = value + 1 if "norm.weight" in key else value
    shape = (cfg["gradient_accumulation_steps"], cfg["train_micro_batch_size_per_gpu"], cfg["seq_length"])
    stream = torch.randint(0, cfg["padded_vocab_size"], (*shape[:2], shape[2] + 1), generator=gen)
    tokens, labels = stream[..., :-1].contiguous(), stream[..., 1:].contiguous()
    mask = (torch.rand(shape, generator=gen) < 0.7).double()

    exact, dropped = run(cfg, {key: value.double() for key, value in stored.items()}, tokens, labels, mask)
    single, _ = run(cfg, stored, tokens, labels, mask)
    assert (dropped > 0) == bool(cfg.get("moe_token_dropping")), dropped
    errors = {"source": "make_moe_goldens.py f64", "reference_f32_vs_f64": apart(single, exact)}
    tensors = {"param." + key: value for key, value in stored.items()}
    tensors |= dict(tokens=tokens.int(), labels=labels.int(), mask=mask, **exact)
    narrow = {key: (t if t.dtype == torch.int32 else t.float()).contiguous() for key, t in tensors.items()}
    safetensors.torch.save_file(narrow, HERE / f"{name}.safetensors")
    (HERE / f"{name}.safetensors").chmod(0o644)
    meta = dict(
        kind="step", neox=cfg, hf=None,
        versions=dict(torch=torch.__version__, safetensors=safetensors.__version__),
        seed=seed, loss=exact["loss"].item(), dropped=dropped, errors=errors)
    (HERE / f"{name}.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(name, meta["loss"], errors, "dropped", dropped)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, (name, change) in enumerate(CASES.items(), start=201):
        make(name, change, seed)
