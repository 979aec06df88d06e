"""Makes the golden files of families beside GPT-NeoX and Llama; README.md says what they hold and how to run this.

usage: make_family_goldens.py [CASE...]

A case is a model of one of Hugging Face's classes, computed in f32 and compared with the same class in f64: one step's
logits, loss and gradients, and 20 steps of training. The script stops if the two disagree by more than rounding to
f32 explains.
"""
import json
import sys

import safetensors
import safetensors.torch
import torch
import transformers

import make_goldens as common

# What all cases have; `intermediate_size` is three times the width, as GPT-NeoX takes a third where there is a gate.
# Adam's eps is large, so that a gradient that is all rounding moves nothing: that of the key's bias where little rotates.
BASE = common.ADAM | dict(
    optimizer=dict(type="Adam", params=dict(lr=5e-3, betas=[0.9, 0.95], eps=1e-5)),
    hidden_size=20, num_layers=2, num_attention_heads=5, num_kv_heads=1, intermediate_size=3 * 18, seq_length=11,
    max_position_embeddings=16, padded_vocab_size=43, make_vocab_size_divisible_by=1, pos_emb="rotary",
    rotary_pct=1.0, rotary_emb_base=10000, no_weight_tying=True, norm="rmsnorm", rms_norm_epsilon=1e-5,
    activation="swiglu", use_bias_in_norms=False, use_bias_in_attn_linear=False, use_bias_in_mlp=False,
    train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=1, hidden_dropout=0, attention_dropout=0)


def named_as_llama(cfg):
    """What configurations of classes with Llama's names have in common."""
    return dict(
        vocab_size=cfg["padded_vocab_size"], hidden_size=cfg["hidden_size"],
        num_hidden_layers=cfg["num_layers"], num_attention_heads=cfg["num_attention_heads"],
        num_key_value_heads=cfg["num_kv_heads"], intermediate_size=cfg["intermediate_size"] // 3,
        hidden_act="silu", max_position_embeddings=cfg["max_position_embeddings"],
        rms_norm_eps=cfg["rms_norm_epsilon"],
        rope_parameters=dict(rope_type="default", rope_theta=float(cfg["rotary_emb_base"])),
        tie_word_embeddings=not cfg["no_weight_tying"], bos_token_id=1, eos_token_id=2,
        # The embedding of a padding token has no gradient in torch.
        pad_token_id=None)


def mistral(cfg):
    return transformers.MistralConfig(**named_as_llama(cfg), sliding_window=cfg["sliding_window_width"] + 1)


def qwen2(cfg):
    return transformers.Qwen2Config(**named_as_llama(cfg))


def qwen3(cfg):
    return transformers.Qwen3Config(**named_as_llama(cfg), head_dim=cfg["head_dim"])


def olmo2(cfg):
    return transformers.Olmo2Config(**named_as_llama(cfg))


CONFIGS = dict(mistral=mistral, qwen2=qwen2, qwen3=qwen3, olmo2=olmo2)
# name: what differs from BASE; the family is `model_family`
CASES = {
    "mistral": dict(model_family="mistral", sliding_window_width=3, num_attention_heads=4, num_kv_heads=2, hidden_size=24),
    "qwen2": dict(model_family="qwen2", use_bias_in_attn_linear=True, use_bias_in_attn_dense=False,
                  no_weight_tying=False, rotary_emb_base=1000000, hidden_size=30),
    "qwen3": dict(model_family="qwen3", qk_norm="head", head_dim=6, num_attention_heads=4, num_kv_heads=2),
    "olmo2": dict(model_family="olmo2", qk_norm="width", norm_place="after", num_attention_heads=6, num_kv_heads=3,
                  hidden_size=24, num_layers=1),
}


def hf_config(cfg):
    c = CONFIGS[cfg["model_family"]](cfg)
    c._attn_implementation = "eager"
    c.use_cache = False
    return c


