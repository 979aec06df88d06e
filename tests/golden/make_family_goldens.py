"""Makes the golden files of families beside GPT-NeoX and Llama; README.md says what they hold and how to run this.

usage: make_family_goldens.py [CASE...]

A case is a model of one of Hugging Face's classes, computed in f32 and compared with the same class in f64: one step's
logits, loss and gradients, and 20 steps of training. The script stops if the two disagree by more than rounding to
f32 explains.
"""
import json
import sys
import tempfile

import safetensors
import safetensors.torch
import torch
import transformers

import make_goldens as common
import reference

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


def falcon(cfg):
    shared = cfg["gpt_j_tied"]
    return transformers.FalconConfig(
        vocab_size=cfg["padded_vocab_size"], hidden_size=cfg["hidden_size"],
        num_hidden_layers=cfg["num_layers"], num_attention_heads=cfg["num_attention_heads"],
        num_kv_heads=cfg["num_kv_heads"], ffn_hidden_size=cfg["intermediate_size"],
        new_decoder_architecture=not shared, multi_query=shared, num_ln_in_parallel_attn=1 if shared else 2,
        layer_norm_epsilon=cfg["layernorm_epsilon"], max_position_embeddings=cfg["max_position_embeddings"],
        rope_parameters=dict(rope_type="default", rope_theta=float(cfg["rotary_emb_base"])),
        tie_word_embeddings=not cfg["no_weight_tying"], bias=cfg["use_bias_in_mlp"], bos_token_id=1, eos_token_id=2)


def gemma3(cfg):
    kinds = dict(zip(("sliding", "global"), ("sliding_attention", "full_attention")))
    (names, repeats), = cfg["attention_config"]
    keys = named_as_llama(cfg)
    del keys["hidden_act"]
    keys["rope_parameters"] = dict(
        full_attention=cfg["rope_scaling"] | dict(rope_theta=float(cfg["rotary_emb_base"])),
        sliding_attention=dict(rope_type="default", rope_theta=float(cfg["sliding_rotary_emb_base"])))
    return transformers.Gemma3TextConfig(
        **keys, hidden_activation="gelu_pytorch_tanh", head_dim=cfg["head_dim"],
        query_pre_attn_scalar=cfg["query_pre_attn_scalar"], sliding_window=cfg["sliding_window_width"] + 1,
        layer_types=[kinds[name] for name in names] * repeats)


def mixtral(cfg):
    return transformers.MixtralConfig(
        **named_as_llama(cfg), sliding_window=None, num_local_experts=cfg["moe_num_experts"],
        num_experts_per_tok=cfg["moe_top_k"])


def qwen3_moe(cfg):
    return transformers.Qwen3MoeConfig(
        **named_as_llama(cfg), head_dim=cfg["head_dim"], num_experts=cfg["moe_num_experts"],
        num_experts_per_tok=cfg["moe_top_k"], moe_intermediate_size=cfg["moe_intermediate_size"],
        norm_topk_prob=cfg.get("moe_norm_topk_prob", False))


CONFIGS = dict(gemma3_text=gemma3, mistral=mistral, qwen2=qwen2, qwen3=qwen3, olmo2=olmo2, falcon=falcon,
               mixtral=mixtral, qwen3_moe=qwen3_moe)
# Layer norms with biases, and an MLP without a gate.
FALCON = dict(
    model_family="falcon", norm="layernorm", layernorm_epsilon=1e-5, activation="gelu", intermediate_size=48,
    use_bias_in_norms=True, gpt_j_residual=True, no_weight_tying=False)
