"""Makes the golden files `llama_*`; README.md says what they hold and how to run this.

usage: make_llama_goldens.py [CASE...]

Every case is computed by Hugging Face's LlamaForCausalLM in f32 and compared, in f64, with
`reference_llama.py`. The script stops if the two disagree by more than f32 rounding explains.
"""
import json
import sys

import safetensors
import safetensors.torch
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import hashed
import make_goldens as common
import reference_llama

# `intermediate_size` is three times the width: GPT-NeoX takes a third of it where an activation is gated.
BASE = dict(
    hidden_size=24, num_layers=2, num_attention_heads=6, num_kv_heads=2, intermediate_size=3 * 40,
    seq_length=13, max_position_embeddings=16, padded_vocab_size=61, make_vocab_size_divisible_by=1,
    pos_emb="rotary", rotary_pct=1.0, rotary_emb_base=10000, no_weight_tying=True, norm="rmsnorm",
    rms_norm_epsilon=1e-5, activation="swiglu", use_bias_in_norms=False, use_bias_in_attn_linear=False,
    use_bias_in_mlp=False, train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=1,
    hidden_dropout=0, attention_dropout=0)

# Heads of eight pairs of dims, and sequences longer than the original ones: pairs that are kept, mixed and divided.
SMALL = dict(
    hidden_size=32, num_attention_heads=2, num_kv_heads=1, intermediate_size=3 * 20, num_layers=1, seq_length=21,
    max_position_embeddings=64, padded_vocab_size=37, rotary_emb_base=100, train_micro_batch_size_per_gpu=1)

# name: (what differs from BASE, how the mask looks)
STEPS = {
    "llama_grouped": (dict(), "ones"),
    "llama_one_key_head_tied": (dict(
        num_attention_heads=5, num_kv_heads=1, hidden_size=40, intermediate_size=3 * 27, seq_length=33,
        max_position_embeddings=40, num_layers=1, padded_vocab_size=97, no_weight_tying=False,
        rotary_emb_base=500000, rms_norm_epsilon=1e-3, train_micro_batch_size_per_gpu=1), "ones"),
    "llama_all_heads_biases": (dict(
        num_attention_heads=3, num_kv_heads=3, activation="geglu", gradient_accumulation_steps=2,
        use_bias_in_attn_linear=True, use_bias_in_mlp=True), "random"),
    "llama_rope_llama3": (dict(SMALL, rope_scaling=dict(
        rope_type="llama3", factor=4.0, original_max_position_embeddings=16, low_freq_factor=1.0,
        high_freq_factor=2.5)), "ones"),
    "llama_rope_yarn": (dict(SMALL, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=2.0, beta_slow=0.5)), "ones"),
}
TRAINING = {"llama_train": dict(hidden_size=16, num_attention_heads=4, intermediate_size=3 * 24)}
# 15 million parameters, with as many layers, heads and rows as the smallest published Llamas.
LLAMA_15M = BASE | dict(
    hidden_size=288, num_layers=6, num_attention_heads=6, num_kv_heads=2, intermediate_size=3 * 768,
    seq_length=64, max_position_embeddings=256, padded_vocab_size=32000, no_weight_tying=False,
    train_micro_batch_size_per_gpu=1)
GATES = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}


def hf_config(cfg):
    return LlamaConfig(
        vocab_size=cfg["padded_vocab_size"], hidden_size=cfg["hidden_size"],
        num_hidden_layers=cfg["num_layers"], num_attention_heads=cfg["num_attention_heads"],
        num_key_value_heads=cfg["num_kv_heads"], intermediate_size=cfg["intermediate_size"] // 3,
        hidden_act=GATES[cfg["activation"]], max_position_embeddings=cfg["max_position_embeddings"],
        rms_norm_eps=cfg["rms_norm_epsilon"],
        rope_parameters=dict(
            cfg.get("rope_scaling", dict(rope_type="default")), rope_theta=float(cfg["rotary_emb_base"])),
        tie_word_embeddings=not cfg["no_weight_tying"], attention_bias=cfg["use_bias_in_attn_linear"],
        mlp_bias=cfg["use_bias_in_mlp"], attn_implementation="eager", use_cache=False)


