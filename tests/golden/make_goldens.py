"""Makes the golden files of this folder; README.md says what they hold and how to run this.

usage: make_goldens.py [CASE...]

Every case of a rotary model is computed by Hugging Face's GPTNeoXForCausalLM in f32 and compared,
in f64, with `reference.py`; learned and absent positions are computed by `reference.py` in f64 and
stored as f32. The script stops if the two models disagree by more than f32 rounding explains.
"""
import json
import pathlib
import sys

import safetensors
import safetensors.torch
import torch
import transformers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import hashed
import reference

HERE = pathlib.Path(__file__).parent
BASE = dict(
    hidden_size=24, num_layers=2, num_attention_heads=3, seq_length=13, max_position_embeddings=16,
    padded_vocab_size=61, make_vocab_size_divisible_by=1, pos_emb="rotary", rotary_pct=0.25,
    rotary_emb_base=10000, gpt_j_residual=True, no_weight_tying=True, bias_gelu_fusion=False,
    norm="layernorm", layernorm_epsilon=1e-5, train_micro_batch_size_per_gpu=2,
    gradient_accumulation_steps=1, hidden_dropout=0, attention_dropout=0)
ADAM = dict(
    optimizer=dict(type="Adam", params=dict(lr=5e-3, betas=[0.9, 0.95], eps=1e-8)),
    min_lr=5e-4, lr_decay_style="cosine", lr_decay_iters=20, train_iters=20, warmup=0.26,
    gradient_clipping=1.0, weight_decay=0.1)

TINY = dict(hidden_size=16, num_attention_heads=2, num_layers=2, padded_vocab_size=29, seq_length=11,
            train_micro_batch_size_per_gpu=1)

# name: (what differs from BASE, how the mask looks)
STEPS = {
    "parallel_erf": (dict(), "ones"),
    "sequential_tanh": (dict(
        gpt_j_residual=False, bias_gelu_fusion=True, hidden_size=32, num_attention_heads=2,
        seq_length=16, padded_vocab_size=64), "ones"),
    "parallel_tanh_tied": (dict(
        rotary_pct=1.0, bias_gelu_fusion=True, no_weight_tying=False, rotary_emb_base=500), "ones"),
    "sequential_erf_tied": (dict(
        gpt_j_residual=False, rotary_pct=1.0, no_weight_tying=False, hidden_size=40, seq_length=33,
        max_position_embeddings=40, num_attention_heads=5, num_layers=3, padded_vocab_size=97,
        layernorm_epsilon=1e-3, train_micro_batch_size_per_gpu=1), "ones"),
    "wide_head": (dict(
        hidden_size=64, num_attention_heads=2, num_layers=1, seq_length=70,
        max_position_embeddings=128, padded_vocab_size=130, bias_gelu_fusion=True,
        train_micro_batch_size_per_gpu=1), "ones"),
    "loss_mask": (dict(), "random"),
    "accumulate": (dict(gradient_accumulation_steps=2, bias_gelu_fusion=True), "random"),
    "accumulate_one_masked": (dict(gradient_accumulation_steps=2), "second_zero"),
    "learned_positions": (dict(pos_emb="learned", gpt_j_residual=False), "ones"),
    "no_positions": (dict(pos_emb="none", bias_gelu_fusion=True), "ones"),
    "norms_without_bias": (dict(
        pos_emb="none", gpt_j_residual=False, use_bias_in_norms=False), "random"),
    "scalenorm_sinusoidal": (dict(
        TINY, norm="scalenorm", scalenorm_epsilon=0.3, pos_emb="sinusoidal", gpt_j_residual=False), "ones"),
    "zero_centred_offset": (dict(
        TINY, zero_centred_norms=True, pos_emb="learned", opt_pos_emb_offset=3, embedding_scale=2.5,
        no_weight_tying=False), "random"),
    "norms_without_weights": (dict(
        TINY, norm="non_parametric_layernorm", pos_emb="none", embedding_scale=4.0, gpt_j_residual=False), "ones"),
}
TRAINING = {
    "train": dict(bias_gelu_fusion=True),
    # 1.5 lies among this run's gradient norms: some steps are clipped, some are not.
    "train_accumulate": dict(gradient_accumulation_steps=2, gpt_j_residual=False, gradient_clipping=1.5),
}
PYTHIA_14M = dict(
    BASE, hidden_size=128, num_layers=6, num_attention_heads=4, seq_length=64,
    max_position_embeddings=2048, padded_vocab_size=50304, make_vocab_size_divisible_by=128,
    bias_gelu_fusion=True, train_micro_batch_size_per_gpu=1)


