"""Makes `rope.json`: the frequencies that Hugging Face's transformers give scaled rotary positions.

A case has `rotary_dims`, `rotary_emb_base` and `rope_scaling` in this project's keys, the inverse `frequencies` of
ROPE_INIT_FUNCTIONS and the `amplitude` of both tables. `ntk` with a factor k is transformers' `dynamic` with the factor
1 on sequences of k times the length.
"""
import json

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import make_goldens as common
import reference

CASES = [
    (128, 500000, dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                       original_max_position_embeddings=8192)),
    (64, 500000, dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=8192)),
    (96, 10000, dict(rope_type="linear", factor=4.0)),
    (128, 1000000, dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    (64, 10000, dict(rope_type="yarn", factor=40.0, original_max_position_embeddings=4096, beta_fast=16.0,
                     beta_slow=2.0, mscale=1.0, mscale_all_dim=0.707)),
    (80, 150000, dict(rope_type="yarn", factor=32.0, original_max_position_embeddings=4096, truncate=False,
                      attention_factor=1.25)),
    (48, 10000, dict(rope_type="ntk", factor=2.5)),
]


def values(dims, base, scaling):
    kind, length, context = scaling["rope_type"], None, 131072
    theirs = scaling
    if kind == "ntk":
        kind, length = "dynamic", int(scaling["factor"] * context)
        theirs = dict(rope_type="dynamic", factor=1.0)
    config = LlamaConfig(
        hidden_size=2 * dims, num_attention_heads=2, max_position_embeddings=context,
        rope_parameters=dict(theirs, rope_theta=float(base)))
    found, amplitude = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)
    # The second opinion, in f64.
    plain, other = reference.frequencies(dims, base, scaling)
    if "mscale" not in scaling and scaling.get("truncate", True):
        assert max(abs(f / p - 1) for f, p in zip(found.tolist(), plain)) < 1e-5, scaling
        assert abs(amplitude - other) < 1e-12, scaling
    return found.tolist(), amplitude


def main():
    cases = []
    for dims, base, scaling in CASES:
        found, amplitude = values(dims, base, scaling)
        cases.append(dict(rotary_dims=dims, rotary_emb_base=base, rope_scaling=scaling, amplitude=amplitude,
                          frequencies=[float(f"{x:.9g}") for x in found]))
    (common.HERE / "rope.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