class HuggingFace:
    """A class's model with the parameters of a dict under published names, in their dtype."""

    def __init__(self, cfg, params):
        dtype = next(iter(params.values())).dtype
        self.model = transformers.AutoModelForCausalLM.from_config(hf_config(cfg)).to(dtype).train()
        self.params = dict(self.model.named_parameters())
        assert self.params.keys() == params.keys(), self.params.keys() ^ params.keys()
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(params[name])

    def logits(self, tokens):
        return self.model(tokens).logits


def shapes(cfg):
    model = transformers.AutoModelForCausalLM.from_config(hf_config(cfg))
    return {n: tuple(p.shape) for n, p in model.named_parameters()}


def random_params(cfg, gen):
    """Far from a training initialisation on purpose: every bias and norm has to matter."""
    params = {}
    for name, shape in sorted(shapes(cfg).items()):
        p = torch.randn(shape, generator=gen) * 0.12
        params[name] = p + 1 if name.endswith("norm.weight") else p
    return params


def make(name, change, seed):
    cfg = BASE | change
    gen = torch.Generator().manual_seed(seed)
    params = random_params(cfg, gen)
    batch = common.random_batch(cfg, gen, "random")
    values = common.backward(HuggingFace(cfg, params), *batch)
    exact = common.backward(HuggingFace(cfg, common.double(params)), *batch)
    errors = {"source": "transformers f32", "hf_f32_vs_hf_f64": common.apart(values, exact)}
    assert errors["hf_f32_vs_hf_f64"] < 1e-5, errors
    tensors = {"param." + n: p for n, p in params.items()}
    tensors |= dict(tokens=batch[0], labels=batch[1], mask=batch[2], **values)
    # Four batches in turn, so that there is something to learn in twenty steps.
    four = common.random_batch(cfg, gen, "ones", lead=(4,))
    batches = [b.repeat(5, *[1] * (b.dim() - 1)) for b in four]
    hf, hf64 = HuggingFace(cfg, params), HuggingFace(cfg, common.double(params))
    losses, lrs, norms = common.train(hf, batches, cfg)
    exact_losses, _, _ = common.train(hf64, batches, cfg)
    worst = max(abs(a - b) for a, b in zip(losses, exact_losses))
    errors |= {"losses_f32_vs_f64_absolute": worst, "final_f32_vs_f64": common.apart(hf.params, hf64.params)}
    assert worst < 5e-5 and errors["final_f32_vs_f64"] < 5e-5, errors
    assert losses[-1] < losses[0] and max(norms) > cfg["gradient_clipping"], norms
    tensors |= {"final." + n: p.detach() for n, p in hf.params.items()}
    tensors |= {"train." + n: b for n, b in zip(("tokens", "labels", "mask"), batches)}
    store(name, cfg, tensors, dict(
        seed=seed, loss=values["loss"].item(), losses=losses, lrs=lrs, grad_norms=norms, errors=errors))


def store(name, cfg, tensors, extra):
    def narrow(t):
        t = torch.as_tensor(t)
        return (t.int() if t.dtype == torch.int64 else t.float()).contiguous()
    path = common.HERE / f"{name}.safetensors"
    safetensors.torch.save_file({n: narrow(t) for n, t in tensors.items()}, path)
    path.chmod(0o644)
    hf = hf_config(cfg).to_dict()
    hf = {k: v for k, v in hf.items() if k not in ("transformers_version", "_attn_implementation")}
    versions = dict(torch=torch.__version__, transformers=transformers.__version__,
                    safetensors=safetensors.__version__)
    meta = dict(kind="family", neox=cfg, hf=hf, versions=versions, **extra)
    (common.HERE / f"{name}.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(name, path.stat().st_size, {k: v for k, v in extra.items() if k in ("errors", "loss")})


def main():
    torch.set_num_threads(1)  # the same sums in the same order on every machine with this torch
    wanted = sys.argv[1:]
    for seed, (name, change) in enumerate(CASES.items(), start=401):
        if not wanted or name in wanted:
            make(name, change, seed)


if __name__ == "__main__":
    main()
