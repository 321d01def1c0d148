"""The grid behind ``tritoninit check``: what it covers, and that it sees every kind of wrong backend."""

import shutil
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from tritoninit import Backend, Normal, Window, checks, registry
from tritoninit.checks import FillCase, compare
from tritoninit.emulated.engine import Fault, Undecoded
from tritoninit.kernels.lowering import FLOAT_DTYPES
from tritoninit.outputs import UsageError
from tritoninit.registry import get

CPU = torch.device("cpu")


def reference(items):
    get("numpy").load()(items)


def each(write):
    """A backend's function, made of one that writes a tensor."""
    return lambda items: [write(tensor, draw) for tensor, draw in items]


def first_difference(write, cases):
    """The difference that ``compare`` ends with, None if it finds none."""
    return list(compare(write, CPU, cases, seed=0))[-1].difference


class TestGrid:
    def test_size(self):
        cases = checks.grid()
        values = sum(torch.Size(case.shape).numel() for case in cases)
        assert values >= 10**7
        assert len(checks.grid(quick=True)) < len(cases) / 3

    @pytest.mark.parametrize("quick", [False, True])
    def test_covers_every_distribution_dtype_layout_and_cut(self, quick):
        cases = checks.grid(quick)
        distributions = {case.fill.distribution for case in cases}
        assert distributions == {"constant", "uniform", "normal", "truncated_normal"}
        for layout in ("contiguous", "transposed", "sliced", "channels-last"):
            for dtype in FLOAT_DTYPES:
                found = {c.fill.distribution for c in cases if (c.layout, c.dtype) == (layout, dtype)}
                assert found == distributions
        assert {case.cut for case in cases} == {None, 0, 1}

    def test_covers_misaligned_windows_and_high_counters(self):
        starts = {case.window.start for case in checks.grid() if len(case.shape) == 1}
        assert any(start % 4 for start in starts)
        assert any(start < 2**34 < start + 1023 for start in starts)
        assert any(start > 2**62 for start in starts)


class TestFillCase:
    @pytest.mark.parametrize("layout", ["contiguous", "shifted", "transposed", "sliced", "channels-last"])
    def test_layouts_have_memory_of_their_own_inside_the_guard(self, layout):
        case = FillCase(Normal(), "float32", (3, 4, 5, 6), Window.whole((3, 4, 5, 6)), layout)
        memory = case.poison(CPU)
        case.view(memory).copy_(torch.arange(360.0).view(3, 4, 5, 6))
        written = memory[~memory.isnan()]
        assert torch.equal(written.sort().values, torch.arange(360.0))
        assert memory[:16].isnan().all()
        assert memory[-16:].isnan().all()

    def test_layouts_differ(self):
        shape = (3, 4, 5, 6)
        base = FillCase(Normal(), "float32", shape, Window.whole(shape))
        strides = {
            layout: replace(base, layout=layout).view(base.poison(CPU).new_zeros(2000)).stride()
            for layout in ("contiguous", "transposed", "sliced", "channels-last")
        }
        assert strides == {
            "contiguous": (120, 30, 6, 1),
            "transposed": (1, 3, 12, 60),
            "sliced": (240, 60, 12, 2),
            "channels-last": (120, 1, 24, 4),
        }

    def test_pieces_tile_the_tensor(self):
        case = FillCase(Normal(), "float32", (37, 129), Window((50, 200), (3, 11)), cut=1)
        tensor = torch.zeros(37, 129)
        offsets = []
        for piece, window in case.pieces(tensor):
            piece += 1
            offsets.append(window.offsets)
            window.check(piece.shape)
        assert (tensor == 1).all()
        assert [first for first, _ in offsets] == [3, 3, 3]
        assert offsets[0] == (3, 11)
        assert len(set(offsets)) == 3


def small_grid():
    return [case for case in checks.grid(quick=True) if torch.Size(case.shape).numel() < 5000]