def hf_config(cfg, attention="eager"):
    return GPTNeoXConfig(
        vocab_size=cfg["padded_vocab_size"], hidden_size=cfg["hidden_size"],
        num_hidden_layers=cfg["num_layers"], num_attention_heads=cfg["num_attention_heads"],
        intermediate_size=4 * cfg["hidden_size"],
        hidden_act="gelu_new" if cfg["bias_gelu_fusion"] else "gelu",
        max_position_embeddings=cfg["max_position_embeddings"],
        layer_norm_eps=cfg["layernorm_epsilon"], rotary_pct=cfg["rotary_pct"],
        rotary_emb_base=cfg["rotary_emb_base"], use_parallel_residual=cfg["gpt_j_residual"],
        tie_word_embeddings=not cfg["no_weight_tying"], attn_implementation=attention,
        use_cache=False)


class HuggingFace:
    """GPTNeoXForCausalLM with the parameters of a dict under published names, in their dtype."""

    def __init__(self, cfg, params):
        dtype = next(iter(params.values())).dtype
        # Eager attention takes its softmax in f32 whatever the model's dtype; sdpa does not.
        attention = "eager" if dtype == torch.float32 else "sdpa"
        self.model = GPTNeoXForCausalLM(hf_config(cfg, attention)).to(dtype).train()
        # Recent versions call the head lm_head in memory and embed_out in a checkpoint.
        self.params = {n.replace("lm_head.", "embed_out."): p for n, p in self.model.named_parameters()}
        assert self.params.keys() == params.keys(), self.params.keys() ^ params.keys()
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(params[name])

    def logits(self, tokens):
        return self.model(tokens).logits


class Plain:
    """`reference.py` behind the same face."""

    def __init__(self, cfg, params):
        self.cfg = cfg
        self.params = {n: p.detach().clone().requires_grad_() for n, p in params.items()}

    def logits(self, tokens):
        return reference.logits(self.params, tokens, self.cfg)


def norm_shapes(cfg, name):
    kind, e = cfg.get("norm", "layernorm"), cfg["hidden_size"]
    out = {"layernorm": {name + ".weight": (e,), name + ".bias": (e,)},
           "scalenorm": {name + ".weight": (1,)}, "non_parametric_layernorm": {}}[kind]
    if not cfg.get("use_bias_in_norms", True):
        out.pop(name + ".bias", None)
    return out


def shapes(cfg):
    e, v, f = cfg["hidden_size"], cfg["padded_vocab_size"], 4 * cfg["hidden_size"]
    out = {"gpt_neox.embed_in.weight": (v, e)}
    if cfg["pos_emb"] == "learned":
        out["gpt_neox.embed_pos.weight"] = (cfg["max_position_embeddings"], e)
    for i in range(cfg["num_layers"]):
        at = f"gpt_neox.layers.{i}."
        out |= norm_shapes(cfg, at + "input_layernorm") | norm_shapes(cfg, at + "post_attention_layernorm")
        for linear, rows, cols in (
                ("attention.query_key_value", 3 * e, e), ("attention.dense", e, e),
                ("mlp.dense_h_to_4h", f, e), ("mlp.dense_4h_to_h", e, f)):
            out |= {at + linear + ".weight": (rows, cols), at + linear + ".bias": (rows,)}
    out |= norm_shapes(cfg, "gpt_neox.final_layer_norm")
    if cfg["no_weight_tying"]:
        out["embed_out.weight"] = (v, e)
    return out


def random_params(cfg, gen):
    """Far from a training initialisation on purpose: every bias and norm has to matter."""
    params = {}
    for name, shape in shapes(cfg).items():
        p = torch.randn(shape, generator=gen) * 0.12
        centred = "norm.weight" in name and not cfg.get("zero_centred_norms")
        params[name] = p + 1 if centred else p
    return params