# name: what differs from BASE; the family is `model_family`
CASES = {
    "mistral": dict(model_family="mistral", sliding_window_width=3, num_attention_heads=4, num_kv_heads=2, hidden_size=24),
    "qwen2": dict(model_family="qwen2", use_bias_in_attn_linear=True, use_bias_in_attn_dense=False,
                  no_weight_tying=False, rotary_emb_base=1000000, hidden_size=30),
    "qwen3": dict(model_family="qwen3", qk_norm="head", head_dim=6, num_attention_heads=4, num_kv_heads=2),
    "olmo2": dict(model_family="olmo2", qk_norm="width", norm_place="after", num_attention_heads=6, num_kv_heads=3,
                  hidden_size=24, num_layers=1),
    "falcon": FALCON | dict(gpt_j_tied=True),
    "falcon_grouped": FALCON | dict(gpt_j_tied=False, num_attention_heads=4, num_kv_heads=2, hidden_size=24, num_layers=1),
    "palm": dict(model_family="palm", norm="layernorm", layernorm_epsilon=1e-5, gpt_j_residual=True, gpt_j_tied=True,
                 no_weight_tying=False, num_attention_heads=3, head_dim=8, embedding_scale=20**0.5),
    "gemma3": dict(
        model_family="gemma3_text", activation="geglu_tanh", qk_norm="head", norm_place="around", zero_centred_norms=True,
        embedding_scale=12**0.5, query_pre_attn_scalar=9, num_attention_heads=4, num_kv_heads=2, head_dim=6, hidden_size=12,
        num_layers=4, attention_config=[[["sliding", "global"], 2]], sliding_window_width=3, sliding_rotary_emb_base=100,
        rotary_emb_base=1000000, rope_scaling=dict(rope_type="linear", factor=8.0), no_weight_tying=False, rms_norm_epsilon=1e-3,
        intermediate_size=3 * 12),
    "mixtral": dict(model_family="mixtral", num_attention_heads=4, num_kv_heads=2, hidden_size=16,
                    intermediate_size=3 * 10, moe_num_experts=4, moe_top_k=2, moe_router_type="topk",
                    moe_norm_topk_prob=True),
    "qwen3_moe": dict(model_family="qwen3_moe", qk_norm="head", head_dim=6, num_attention_heads=4, num_kv_heads=2,
                      hidden_size=16, moe_num_experts=5, moe_top_k=3, moe_router_type="topk", moe_intermediate_size=7),
}
# Scores that choose experts and are nearer to each other than this could turn by rounding to f32.
MARGIN = 2e-5


class TooClose(Exception):
    """A token's last choice among experts and the first one that was not chosen have nearly one score."""


def apart_enough(gate, args, _):
    """A hook behind each router: chosen experts are the most probable by more than rounding."""
    scores = torch.nn.functional.linear(args[0].detach().flatten(0, -2), gate.weight.detach()).softmax(-1)
    ranked = scores.sort(-1, descending=True).values
    if (ranked[:, gate.top_k - 1] - ranked[:, gate.top_k]).min() < MARGIN:
        raise TooClose


def hf_config(cfg):
    c = CONFIGS[cfg["model_family"]](cfg)
    c._attn_implementation = "eager"
    c._experts_implementation = "eager"
    c.use_cache = False
    return c


