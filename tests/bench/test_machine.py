"""Probes of the machine."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from mixfast_bench import machine
from mixfast_bench.machine import Copy, MatrixProduct, describe, peak_memory, precision_of_convolutions
from mixfast_bench.measure import no_mark


def test_the_product_is_one_and_its_operations_are_counted(monkeypatch, cpu):
    monkeypatch.setitem(machine.PRODUCT_SIDE, "cpu", 12)
    product = MatrixProduct(cpu)
    assert product.flops == 12 * 12 * (12 + 12)  # a multiplication and an addition for each of 12 terms
    product.run(no_mark)
    expected = product._left.double() @ product._right.double()
    torch.testing.assert_close(product._out.double(), expected, rtol=1e-5, atol=0)


def test_the_copy_copies_what_it_counts(monkeypatch, cpu):
    monkeypatch.setattr(machine, "COPY_BYTES", 100)
    copy = Copy(cpu)
    copy.run(no_mark)
    assert copy.bytes == 200
    assert copy._target.sum() == 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_peak_memory_counts_what_is_freed_again(cpu):
    size = 2**28  # more than earlier tests can have left free inside the heap, which would take it in without growing

    def work():
        first = torch.ones(size, dtype=torch.uint8)
        second = first.clone()
        del first
        return second.clone()

    peak = peak_memory(work, cpu)
    assert 1.95 * size < peak < 2.3 * size
    assert peak_memory(lambda: None, cpu) < 2**21


def test_convolution_precision_is_put_back():
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(KeyError), precision_of_convolutions():
        assert torch.backends.cuda.matmul.allow_tf32 == cudnn
        raise KeyError
    assert torch.backends.cuda.matmul.allow_tf32 == matmul


def test_operators_are_told_apart_by_the_dispatcher(cpu):
    """A kernel registered for the CPU makes an operator native there, and only there."""
    before = machine.operators(cpu)
    assert {"mask_mix_encode", "augment", "mixed_cross_entropy_backward"} <= before.keys()
    definition = torch.library.Library("mixfast", "FRAGMENT")
    definition.define("bench_probe(Tensor x) -> Tensor")
    definition.impl("bench_probe", torch.clone, "CompositeExplicitAutograd")
    assert machine.operators(cpu) == {**before, "bench_probe": "reference"}
    definition.impl("bench_probe", torch.clone, "CPU")
    assert machine.operators(cpu) == {**before, "bench_probe": "native"}
    assert machine.operators(torch.device("cuda"))["bench_probe"] == "reference"
    definition._destroy()


def test_the_description_is_complete_and_fits_into_json(cpu):
    described = json.loads(json.dumps(describe(cpu)))
    assert described["versions"]["torch"] == torch.__version__
    assert described["threads"] == torch.get_num_threads()
    assert described["cpu"]
    assert described["cores"] >= 1
