"""Llama in plain PyTorch float64: the second opinion of `make_llama_goldens.py`.

RMSNorm, rotary positions over the whole head, grouped-query attention (query head h reads key-value head
h // (heads / key-value heads)), a gated MLP. Parameters are a dict under Hugging Face's names of
LlamaForCausalLM; linear weights are [out, in].
"""
import math

import torch

from reference import gelu, rotate

ACTIVATIONS = {
    "swiglu": lambda x: x / (1 + torch.exp(-x)),
    "geglu": lambda x: gelu(x, False),
    "reglu": lambda x: x.clamp(min=0),
}


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight


def linear(x, p, name):
    y = x @ p[name + ".weight"].T
    return y + p[name + ".bias"] if name + ".bias" in p else y


def attention(x, p, at, cfg):
    batch, seq, hidden = x.shape
    heads, kv = cfg["num_attention_heads"], cfg["num_kv_heads"]
    size = hidden // heads

    def split(name, count):
        return linear(x, p, at + name).view(batch, seq, count, size).transpose(1, 2)

    base = cfg["rotary_emb_base"]
    q, k = (rotate(split(name, n), size, base, cfg.get("rope_scaling"))
            for name, n in (("q_proj", heads), ("k_proj", kv)))
    v = split("v_proj", kv)
    of = [h // (heads // kv) for h in range(heads)]
    scores = q @ k[:, of].transpose(-1, -2) / math.sqrt(size)
    future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    mixed = (weights @ v[:, of]).transpose(1, 2).reshape(batch, seq, hidden)
    return linear(mixed, p, at + "o_proj")


def mlp(x, p, at, cfg):
    gate = ACTIVATIONS[cfg["activation"]](linear(x, p, at + "gate_proj"))
    return linear(gate * linear(x, p, at + "up_proj"), p, at + "down_proj")


def logits(p, tokens, cfg):
    """tokens [batch, seq] -> logits [batch, seq, vocab]."""
    eps = cfg["rms_norm_epsilon"]
    x = p["model.embed_tokens.weight"][tokens]
    for i in range(cfg["num_layers"]):
        at = f"model.layers.{i}."
        x = x + attention(rms_norm(x, p[at + "input_layernorm.weight"], eps), p, at + "self_attn.", cfg)
        x = x + mlp(rms_norm(x, p[at + "post_attention_layernorm.weight"], eps), p, at + "mlp.", cfg)
    x = rms_norm(x, p["model.norm.weight"], eps)
    return x @ p["lm_head.weight" if cfg["no_weight_tying"] else "model.embed_tokens.weight"].T