class Palm:
    """PaLM in plain PyTorch, after its paper (arXiv:2204.02311). Its embedding is √hidden_size times the parameter, and it
    divides logits by that number (section 5, "weight initialization").
    """

    def __init__(self, cfg, params):
        self.cfg, self.params = cfg, {n: p.detach().clone().requires_grad_() for n, p in params.items()}

    @staticmethod
    def shapes(cfg):
        e, d, n, f = cfg["hidden_size"], cfg["head_dim"], cfg["num_attention_heads"], cfg["intermediate_size"] // 3
        out = {"model.embed_tokens.weight": (cfg["padded_vocab_size"], e), "model.norm.weight": (e,)}
        for i in range(cfg["num_layers"]):
            at = f"model.layers.{i}."
            out |= {at + "input_layernorm.weight": (e,), at + "self_attn.q_proj.weight": (n * d, e),
                    at + "self_attn.k_proj.weight": (d, e), at + "self_attn.v_proj.weight": (d, e),
                    at + "self_attn.o_proj.weight": (e, n * d), at + "mlp.gate_proj.weight": (f, e),
                    at + "mlp.up_proj.weight": (f, e), at + "mlp.down_proj.weight": (e, f)}
        return out

    def logits(self, tokens):
        p, cfg = self.params, self.cfg
        batch, seq = tokens.shape
        d, n = cfg["head_dim"], cfg["num_attention_heads"]

        def norm(x, weight):
            return torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, None, cfg["layernorm_epsilon"])

        embedding = p["model.embed_tokens.weight"] * cfg["hidden_size"]**0.5
        x = embedding[tokens]
        for i in range(cfg["num_layers"]):
            at = f"model.layers.{i}."
            y = norm(x, p[at + "input_layernorm.weight"])
            q = (y @ p[at + "self_attn.q_proj.weight"].T).view(batch, seq, n, d).transpose(1, 2)
            k = (y @ p[at + "self_attn.k_proj.weight"].T).view(batch, 1, seq, d)
            v = (y @ p[at + "self_attn.v_proj.weight"].T).view(batch, 1, seq, d)
            q, k = (reference.rotate(z, d, cfg["rotary_emb_base"]) for z in (q, k))
            scores = q @ k.transpose(-1, -2) / d**0.5
            future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
            mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
            attended = mixed.transpose(1, 2).reshape(batch, seq, n * d) @ p[at + "self_attn.o_proj.weight"].T
            gate = torch.nn.functional.silu(y @ p[at + "mlp.gate_proj.weight"].T)
            x = x + attended + (gate * (y @ p[at + "mlp.up_proj.weight"].T)) @ p[at + "mlp.down_proj.weight"].T
        return norm(x, p["model.norm.weight"]) @ embedding.T / cfg["hidden_size"]**0.5


class HuggingFace:
    """A class's model with the parameters of a dict under published names, in their dtype."""

    def __init__(self, cfg, params):
        dtype = next(iter(params.values())).dtype
        self.model = transformers.AutoModelForCausalLM.from_config(hf_config(cfg)).to(dtype).train()
        for module in self.model.modules():
            if hasattr(module, "experts"):
                module.gate.register_forward_hook(apart_enough)
        self.params = dict(self.model.named_parameters())
        assert self.params.keys() == params.keys(), self.params.keys() ^ params.keys()
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(params[name])

    def logits(self, tokens):
        return self.model(tokens).logits


def model(cfg, params):
    return (HuggingFace if cfg["model_family"] in CONFIGS else Palm)(cfg, params)


def shapes(cfg):
    if cfg["model_family"] not in CONFIGS:
        return Palm.shapes(cfg)
    model = transformers.AutoModelForCausalLM.from_config(hf_config(cfg))
    return {n: tuple(p.shape) for n, p in model.named_parameters()}


def published(cfg, tensors):
    """Tensors by the names that checkpoints have: in memory all experts' matrices are one parameter."""
    family, out = cfg["model_family"], {}
    for name, t in tensors.items():
        at, _, what = name.partition(".mlp.")
        mlp = at + (".block_sparse_moe." if family == "mixtral" else ".mlp.")
        gate, up, down = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        if what == "experts.gate_up_proj":
            for i, both in enumerate(t):
                out[f"{mlp}experts.{i}.{gate}.weight"], out[f"{mlp}experts.{i}.{up}.weight"] = both.chunk(2)
        elif what == "experts.down_proj":
            out |= {f"{mlp}experts.{i}.{down}.weight": one for i, one in enumerate(t)}
        elif what:
            out[mlp + what] = t
        else:
            out[name] = t
    return out


def from_published(cfg, tensors):
    """Parameters by the names that the class has in memory."""
    params = {name: torch.empty(shape) for name, shape in shapes(cfg).items()}
    for name, part in published(cfg, params).items():
        part.copy_(tensors[name])
    return params


