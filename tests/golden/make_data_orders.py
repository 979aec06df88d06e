"""Orders of samples by GPT-NeoX's published rules, written down again in plain NumPy: `data_orders.json`.

    python3 tests/golden/make_data_orders.py

The rules are those of megatron/data (gpt2_dataset.py, helpers.cpp, data_utils.py), without its defects, which
docs/howto/data.md lists. Document d of source s has tokens (37 s + 11 d + 5 i) % 50, and the labels say that token i is
not learned where (s + d + 2 i) % 3 = 0, or in a document with d % 5 = 4 nowhere.
"""

import json
import math
import random
from pathlib import Path

import numpy as np

PAD, NOT_LEARNED = 0, -100


def tokens(source, document, size):
    return [(37 * source + 11 * document + 5 * i) % 50 for i in range(size)]


def labels(source, document, size):
    if document % 5 == 4:
        return [NOT_LEARNED] * size
    t = tokens(source, document, size)
    return [NOT_LEARNED if (source + document + 2 * i) % 3 == 0 else t[i] for i in range(size)]


class Set:
    """The samples of one source."""

    def __init__(self, source, sizes, first, last, samples, case):
        self.source, self.sizes, self.case = source, sizes, case
        seq, rng = case["seq"], np.random.RandomState(case["seed"])
        documents = np.arange(first, last)
        if case["pack"] == "packed":
            total = sum(sizes[first:last])
            epochs = 1
            while (epochs * total - 1) // seq < samples:
                epochs += 1
            order = np.tile(documents, epochs)
            rng.shuffle(order)
            stream = [(d, i) for d in order for i in range(sizes[d])]
            n = (epochs * total - 1) // seq
            self.samples = [stream[k * seq:k * seq + seq + 1] for k in range(n)]
            self.order = np.arange(n)
            rng.shuffle(self.order)
            return
        self.order = np.arange(samples)
        rng.shuffle(self.order)
        least = 2 if case["pack"] == "unpacked" else 1

        def kept(d):
            short = sizes[d] < least or (not case["chop"] and sizes[d] > seq + 1)
            marked = case["labels"] and all(x == NOT_LEARNED for x in labels(source, d, sizes[d])[:seq + 1])
            return not short and not marked

        def whole(d):
            return [(d, i) for i in range(sizes[d])]

        if case["pack"] == "unpacked":
            usable = [d for d in documents if kept(d)]
            self.samples = [whole(usable[k % len(usable)]) for k in range(samples)]
        else:
            self.samples, walk = [], np.arange(len(documents))
            done = False
            while not done:
                rng.shuffle(walk)
                for k in walk:
                    d = first + int(k)
                    if not kept(d):
                        continue
                    if self.samples and len(self.samples[-1]) + sizes[d] <= seq + 1:
                        self.samples[-1] += whole(d)
                    else:
                        self.samples.append(whole(d))
                    if len(self.samples) == samples:
                        done = True
                        break
        self.samples = [s[:seq + 1] for s in self.samples]

    def __len__(self):
        return len(self.order)

    def __getitem__(self, position):
        id = int(self.order[position % len(self)])
        out = {"id": id, "source": self.source, "tokens": [], "labels": []}
        for d, i in self.samples[id]:
            size = self.sizes[d]
            out["tokens"].append(tokens(self.source, int(d), size)[i])
            which = labels if self.case["labels"] else tokens
            out["labels"].append(which(self.source, int(d), size)[i])
        rest = self.case["seq"] + 1 - len(out["tokens"])
        out["tokens"] += [PAD] * rest
        out["labels"] += [NOT_LEARNED] * rest
        return out


def blend(weights, n):
    """Always the source that lags most, the first of several."""
    given, order = [0] * len(weights), []
    for i in range(n):
        lags = [w * max(float(i), 1.0) - g for w, g in zip(weights, given)]
        best = int(np.argmax(lags))
        order.append((best, given[best]))
        given[best] += 1
    return order


def by_documents(counts, alpha):
    if len(counts) == 1:
        return [1.0]
    q = [c / sum(counts) for c in counts]
    p = [x ** alpha for x in q]
    p = [x / sum(p) for x in p]
    w = [a * (1 - b) for a, b in zip(p, q)]
    return [x / sum(w) for x in w]


def case(rng, pack, sources, **more):
    c = {"seq": rng.randint(3, 17), "seed": rng.randint(0, 99), "samples": rng.randint(20, 90), "pack": pack,
         "labels": rng.random() < 0.5, "chop": rng.random() < 0.5, "alpha": None, "split": None} | more
    c["sizes"] = [[rng.randint(0 if pack != "packed" else 1, 24) for _ in range(rng.randint(9, 31))] for _ in range(sources)]
    # One that nothing leaves out.
    for sizes in c["sizes"]:
        sizes[3] = 3
    c["weights"] = [round(rng.random() * 4, 3) for _ in range(sources)]
    if c["alpha"] is not None:
        weights = by_documents([len(s) for s in c["sizes"]], c["alpha"])
    else:
        weights = [w / sum(c["weights"]) for w in c["weights"]]
    if c["split"]:
        a, b = c["split"]
        c["labels"] = False
        c["sizes"][0][a + 1] = 3
        data = [Set(0, c["sizes"][0], a, b, c["samples"], c)]
    else:
        need = [math.ceil(c["samples"] * w * 1.005) for w in weights]
        data = [Set(k, s, 0, len(s), max(n, 1), c) for k, (s, n) in enumerate(zip(c["sizes"], need))]
    order = blend(weights, c["samples"]) if sources > 1 else [(0, k) for k in range(c["samples"])]
    drawn = [data[s][k] for s, k in order]
    c["drawn"] = [[d["source"], d["id"]] for d in drawn]
    few = rng.sample(range(c["samples"]), 4)
    c["some"] = [{"position": k, "tokens": drawn[k]["tokens"], "labels": drawn[k]["labels"]} for k in few]
    return c


def main():
    rng = random.Random(20261201)
    packs = ["packed", "pack_until_overflow", "unpacked"]
    cases = [case(rng, pack, n) for pack in packs for n in (1, 2, 3)]
    cases += [case(rng, pack, 1, split=[5, 9]) for pack in packs[1:]]
    cases += [case(rng, "packed", n, alpha=a) for n, a in ((2, 1.0), (3, 0.3), (4, 1.7))]
    long = [0.05, 0.6, 0.35]
    out = {"cases": cases, "long": {"weights": long, "at": [[n, *blend(long, n + 1)[-1]] for n in (0, 255, 256, 257, 4999)]}}
    Path(__file__).with_name("data_orders.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


main()