def random_batch(cfg, gen, mask, lead=()):
    """tokens, labels (the next token) and mask, each [*lead, micro, batch, seq]."""
    shape = (*lead, cfg["gradient_accumulation_steps"], cfg["train_micro_batch_size_per_gpu"])
    stream = torch.randint(0, cfg["padded_vocab_size"], (*shape, cfg["seq_length"] + 1), generator=gen)
    ones = torch.ones(*shape, cfg["seq_length"])
    if mask == "random":
        ones = (torch.rand(ones.shape, generator=gen) < 0.6).float()
    if mask == "second_zero":
        ones[1] = 0
    return stream[..., :-1].contiguous(), stream[..., 1:].contiguous(), ones


def backward(model, tokens, labels, mask):
    """One optimizer step's gradients: the mean over micro-batches of each one's masked mean."""
    for p in model.params.values():
        p.grad = None
    all_logits, losses = [], []
    for t, l, m in zip(tokens, labels, mask):
        logits = model.logits(t)
        loss = reference.masked_loss(logits, l, m.to(logits.dtype))
        (loss / len(tokens)).backward()
        all_logits.append(logits.detach())
        losses.append(loss.detach())
    losses = torch.stack(losses)
    return dict(logits=torch.stack(all_logits), micro_losses=losses, loss=losses.mean(),
                **{"grad." + n: p.grad.clone() for n, p in model.params.items()})


def apart(a, b):
    """The worst over tensors of max|a-b| / max|b|."""
    worst = 0.0
    for name in b:
        x, y = a[name].double(), b[name].double()
        worst = max(worst, ((x - y).abs().max() / y.abs().max().clamp(min=1e-30)).item())
    return worst


def double(params):
    return {n: p.double() for n, p in params.items()}


def three_ways(cfg, params, batch):
    """The golden values and how far the three computations lie apart."""
    exact = backward(Plain(cfg, double(params)), *batch)
    if cfg["pos_emb"] != "rotary":
        plain32 = backward(Plain(cfg, params), *batch)
        return exact, {"source": "reference.py f64", "reference_f32_vs_f64": apart(plain32, exact)}
    hf32 = backward(HuggingFace(cfg, params), *batch)
    hf64 = backward(HuggingFace(cfg, double(params)), *batch)
    errors = {"source": "transformers f32", "hf_f32_vs_reference_f64": apart(hf32, exact),
              "hf_f64_vs_reference_f64": apart(hf64, exact)}
    # Hugging Face computes rotary angles in f32 even in an f64 model, hence not 1e-12.
    assert errors["hf_f64_vs_reference_f64"] < 2e-6, errors
    assert errors["hf_f32_vs_reference_f64"] < 1e-5, errors
    return hf32, errors