def names_are_right(cfg, params):
    """`published` makes what Hugging Face saves."""
    with tempfile.TemporaryDirectory() as folder:
        HuggingFace(cfg, params).model.save_pretrained(folder)
        saved = safetensors.torch.load_file(folder + "/model.safetensors")
    ours = published(cfg, params)
    assert saved.keys() == ours.keys(), saved.keys() ^ ours.keys()
    assert all(torch.equal(ours[name], t) for name, t in saved.items())


def random_params(cfg, gen):
    """Far from a training initialisation on purpose: every bias and norm has to matter."""
    params = {}
    for name, shape in sorted(shapes(cfg).items()):
        p = torch.randn(shape, generator=gen) * (0.8 if name.endswith("mlp.gate.weight") else 0.12)
        # Gemma's norms add 1 to their weights.
        norm = not cfg.get("zero_centred_norms") and (name.endswith("norm.weight") or ".ln_" in name and name.endswith("weight"))
        params[name] = p + 1 if norm else p
    return params


def make(name, change, seed):
    cfg = BASE | change
    gen = torch.Generator().manual_seed(seed)
    params = random_params(cfg, gen)
    batch = common.random_batch(cfg, gen, "random")
    values = common.backward(model(cfg, params), *batch)
    exact = common.backward(model(cfg, common.double(params)), *batch)
    source, apart = "transformers f32", "hf_f32_vs_hf_f64"
    if cfg["model_family"] not in CONFIGS:
        source, apart = "PyTorch f32", "f32_vs_f64"
    else:
        names_are_right(cfg, params)
    errors = {"source": source, apart: common.apart(values, exact)}
    assert errors[apart] < 1e-5, errors
    tensors = {"param." + n: p for n, p in published(cfg, params).items()}
    grads = {n.removeprefix("grad."): values.pop(n) for n in list(values) if n.startswith("grad.")}
    tensors |= {"grad." + n: g for n, g in published(cfg, grads).items()}
    tensors |= dict(tokens=batch[0], labels=batch[1], mask=batch[2], **values)
    # Four batches in turn, so that there is something to learn in twenty steps.
    four = common.random_batch(cfg, gen, "ones", lead=(4,))
    batches = [b.repeat(5, *[1] * (b.dim() - 1)) for b in four]
    hf, hf64 = model(cfg, params), model(cfg, common.double(params))
    losses, lrs, norms = common.train(hf, batches, cfg)
    exact_losses, _, _ = common.train(hf64, batches, cfg)
    worst = max(abs(a - b) for a, b in zip(losses, exact_losses))
    errors |= {"losses_f32_vs_f64_absolute": worst, "final_f32_vs_f64": common.apart(hf.params, hf64.params)}
    assert worst < 5e-5 and errors["final_f32_vs_f64"] < 5e-5, errors
    assert losses[-1] < losses[0] and max(norms) > cfg["gradient_clipping"], norms
    tensors |= {"final." + n: p.detach() for n, p in published(cfg, hf.params).items()}
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
    hf = hf_config(cfg).to_dict() if cfg["model_family"] in CONFIGS else {}
    hf = {k: v for k, v in hf.items() if k not in ("transformers_version", "_attn_implementation", "_experts_implementation")}
    versions = dict(torch=torch.__version__, transformers=transformers.__version__,
                    safetensors=safetensors.__version__)
    meta = dict(kind="family", neox=cfg, hf=hf or None, versions=versions, **extra)
    (common.HERE / f"{name}.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(name, path.stat().st_size, {k: v for k, v in extra.items() if k in ("errors", "loss")})


def main():
    torch.set_num_threads(1)  # the same sums in the same order on every machine with this torch
    wanted = sys.argv[1:]
    for seed, (name, change) in enumerate(CASES.items(), start=401):
        if not wanted or name in wanted:
            for seed in range(seed, seed + 100_000, 1000):
                try:
                    make(name, change, seed)
                    break
                except TooClose:
                    pass


if __name__ == "__main__":
    main()
