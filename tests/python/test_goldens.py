"""The golden files say what their README says, checked without the libraries that made them.

Recomputes losses from logits, hashed parameters from integers and the
learning rates from the schedule, in plain Python: a golden that was damaged, or made by a
changed script and half committed, fails here and not in a puzzling comparison elsewhere.
"""
import array
import json
import math
import pathlib
import struct
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "golden"
CASES = {p.stem: json.loads(p.with_suffix(".json").read_text()) for p in sorted(FOLDER.glob("*.safetensors"))}
NARROW = {kind: json.loads((FOLDER / f"{kind}.json").read_text()) for kind in ("bf16", "fp16")}


def load(name):
    """name -> (shape, flat values) of a safetensors file with f32 and i32 tensors."""
    data = (FOLDER / f"{name}.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for tensor, about in json.loads(data[8:8 + size]).items():
        if tensor != "__metadata__":
            begin, end = (8 + size + at for at in about["data_offsets"])
            values = array.array({"F32": "f", "I32": "i"}[about["dtype"]], data[begin:end])
            tensors[tensor] = (about["shape"], values)
    return tensors


def of_kind(kind):
    return {name: meta for name, meta in CASES.items() if meta["kind"] == kind}


def next_token_loss(row, label):
    top = max(row)
    return top + math.log(math.fsum(math.exp(x - top) for x in row)) - row[label]


def hashed(name, indices):
    """Elements of a hashed parameter: see tests/golden/README.md."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    for i in indices:
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        value = (2 * ((z ^ z >> 31) >> 40) - 2**24) * 2.0**-28
        if "norm.weight" in name:
            value = struct.unpack("<f", struct.pack("<f", 1 + 2 * value))[0]
        yield value


class Goldens(unittest.TestCase):
    def test_16_bits_have_a_distance_for_every_gradient_of_their_cases(self):
        cases = [(kind, name, far) for kind, of in NARROW.items() for name, far in of.items() if name in CASES]
        self.assertGreaterEqual(len(cases), 10)
        for kind, name, far in cases:
            with self.subTest(f"{kind} {name}"):
                grads = {t.removeprefix("grad.") for t in load(name) if t.startswith("grad.")}
                self.assertEqual(far["grads"].keys(), grads)
                for distance in [far["logits"], far["loss"], *far["grads"].values()]:
                    self.assertTrue(0 <= distance < 0.1, distance)

    def test_every_kind_is_there_and_the_folder_is_small(self):
        kinds = {kind: len(of_kind(kind)) for kind in ("step", "training", "sampled", "family")}
        self.assertEqual(kinds, {"step": 22, "training": 3, "sampled": 2, "family": 10})
        # A family may bring 100 KB.
        self.assertLess(sum(p.stat().st_size for p in FOLDER.iterdir()), 5.5e6 + 1e5 * kinds["family"])

    def test_losses_follow_from_logits_labels_and_mask(self):
        for name, meta in of_kind("step").items():
            with self.subTest(name):
                t = load(name)
                micro, batch, seq, vocab = t["logits"][0]
                self.assertEqual(t["labels"][0], [micro, batch, seq])
                # Where evaluation computes something else, the losses follow from training's logits.
                trained = "train_logits" if "train_logits" in t else "logits"
                logits, labels, mask = (t[k][1] for k in (trained, "labels", "mask"))
                losses = []
                for m in range(micro):
                    positions = [i for i in range(m * batch * seq, (m + 1) * batch * seq) if mask[i]]
                    rows = [next_token_loss(logits[i * vocab:(i + 1) * vocab], labels[i]) for i in positions]
                    losses.append(math.fsum(rows) / len(rows) if rows else 0.0)
                for ours, stored in zip(losses, t["micro_losses"][1], strict=True):
                    self.assertAlmostEqual(ours, stored, delta=2e-6)
                self.assertAlmostEqual(math.fsum(losses) / micro, meta["loss"], delta=2e-6)

    def test_every_parameter_has_a_gradient_of_its_shape(self):
        for name in of_kind("step"):
            t = load(name)
            params = {n[6:]: v for n, v in t.items() if n.startswith("param.")}
            self.assertGreater(len(params), 10)
            for param, (shape, _) in params.items():
                with self.subTest(f"{name}: {param}"):
                    self.assertEqual(t["grad." + param][0], shape)
                    self.assertTrue(any(t["grad." + param][1]))

    def test_the_three_computations_lie_close_together(self):
        for name, meta in CASES.items():
            with self.subTest(name):
                close = {k: v for k, v in meta["errors"].items() if k not in ("source", "final_f32_vs_f64")}
                self.assertTrue(close)
                # The f32 numbers of the sampled models, which are of real size, and of the families may lie a fifth
                # of the tests' tolerance away: sums of 768 terms round more, and so do the norms that OLMo 2 has
                # after its branches, whose roots are small.
                rounding = [close.pop(k, 0) for k in ("hf_f32_vs_reference_f64", "hf_f32_vs_hf_f64")]
                self.assertLess(max(rounding), 4e-6 if meta["kind"] in ("sampled", "family") else 2e-6)
                self.assertLess(max(close.values(), default=0), 2e-6)

    def test_learning_rates_are_neoxs(self):
        for name, meta in of_kind("training").items():
            cfg = meta["neox"]
            high, low, total = cfg["optimizer"]["params"]["lr"], cfg["min_lr"], cfg["lr_decay_iters"]
            warm = cfg["warmup"] * total
            self.assertEqual(len(meta["lrs"]), 20)
            for n, rate in enumerate(meta["lrs"]):
                with self.subTest(f"{name}: {n}"):
                    wave = low + (high - low) / 2 * (1 + math.cos(math.pi * (n - warm) / (total - warm)))
                    self.assertAlmostEqual(rate, high * max(1, n) / warm if n <= warm else wave, delta=1e-12)

    def test_hashed_parameters_are_what_the_page_says(self):
        tables = {"pythia_14m": ("embed_out.weight", 50304 * 128), "llama_15m": ("model.embed_tokens.weight", 32000 * 288)}
        sampled = of_kind("sampled")
        self.assertEqual(sampled.keys(), tables.keys())
        for case, meta in sampled.items():
            for name, (first, second, third, _) in meta["parameter_check"].items():
                self.assertEqual(list(hashed(name, range(3))), [first, second, third], name)
            table, elements = tables[case]
            self.assertEqual(next(hashed(table, [elements - 1])), meta["parameter_check"][table][3])


if __name__ == "__main__":
    unittest.main()
