"""Parameters made from integers, so that a test in any language can make the same ones.

Element i (row-major) of the tensor called NAME is the (i+1)-th output z of SplitMix64 seeded with the
64-bit FNV-1a hash of NAME's bytes. Its top 24 bits k give the value (2k - 2^24) * 2^-24 * 2^-4, in
[-1/16, 1/16), exact in f32; a norm's weight is 1 plus twice that, rounded once to f32.
"""
import numpy
import torch


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def splitmix64(seed, count):
    """The first `count` outputs."""
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return z ^ (z >> numpy.uint64(31))


def parameter(name, shape):
    count = int(numpy.prod(shape))
    k = (splitmix64(fnv1a(name), count) >> numpy.uint64(40)).astype(numpy.int64)
    value = ((2 * k - 2**24).astype(numpy.float64) * 2.0**-28).astype(numpy.float32)
    if "norm.weight" in name:
        value = numpy.float32(1) + value * numpy.float32(2)
    return torch.from_numpy(value.reshape(shape))