class TestCompare:
    def test_reference_equals_itself_in_every_case(self):
        cases = small_grid()
        outcomes = list(compare(reference, CPU, cases, seed=0))
        sizes = [torch.Size(case.shape).numel() for case in cases]
        assert [outcome.difference for outcome in outcomes] == [None] * 2 * len(cases)
        assert [o.values for o in outcomes] == sizes + sizes

    def test_what_goes_wrong_only_together_is_found(self):
        """A backend that gives every tensor of a call the last one's stream."""

        def write(items):
            reference([(tensor, draw._replace(stream=items[-1][1].stream)) for tensor, draw in items])

        cases = [FillCase(Normal(), "float32", (n,), Window.whole((n,))) for n in (3, 4)]
        differences = [outcome.difference for outcome in compare(write, CPU, cases, seed=0)]
        assert differences[:2] == [None, None]
        assert "(3,)" in differences[2]

    def test_keys_use_both_words_and_the_seed(self):
        seen = []

        def write(tensor, draw):
            seen.append((draw.seed, draw.stream))
            reference([(tensor, draw)])

        random = [case for case in small_grid() if case.fill.random and case.cut is None]
        list(compare(each(write), CPU, random, seed=0))
        list(compare(each(write), CPU, random, seed=1))
        assert len(set(seen)) == 2 * len(random)
        assert max(seed for seed, _ in seen) > 2**60
        assert max(stream for _, stream in seen) > 2**60

    @pytest.mark.parametrize("dtype", FLOAT_DTYPES)
    def test_one_wrong_bit_is_found_and_shown(self, dtype):
        def write(tensor, draw):
            reference([(tensor, draw)])
            bits = tensor.view(
                {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
            )
            bits[2, 4] ^= 1

        case = FillCase(Normal(), dtype, (3, 5), Window((9, 9), (1, 2)), "transposed")
        difference = first_difference(each(write), [case])
        assert "element (2, 4) is 0x" in difference
        assert f"Normal(mean=0.0, std=1.0) {dtype} (3, 5)" in difference
        assert "offsets=(1, 2)" in difference
        digits = 2 * getattr(torch, dtype).itemsize
        got, want = (int(word.rstrip(","), 16) for word in difference.split() if word.startswith("0x"))
        assert got ^ want == 1
        assert len(difference.rpartition("0x")[2]) == digits

    def test_an_element_left_unwritten_is_found(self):
        def write(tensor, draw):
            last = tensor[-1:].clone()
            reference([(tensor, draw)])
            tensor[-1:] = last

        difference = first_difference(each(write), [FillCase(Normal(), "float32", (7,), Window.whole((7,)))])
        assert "element (6,) is 0x7fc00000" in difference

    @pytest.mark.parametrize("place", [-1, 7])
    def test_an_element_written_outside_is_found(self, place):
        def write(tensor, draw):
            reference([(tensor, draw)])
            tensor.as_strided((1,), (1,), tensor.storage_offset() + place).zero_()

        difference = first_difference(each(write), [FillCase(Normal(), "float32", (7,), Window.whole((7,)))])
        assert f"wrote outside the tensor, {place} elements after its first" in difference

    @pytest.mark.parametrize(
        "spoil",
        [
            pytest.param(lambda draw: draw._replace(start=0), id="window ignored"),
            pytest.param(
                lambda draw: draw._replace(start=draw.start & 0xFFFFFFFF), id="start cut to 32 bits"
            ),
            pytest.param(
                lambda draw: draw._replace(start=draw.start // 4 * 4), id="start rounded to a block"
            ),
            pytest.param(lambda draw: draw._replace(seed=draw.seed & 0xFFFFFFFF), id="seed cut to 32 bits"),
            pytest.param(lambda draw: draw._replace(stream=draw.stream >> 32), id="stream shifted"),
            pytest.param(lambda draw: draw._replace(strides=draw.strides[::-1]), id="strides reversed"),
        ],
    )
    def test_a_draw_misread_is_found(self, spoil):
        assert first_difference(each(lambda tensor, draw: reference([(tensor, spoil(draw))])), checks.grid())

    def test_ends_at_the_first_difference(self):
        cases = small_grid()
        outcomes = list(compare(lambda items: None, CPU, cases, seed=0))
        assert len(outcomes) == 1

    def test_override_by_the_environment_changes_nothing(self, monkeypatch):
        monkeypatch.setenv(registry.ENVIRONMENT_VARIABLE, "triton")
        assert first_difference(reference, small_grid()[:5]) is None


class TestBackendChecks:
    def test_reference_goes_through_what_is_cut_or_laid_out_otherwise(self):
        (own,) = [each for each in checks.backend_checks(0, quick=True) if each.backend == "numpy"]
        outcomes = list(own.run())
        assert len(outcomes) == own.cases > 0
        assert not any(outcome.difference for outcome in outcomes)

    def test_new_backend_is_picked_up(self, monkeypatch):
        twin = Backend("twin", frozenset({"cpu"}), lambda device: None, lambda: reference)
        monkeypatch.setitem(registry._REGISTRY, "twin", twin)
        (found,) = [each for each in checks.backend_checks(0) if each.backend == "twin"]
        assert (found.where, found.cases) == ("cpu", checks._outcomes(checks.grid()))

    def test_backend_that_is_unavailable_is_left_out(self, monkeypatch):
        absent = Backend("absent", frozenset({"cpu"}), lambda device: "not here", lambda: reference)
        monkeypatch.setitem(registry._REGISTRY, "absent", absent)
        assert not [each for each in checks.backend_checks(0) if each.backend == "absent"]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is compared instead")
    @pytest.mark.parametrize("most", [40, pytest.param(None, marks=pytest.mark.slow)])
    def test_triton_in_the_interpreter(self, most):
        """All that is quick, or its first cases, after which the interpreter's process is told to end."""
        pytest.importorskip("triton")
        (found,) = [each for each in checks.backend_checks(7, quick=True) if each.backend == "triton"]
        assert found.where == "cpu, Triton's interpreter"
        running = found.run()
        outcomes = list(islice(running, most))
        running.close()
        assert found.cases > len(checks.grid(quick=True))
        assert len(outcomes) == (most or found.cases)
        assert not any(outcome.difference for outcome in outcomes)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is no interpreter to fail")
    def test_failing_interpreter_is_an_error(self, monkeypatch):
        pytest.importorskip("triton")
        monkeypatch.setattr(sys, "executable", shutil.which("false"))
        (found,) = [each for each in checks.backend_checks(0, quick=True) if each.backend == "triton"]
        with pytest.raises(checks.CheckFailed, match="exit code 1"):
            list(found.run())

    @pytest.mark.slow  # the emulators' own tests execute the same kernels, in more cases
    def test_compiled_kernels_are_executed(self):
        pytest.importorskip("triton")
        found = checks.emulations(["sm_90", "gfx942", "sm_90"], 7, quick=True)
        assert [each.where.partition(" executed")[0] for each in found] == [
            "sm_90, PTX",
            "sm_90, SASS",
            "gfx942, GCN",
        ]
        few = [case for case in checks.grid(quick=True) if case.small and case.dtype == "bfloat16"]
        for code, arch in (("ptx", "sm_90"), ("gcn", "gfx942")):
            outcomes = list(checks._compare_emulated(code, arch, few, 7))
            assert len(outcomes) == checks._outcomes(few)
            assert not any(outcome.difference for outcome in outcomes)

    @pytest.mark.parametrize(
        ("error", "message"),
        [(Fault("a store beyond"), "must not: a store beyond"), (Undecoded("FOO"), "not decoded here: FOO")],
    )
    def test_what_cannot_be_executed_is_an_error(self, monkeypatch, error, message):
        def fail(*arguments, **options):
            raise error

        monkeypatch.setattr("tritoninit.emulated.engine.run", fail)
        with pytest.raises(checks.CheckFailed, match=message):
            list(checks._compare_emulated("ptx", "sm_90", checks.grid(quick=True), 0))

    @pytest.mark.parametrize("value", ["1", "true"])  # Triton takes either
    def test_the_interpreter_cannot_compile(self, monkeypatch, value):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        with pytest.raises(UsageError, match="check --emulate needs Triton's compiler"):
            checks.emulations(["sm_90"], 0)

    @pytest.mark.gpu
    @pytest.mark.slow  # minutes, of which most compile: every kernel for every dtype, in one process
    def test_triton_on_every_gpu(self):
        found = [each for each in checks.backend_checks(0) if each.backend == "triton"]
        assert len(found) == torch.cuda.device_count()
        for each in found:
            outcomes = list(each.run())
            assert not outcomes[-1].difference
            assert len(outcomes) == each.cases


class TestHost:
    def test_as_pinned(self):
        """The bits of what is computed in float64 and rounded, on whichever machine this runs."""
        check = checks.host_check()
        outcomes = list(check.run())
        assert len(outcomes) == check.cases
        assert not [each.difference for each in outcomes if each.difference]

    def test_another_library(self, monkeypatch):
        """It has a say in tables' sines and cosines, and in nothing that is drawn."""
        for name in ("exp", "expm1", "log", "log1p", "tan"):
            monkeypatch.setattr(f"numpy.{name}", None)
        cosine = np.cos
        monkeypatch.setattr("numpy.cos", lambda x: cosine(x) * (1 + 2**-20))
        found = list(checks.host_check().run())
        assert found[-1].difference.startswith("Sinusoids")
        assert "the bits hash to" in found[-1].difference

    def test_factorisations_where_ours_are(self, monkeypatch):
        whole = checks.host_check().cases
        monkeypatch.setattr(checks, "has_kernels", lambda: False)
        assert checks.host_check().cases == whole - 3

    def test_is_the_first_of_all(self):
        assert checks.backend_checks(0, quick=True)[0].backend == "host"