class HuggingFace:
    """LlamaForCausalLM with the parameters of a dict under published names, in their dtype."""

    def __init__(self, cfg, params):
        dtype = next(iter(params.values())).dtype
        self.model = LlamaForCausalLM(hf_config(cfg)).to(dtype).train()
        self.params = dict(self.model.named_parameters())
        assert self.params.keys() == params.keys(), self.params.keys() ^ params.keys()
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(params[name])

    def logits(self, tokens):
        return self.model(tokens).logits


class Plain:
    """`reference_llama.py` behind the same face."""

    def __init__(self, cfg, params):
        self.cfg = cfg
        self.params = {n: p.detach().clone().requires_grad_() for n, p in params.items()}

    def logits(self, tokens):
        return reference_llama.logits(self.params, tokens, self.cfg)


def shapes(cfg):
    e, v, f = cfg["hidden_size"], cfg["padded_vocab_size"], cfg["intermediate_size"] // 3
    kv = e // cfg["num_attention_heads"] * cfg["num_kv_heads"]
    out = {"model.embed_tokens.weight": (v, e)}
    for i in range(cfg["num_layers"]):
        at = f"model.layers.{i}."
        for linear, rows, cols, bias in (
                ("self_attn.q_proj", e, e, "attn"), ("self_attn.k_proj", kv, e, "attn"),
                ("self_attn.v_proj", kv, e, "attn"), ("self_attn.o_proj", e, e, "attn"),
                ("mlp.gate_proj", f, e, "mlp"), ("mlp.up_proj", f, e, "mlp"),
                ("mlp.down_proj", e, f, "mlp")):
            out[at + linear + ".weight"] = (rows, cols)
            if cfg["use_bias_in_attn_linear" if bias == "attn" else "use_bias_in_mlp"]:
                out[at + linear + ".bias"] = (rows,)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[at + norm + ".weight"] = (e,)
    out["model.norm.weight"] = (e,)
    if cfg["no_weight_tying"]:
        out["lm_head.weight"] = (v, e)
    return out


def random_params(cfg, gen):
    """Far from a training initialisation on purpose: every bias and norm has to matter."""
    params = {}
    for name, shape in shapes(cfg).items():
        p = torch.randn(shape, generator=gen) * 0.12
        params[name] = p + 1 if "norm.weight" in name else p
    return params


def three_ways(cfg, params, batch):
    """The golden values and how far the three computations lie apart."""
    exact = common.backward(Plain(cfg, common.double(params)), *batch)
    hf32 = common.backward(HuggingFace(cfg, params), *batch)
    hf64 = common.backward(HuggingFace(cfg, common.double(params)), *batch)
    errors = {"source": "transformers f32", "hf_f32_vs_reference_f64": common.apart(hf32, exact),
              "hf_f64_vs_reference_f64": common.apart(hf64, exact)}
    # Hugging Face computes rotary angles and norms in f32 even in an f64 model, hence not 1e-12.
    assert errors["hf_f64_vs_reference_f64"] < 5e-6, errors
    assert errors["hf_f32_vs_reference_f64"] < 1e-5, errors
    return hf32, errors


