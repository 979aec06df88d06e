"""Checks that what `neoxc convert neox-to-hf` writes is what transformers expects.

usage: check_hf_export.py write CASE DIR      DIR: a Hugging Face folder with CASE's parameters
       check_hf_export.py check DIR CASE      loads DIR, compares its logits with CASE's
       check_hf_export.py all NEOXC [CASE...] both, through both conversions of NEOXC, for every case

CASE is a rotary case of this folder, such as parallel_erf, pythia_14m or llama_grouped. Exits with 1 when any
logit is more than 1e-4 away (absolute; the logits are of order 1).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

import hashed
import make_family_goldens
import make_goldens
import make_llama_goldens

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4


def load_case(name):
    return json.loads((HERE / f"{name}.json").read_text()), load_file(HERE / f"{name}.safetensors")


def write(case, folder):
    meta, tensors = load_case(case)
    cfg = meta["neox"]
    makers = dict(gpt_neox=make_goldens, llama=make_llama_goldens)
    maker = makers.get(meta["hf"]["model_type"], make_family_goldens)
    if meta["kind"] == "sampled":
        params = {n: hashed.parameter(n, s) for n, s in maker.shapes(cfg).items()}
    elif maker is make_family_goldens:
        named = {n.removeprefix("param."): t for n, t in tensors.items() if n.startswith("param.")}
        params = maker.from_published(cfg, named)
    else:
        params = {n: tensors["param." + n] for n in maker.shapes(cfg)}
    maker.HuggingFace(cfg, params).model.save_pretrained(folder)
    print(f"{folder}: {len(params)} tensors of {case}")


def check(folder, case):
    meta, tensors = load_case(case)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model.eval()
    problems = {k: v for k, v in report.items() if v}
    with torch.no_grad():
        logits = torch.stack([model(t.long()).logits for t in tensors["tokens"]])
    if meta["kind"] == "sampled":
        logits = logits[0, 0, tensors["logit_positions"].long()]
    worst = (logits - tensors["logits"]).abs().max().item()
    print(f"{case}: {type(model).__name__} of transformers {transformers.__version__}, "
          f"{logits.numel()} logits, largest difference {worst:.2e} (allowed {TOLERANCE:.0e})")
    if problems:
        print("loading report:", problems)
    return 1 if problems or not worst <= TOLERANCE else 0


def through(neoxc, case):
    """CASE to Hugging Face, to NeoX and back by `neoxc convert`; then the check."""
    with tempfile.TemporaryDirectory() as tmp:
        hf, neox, back = (str(pathlib.Path(tmp) / n) for n in ("hf", "neox", "back"))
        write(case, hf)
        run = lambda *a: subprocess.run([neoxc, "convert", *a], check=True, capture_output=True)
        run("hf-to-neox", hf, neox)
        run("neox-to-hf", neox + "/global_step0", back)
        return check(back, case)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", name, folder]:
            write(name, folder)
        case ["check", folder, name]:
            sys.exit(check(folder, name))
        case ["all", neoxc, *wanted]:
            hf = [c for c in sorted(HERE.glob("*.json")) if json.loads(c.read_text()).get("hf")]
            cases = [c.stem for c in hf if json.loads(c.read_text())["kind"] != "training"]
            sys.exit(max(through(neoxc, c) for c in cases if not wanted or c in wanted))
        case _:
            sys.exit(__doc__)