def store(name, kind, cfg, tensors, extra):
    def narrow(t):
        t = torch.as_tensor(t)
        return (t.int() if t.dtype == torch.int64 else t.float()).contiguous()
    safetensors.torch.save_file({n: narrow(t) for n, t in tensors.items()}, HERE / f"{name}.safetensors")
    (HERE / f"{name}.safetensors").chmod(0o644)
    meta = dict(
        kind=kind, neox=cfg,
        hf={k: v for k, v in hf_config(cfg).to_diff_dict().items() if k != "transformers_version"},
        versions=dict(torch=torch.__version__, transformers=transformers.__version__,
                      safetensors=safetensors.__version__), **extra)
    if cfg["pos_emb"] != "rotary":
        meta["hf"] = None
    (HERE / f"{name}.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(name, {k: v for k, v in extra.items() if k in ("errors", "loss")})


def make_step(name, change, mask, seed):
    cfg = BASE | change
    gen = torch.Generator().manual_seed(seed)
    params = random_params(cfg, gen)
    batch = random_batch(cfg, gen, mask)
    values, errors = three_ways(cfg, params, batch)
    tensors = {"param." + n: p for n, p in params.items()}
    tensors |= dict(tokens=batch[0], labels=batch[1], mask=batch[2], **values)
    store(name, "step", cfg, tensors, dict(seed=seed, loss=values["loss"].item(), errors=errors))


def train(model, batches, cfg):
    """20 steps; per step the loss before it, its learning rate and the norm before clipping."""
    adam = cfg["optimizer"]["params"]
    decayed = [p for p in model.params.values() if p.dim() > 1]
    spared = [p for p in model.params.values() if p.dim() == 1]
    opt = torch.optim.AdamW(
        [dict(params=decayed, weight_decay=cfg["weight_decay"]), dict(params=spared, weight_decay=0.0)],
        lr=1.0, betas=adam["betas"], eps=adam["eps"])
    losses, lrs, norms = [], [], []
    for n in range(cfg["train_iters"]):
        losses.append(backward(model, *(b[n] for b in batches))["loss"].item())
        norms.append(torch.nn.utils.clip_grad_norm_(
            list(model.params.values()), cfg["gradient_clipping"]).item())
        lrs.append(reference.learning_rate(n, cfg))
        for group in opt.param_groups:
            group["lr"] = lrs[-1]
        opt.step()
    return losses, lrs, norms


def make_training(name, change, seed):
    cfg = BASE | ADAM | change
    gen = torch.Generator().manual_seed(seed)
    params = random_params(cfg, gen)
    # Four batches in turn, so that there is something to learn in twenty steps.
    four = random_batch(cfg, gen, "ones", lead=(4,))
    batches = [b.repeat(5, *[1] * (b.dim() - 1)) for b in four]
    hf, plain = HuggingFace(cfg, params), Plain(cfg, double(params))
    losses, lrs, norms = train(hf, batches, cfg)
    exact_losses, _, exact_norms = train(plain, batches, cfg)
    worst = max(abs(a - b) for a, b in zip(losses, exact_losses))
    assert worst < 5e-5, worst
    assert losses[-1] < losses[0] and max(norms) > cfg["gradient_clipping"], norms
    tensors = {"param." + n: p for n, p in params.items()}
    tensors |= {"final." + n: p.detach() for n, p in hf.params.items()}
    tensors |= dict(tokens=batches[0], labels=batches[1], mask=batches[2])
    # Softmax does not see a constant added to all keys, so the key bias has gradients of rounding
    # noise, which Adam scales up to whole steps: that tensor's final values say nothing.
    others = {n: p for n, p in plain.params.items() if not n.endswith("query_key_value.bias")}
    errors = {"source": "transformers f32", "losses_f32_vs_f64_absolute": worst,
              "final_f32_vs_f64": apart(hf.params, plain.params),
              "final_f32_vs_f64_without_qkv_bias": apart(hf.params, others)}
    store(name, "training", cfg, tensors, dict(
        seed=seed, losses=losses, losses_f64=exact_losses, lrs=lrs, grad_norms=norms,
        grad_norms_f64=exact_norms, errors=errors))


def make_pythia(name="pythia_14m"):
    cfg = PYTHIA_14M
    params = {n: hashed.parameter(n, s) for n, s in shapes(cfg).items()}
    gen = torch.Generator().manual_seed(14)
    tokens, labels, mask = random_batch(cfg, gen, "ones")
    values, errors = three_ways(cfg, params, (tokens, labels, mask))
    tensors = dict(tokens=tokens, labels=labels, mask=mask, loss=values["loss"],
                   logit_positions=torch.tensor([0, 31, 63]),
                   logits=values["logits"][0, 0, [0, 31, 63]])
    norms = {}
    for n in params:
        grad = values["grad." + n].flatten()
        norms[n] = dict(norm=grad.double().norm().item(), max_abs=grad.abs().max().item())
        # The 16 largest, and 48 more among those that are not zero (most embedding rows are unused).
        nonzero = grad.nonzero().flatten()
        some = nonzero[torch.randint(len(nonzero), (48,), generator=gen)]
        index = torch.cat([grad.abs().topk(16).indices, some])
        tensors |= {"grad_index." + n: index, "grad_sample." + n: grad[index]}
    first = {n: [p.flatten()[i].item() for i in (0, 1, 2, -1)] for n, p in params.items()}
    store(name, "sampled", cfg, tensors, dict(
        loss=values["loss"].item(), errors=errors, gradients=norms, parameter_check=first))


def main():
    torch.set_num_threads(1)  # the same sums in the same order on every machine with this torch
    wanted = sys.argv[1:]
    for seed, (name, (change, mask)) in enumerate(STEPS.items(), start=1):
        if not wanted or name in wanted:
            make_step(name, change, mask, seed)
    for seed, (name, change) in enumerate(TRAINING.items(), start=101):
        if not wanted or name in wanted:
            make_training(name, change, seed)
    if not wanted or "pythia_14m" in wanted:
        make_pythia()


if __name__ == "__main__":
    main()
