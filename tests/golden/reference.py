"""GPT-NeoX in plain PyTorch float64, small enough to read in one sitting.

What it is for: the second opinion of `make_goldens.py`. Every golden of Hugging Face's model is
compared with this one, and the two position kinds that Hugging Face's GPTNeoX does not have
(`learned` and `none`) come from here, after the rotary cases have shown that it is the same model.

Parameters are a dict under the names of the published GPTNeoX checkpoints, plus
`gpt_neox.embed_pos.weight` [position, embed] for learned positions. Linear weights are [out, in];
the rows of `query_key_value` are ordered [heads, (q, k, v), head_dim].
"""
import math

import torch


def layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def normalise(x, p, name, cfg):
    """A norm of one of the kinds of `norm`; `use_bias_in_norms: false` leaves the biases out."""
    kind, eps = cfg.get("norm", "layernorm"), cfg["layernorm_epsilon"]
    if kind == "scalenorm":
        length = (x**2).sum(-1, keepdim=True).sqrt().clamp(min=cfg["scalenorm_epsilon"])
        return x / length * p[name + ".weight"]
    if kind == "non_parametric_layernorm":
        return layer_norm(x, 1.0, 0.0, eps)
    weight = p[name + ".weight"] + (1 if cfg.get("zero_centred_norms") else 0)
    return layer_norm(x, weight, p.get(name + ".bias", 0.0), eps)


def sinusoids(seq, width, dtype):
    """[seq, width]: sines of width / 2 angles, then cosines of the same."""
    angles = torch.arange(seq, dtype=dtype)[:, None] / 10000 ** (torch.arange(0, width, 2, dtype=dtype) / width)
    return torch.cat([angles.sin(), angles.cos()], -1)


def gelu(x, fused):
    """`bias_gelu_fusion` selects the tanh form; without it gelu is the exact erf form."""
    if fused:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def frequencies(dims, base, scaling):
    """The angle between neighbouring positions of each pair of dims, and what both tables are multiplied by."""
    plain = [base ** (-2 * i / dims) for i in range(dims // 2)]
    kind = scaling["rope_type"] if scaling else "default"
    if kind == "default":
        return plain, 1.0
    factor, amplitude = scaling["factor"], 1.0

    def mix(f, kept):
        kept = min(max(kept, 0.0), 1.0)
        return kept * f + (1 - kept) * f / factor

    if kind == "linear":
        return [f / factor for f in plain], 1.0
    if kind == "ntk":
        return [(base * factor ** (dims / (dims - 2))) ** (-2 * i / dims) for i in range(dims // 2)], 1.0
    original = scaling["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = [original * f / (2 * math.pi) for f in plain]
        return [mix(f, (t - low) / (high - low)) for f, t in zip(plain, turns)], 1.0
    fast, slow = scaling.get("beta_fast", 32), scaling.get("beta_slow", 1)

    def pair(turns):  # the (fractional) pair that turns so often within the original length
        return dims / 2 * math.log(original / (2 * math.pi * turns), base)

    first, last = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), dims - 1)
    width = (last - first) or 0.001
    amplitude = scaling.get("attention_factor", 0.1 * math.log(factor) + 1)
    return [mix(f, 1 - (i - first) / width) for i, f in enumerate(plain)], amplitude


def rotate(x, dims, base, scaling=None):
    """Turns the first `dims` elements of x [batch, heads, seq, head_dim]: element i with i + dims/2."""
    half = dims // 2
    position = torch.arange(x.shape[2], dtype=x.dtype)[:, None]
    turn, amplitude = frequencies(dims, base, scaling)
    angle = position * torch.tensor(turn, dtype=x.dtype)
    cos, sin = amplitude * angle.cos(), amplitude * angle.sin()
    a, b, rest = x[..., :half], x[..., half:dims], x[..., dims:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def attention(x, p, prefix, cfg):
    batch, seq, hidden = x.shape
    heads = cfg["num_attention_heads"]
    head_dim = hidden // heads
    qkv = x @ p[prefix + "query_key_value.weight"].T + p[prefix + "query_key_value.bias"]
    q, k, v = qkv.view(batch, seq, heads, 3, head_dim).permute(3, 0, 2, 1, 4)
    if cfg["pos_emb"] == "rotary":
        dims = int(head_dim * cfg["rotary_pct"])
        q = rotate(q, dims, cfg["rotary_emb_base"])
        k = rotate(k, dims, cfg["rotary_emb_base"])
    scores = q @ k.transpose(-1, -2) / math.sqrt(head_dim)
    future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(batch, seq, hidden)
    return out @ p[prefix + "dense.weight"].T + p[prefix + "dense.bias"]


def mlp(x, p, prefix, cfg):
    wide = x @ p[prefix + "dense_h_to_4h.weight"].T + p[prefix + "dense_h_to_4h.bias"]
    wide = gelu(wide, cfg["bias_gelu_fusion"])
    return wide @ p[prefix + "dense_4h_to_h.weight"].T + p[prefix + "dense_4h_to_h.bias"]


def logits(p, tokens, cfg):
    """tokens [batch, seq] -> logits [batch, seq, vocab]."""
    def norm(x, name):
        return normalise(x, p, name, cfg)

    seq = tokens.shape[1]
    x = p["gpt_neox.embed_in.weight"][tokens] * cfg.get("embedding_scale", 1.0)
    if cfg["pos_emb"] == "learned":
        first = cfg.get("opt_pos_emb_offset", 0)
        x = x + p["gpt_neox.embed_pos.weight"][first : first + seq]
    if cfg["pos_emb"] == "sinusoidal":
        x = x + sinusoids(seq, x.shape[-1], x.dtype)
    for i in range(cfg["num_layers"]):
        at = f"gpt_neox.layers.{i}."
        attended = attention(norm(x, at + "input_layernorm"), p, at + "attention.", cfg)
        if cfg["gpt_j_residual"]:
            x = x + attended + mlp(norm(x, at + "post_attention_layernorm"), p, at + "mlp.", cfg)
        else:
            x = x + attended
            x = x + mlp(norm(x, at + "post_attention_layernorm"), p, at + "mlp.", cfg)
    x = norm(x, "gpt_neox.final_layer_norm")
    head = "embed_out.weight" if cfg["no_weight_tying"] else "gpt_neox.embed_in.weight"
    return x @ p[head].T


def masked_loss(logits, labels, mask):
    """sum(loss * mask) / sum(mask) of one micro-batch; 0 where everything is masked."""
    picked = logits.gather(-1, labels[..., None])[..., 0]
    losses = logits.logsumexp(-1) - picked
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def learning_rate(n, cfg):
    """The rate of the step that follows `n` finished optimizer steps, so the first step has n = 0.

    Warmup lasts W = warmup * decay iterations (not rounded); then a cosine down to min_lr.
    """
    lr, low = cfg["optimizer"]["params"]["lr"], cfg["min_lr"]
    total = cfg["lr_decay_iters"]
    warmup = cfg["warmup"] * total
    if warmup > 0 and n <= warmup:
        return lr * max(1, n) / warmup
    part = (n - warmup) / (total - warmup)
    return max(low, low + (lr - low) / 2 * (math.cos(math.pi * part) + 1))