def store(name, kind, cfg, tensors, extra):
    def narrow(t):
        t = torch.as_tensor(t)
        return (t.int() if t.dtype == torch.int64 else t.float()).contiguous()
    path = common.HERE / f"{name}.safetensors"
    safetensors.torch.save_file({n: narrow(t) for n, t in tensors.items()}, path)
    path.chmod(0o644)
    hf = {k: v for k, v in hf_config(cfg).to_diff_dict().items() if k != "transformers_version"}
    versions = dict(torch=torch.__version__, transformers=transformers.__version__,
                    safetensors=safetensors.__version__)
    meta = dict(kind=kind, neox=cfg, hf=hf, versions=versions, **extra)
    (common.HERE / f"{name}.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(name, {k: v for k, v in extra.items() if k in ("errors", "loss")})


def make_step(name, change, mask, seed):
    cfg = BASE | change
    gen = torch.Generator().manual_seed(seed)
    params = random_params(cfg, gen)
    batch = common.random_batch(cfg, gen, mask)
    values, errors = three_ways(cfg, params, batch)
    tensors = {"param." + n: p for n, p in params.items()}
    tensors |= dict(tokens=batch[0], labels=batch[1], mask=batch[2], **values)
    store(name, "step", cfg, tensors, dict(seed=seed, loss=values["loss"].item(), errors=errors))


def make_training(name, change, seed):
    cfg = BASE | common.ADAM | change
    gen = torch.Generator().manual_seed(seed)
    params = random_params(cfg, gen)
    # Four batches in turn, so that there is something to learn in twenty steps.
    four = common.random_batch(cfg, gen, "ones", lead=(4,))
    batches = [b.repeat(5, *[1] * (b.dim() - 1)) for b in four]
    hf, plain = HuggingFace(cfg, params), Plain(cfg, common.double(params))
    losses, lrs, norms = common.train(hf, batches, cfg)
    exact_losses, _, exact_norms = common.train(plain, batches, cfg)
    worst = max(abs(a - b) for a, b in zip(losses, exact_losses))
    assert worst < 5e-5, worst
    assert losses[-1] < losses[0] and max(norms) > cfg["gradient_clipping"], norms
    tensors = {"param." + n: p for n, p in params.items()}
    tensors |= {"final." + n: p.detach() for n, p in hf.params.items()}
    tensors |= dict(tokens=batches[0], labels=batches[1], mask=batches[2])
    errors = {"source": "transformers f32", "losses_f32_vs_f64_absolute": worst,
              "final_f32_vs_f64": common.apart(hf.params, plain.params)}
    store(name, "training", cfg, tensors, dict(
        seed=seed, losses=losses, losses_f64=exact_losses, lrs=lrs, grad_norms=norms,
        grad_norms_f64=exact_norms, errors=errors))


def make_sampled(name="llama_15m"):
    cfg = LLAMA_15M
    params = {n: hashed.parameter(n, s) for n, s in shapes(cfg).items()}
    gen = torch.Generator().manual_seed(15)
    tokens, labels, mask = common.random_batch(cfg, gen, "ones")
    values, errors = three_ways(cfg, params, (tokens, labels, mask))
    tensors = dict(tokens=tokens, labels=labels, mask=mask, loss=values["loss"],
                   logit_positions=torch.tensor([0, 31, 63]),
                   logits=values["logits"][0, 0, [0, 31, 63]])
    norms = {}
    for n in params:
        grad = values["grad." + n].flatten()
        norms[n] = dict(norm=grad.double().norm().item(), max_abs=grad.abs().max().item())
        # The 16 largest, and 16 more among those that are not zero (most embedding rows are unused).
        nonzero = grad.nonzero().flatten()
        some = nonzero[torch.randint(len(nonzero), (16,), generator=gen)]
        index = torch.cat([grad.abs().topk(16).indices, some])
        tensors |= {"grad_index." + n: index, "grad_sample." + n: grad[index]}
    first = {n: [p.flatten()[i].item() for i in (0, 1, 2, -1)] for n, p in params.items()}
    store(name, "sampled", cfg, tensors, dict(
        loss=values["loss"].item(), errors=errors, gradients=norms, parameter_check=first))


def main():
    torch.set_num_threads(1)  # the same sums in the same order on every machine with this torch
    wanted = sys.argv[1:]
    for seed, (name, (change, mask)) in enumerate(STEPS.items(), start=201):
        if not wanted or name in wanted:
            make_step(name, change, mask, seed)
    for seed, (name, change) in enumerate(TRAINING.items(), start=301):
        if not wanted or name in wanted:
            make_training(name, change, seed)
    if not wanted or "llama_15m" in wanted:
        make_sampled()


if __name__ == "__main__":
    main()
