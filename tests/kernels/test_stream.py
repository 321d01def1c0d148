"""The stream's constants and the names of its numbers: each backend reads them as they stand in stream.py."""

import importlib.util
import inspect
import math

import numpy as np
import pytest

from tritoninit.kernels import lowering, numba_kernels, reference, stream, triton_kernels

NUMBERS = {
    "uniform": stream.UniformNumbers,
    "normal": stream.NormalNumbers,
    "truncated_normal": stream.TruncatedNormalNumbers,
}
TABLES = ["LOG", "SINE", "QUANTILE_CENTRE", "QUANTILE_TAIL"]


@pytest.mark.parametrize("backend", [reference, numba_kernels, triton_kernels], ids=lambda m: m.__name__)
@pytest.mark.parametrize(("distribution", "numbers"), NUMBERS.items(), ids=list(NUMBERS))
def test_backends_take_the_numbers_by_their_names_in_their_order(backend, distribution, numbers):
    function = getattr(backend, distribution)
    function = getattr(function, "py_func", getattr(function, "fn", function))  # numba's and Triton's
    _, *names = inspect.signature(function).parameters
    assert tuple(names[: len(numbers._fields)]) == numbers._fields
    assert all(name.isupper() for name in names[len(numbers._fields) :])  # what Triton compiles in


def test_lowering_gives_them():
    assert isinstance(lowering.constant(1.0, "float32"), stream.ConstantNumbers)
    assert isinstance(lowering.uniform(0.0, 1.0, "float32"), stream.UniformNumbers)
    assert isinstance(lowering.uniform(1.0, 1.0, "float32"), stream.UniformNumbers)
    assert isinstance(lowering.normal(0.0, 1.0, "float32"), stream.NormalNumbers)
    found = lowering.truncated_normal(0.5, 2.0, -1.0, 3.0, "float32")
    assert isinstance(found, stream.TruncatedNormalNumbers)
    assert (found.mean, found.std, found.floor, found.cap) == (0.5, 2.0, -1.0, 3.0)
    assert found.below == pytest.approx(0.5 * math.erfc(0.75 / math.sqrt(2)))
    assert found.above == pytest.approx(0.5 * math.erfc(1.25 / math.sqrt(2)))
    assert found.difference == pytest.approx(found.below - found.above)
    assert found.mass * 2.0**32 == pytest.approx(1 - found.below - found.above)


@pytest.mark.parametrize("table", TABLES)
def test_numba_notices_on_import_a_table_of_another_length(monkeypatch, table):
    monkeypatch.setattr(stream, table, (*getattr(stream, table), 1.0))
    spec = importlib.util.spec_from_file_location("another_length", numba_kernels.__file__)
    with pytest.raises(ImportError, match="a polynomial of the stream has another length"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("table", TABLES)
def test_numba_notices_on_import_a_bit_of_each_polynomial(monkeypatch, table):
    """Here the reference's is changed, which reads it at each call."""
    numba_kernels._require_the_bits()
    *others, last = getattr(stream, table)
    monkeypatch.setattr(stream, table, (*others, float(np.nextafter(np.float32(last), np.float32(9)))))
    with pytest.raises(ImportError, match="differ from the reference's"):
        numba_kernels._require_the_bits()
