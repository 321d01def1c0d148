"""Blocks: exceptions, nesting, threads, and the code of torch's functions before, in and after."""

import math
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn.init import kaiming_normal_ as kept_kaiming_normal_

import tritoninit
from tests.interception.cases import KEPT, key, nans, ours, parameter
from tritoninit import Key, Normal, Uniform
from tritoninit.interception.entry import intercept


class TestBlocks:
    def test_exceptions_leave_nothing_pending(self):
        weight = parameter(4)
        intercepted = None

        def build():
            nonlocal intercepted
            with intercept(seed=0) as intercepted:
                nn.init.normal_(weight)
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            build()
        assert not intercepted.pending
        assert weight.equal(ours("normal_", (4,), ()))
        assert nn.init.normal_.__code__ is KEPT["normal_"].__code__
        torch.manual_seed(0)
        got = nn.init.normal_(torch.empty(4))
        torch.manual_seed(0)
        assert got.equal(torch.empty(4).normal_())

    def test_nested(self):
        """The inner one serves, with its own seed and count; what the outer one had pending comes first."""
        tensors = [parameter(6) for _ in range(4)]
        with intercept(seed=1) as outer:
            alias = tensors[3].data
            nn.init.normal_(tensors[0])
            nn.init.normal_(tensors[1])
            with intercept(seed=2) as inner:
                assert not outer.pending
                tensors[1].data[:3].normal_()
                nn.init.normal_(tensors[2])
                alias.normal_()
                parameter(3).data.normal_(0.0, 1e38)  # which may be too large for float32
                assert inner.pending == 3
                assert not outer.pending
            assert not inner.pending
            assert len(inner.passed_on) == 1
            assert not outer.passed_on
            nn.init.normal_(tensors[2][3:])
            assert (inner.pending, outer.pending) == (0, 1)
        expected = [Normal()(nans(6), key=Key(1).fold_in(n)) for n in range(3)]
        assert tensors[0].equal(expected[0])
        assert tensors[1][3:].equal(expected[1][3:])
        assert tensors[1][:3].equal(Normal()(nans(3), key=Key(2).fold_in(0)))
        assert tensors[2][:3].equal(Normal()(nans(6), key=Key(2).fold_in(1))[:3])
        assert tensors[2][3:].equal(Normal()(nans(3), key=Key(1).fold_in(2)))
        assert alias.equal(Normal()(nans(6), key=Key(2).fold_in(2)))

    def test_the_outer_one_learns_of_parameters(self):
        weight = parameter(6)
        alias = weight.data
        with intercept(seed=1):
            with intercept(seed=2):
                assert weight.shape == (6,)
            alias.normal_()
        assert weight.equal(ours("normal_", (6,), (), seed=1))

    def test_nested_assignments(self):
        """Each tells what it did itself, and the outer one not what an inner block changed."""
        model = nn.ParameterList([parameter(6) for _ in range(5)])
        with intercept(seed=1) as outer:
            for weight in model:
                nn.init.normal_(weight)
            with intercept(seed=2) as inner:
                nn.init.zeros_(model[1])
                model[2].data.mul_(2.0)
                nn.init.ones_(model[3])
                array = model[4].detach().numpy()
            nn.init.normal_(model[3])
            nn.init.constant_(model[4], 3.0)
            assert array.tolist() == [3] * 6
        assert [a.name for a in inner.assignments(model)] == ["1", "3"]
        assert [(a.name, a.key) for a in outer.assignments(model)] == [
            ("0", key(0, seed=1)),
            ("3", key(5, seed=1)),
            ("4", None),
        ]

    @pytest.mark.parametrize("change", [lambda w: w.data.mul_(2.0), tritoninit.ones_])
    def test_the_outer_one_learns_of_changes(self, change):
        model = nn.ParameterList([parameter(6), parameter(6)])
        with intercept(seed=1) as outer:
            for weight in model:
                nn.init.normal_(weight)
            with intercept(seed=2), intercept(seed=3):
                change(model[1])
        assert [a.name for a in outer.assignments(model)] == ["0"]

    @pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    def test_left_out_of_order(self, order):
        """As generators do that hold blocks: the innermost of those that are open serves."""

        def holding(seed):
            with intercept(seed=seed) as intercepted:
                yield intercepted

        blocks = [holding(seed) for seed in range(3)]
        opened = [next(block) for block in blocks]
        left = {0, 1, 2}
        for leaving in order:
            blocks[leaving].close()
            left.remove(leaving)
            weight, before = parameter(3), [each._random_fills for each in opened]
            nn.init.normal_(weight)
            served = [seed for seed in range(3) if opened[seed]._random_fills > before[seed]]
            assert served == sorted(left)[-1:]
            assert not weight.isnan().any()
        assert nn.init.normal_.__code__ is KEPT["normal_"].__code__

    def test_left_out_of_order_beside_another_thread(self):
        """Whose block has the functions routed while nobody is in one here."""
        self.test_left_out_of_order((0, 1, 2))
        inside, done = threading.Event(), threading.Event()

        def work():
            with intercept(seed=0):
                inside.set()
                done.wait(10)

        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(10)
        weight = nn.init.ones_(parameter(3))
        done.set()
        thread.join()
        assert weight.tolist() == [1, 1, 1]

    @pytest.mark.parametrize("how", ["replaced", "wrapped"])
    def test_imported_while_functions_are_replaced(self, how):
        """As transformers does for a while: they are looked for again."""
        program = f"""
import functools, torch
from torch import nn
kept = nn.init.normal_
def other(tensor, *args):
    return tensor
nn.init.normal_ = functools.wraps(kept)(other) if {how!r} == "wrapped" else other
import tritoninit
if {how!r} == "replaced":
    try:
        tritoninit.intercept(seed=0).__enter__()
    except RuntimeError as error:
        assert "normal_" in str(error), error
    else:
        raise AssertionError("no error")
nn.init.normal_ = kept
with tritoninit.intercept(seed=0) as intercepted:
    table = nn.Embedding(3, 4)
assert len(intercepted.assignments(table)) == 1
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

    def test_first_used_while_functions_are_replaced(self):
        """What was found on import is routed, whatever stands in for it by then."""
        program = """
import torch, tritoninit
from torch import nn
kept = nn.init.normal_
nn.init.normal_ = None
weight = nn.Parameter(torch.empty(3))
with tritoninit.intercept(seed=0) as intercepted:
    kept(weight)
assert len(intercepted.assignments(nn.ParameterList([weight]))) == 1
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

    def test_other_threads_see_plain_torch(self):
        results = []

        def work():
            weight = parameter(6, 4)
            generator = torch.Generator().manual_seed(4)
            nn.init.normal_(weight, generator=generator)
            kept_kaiming_normal_(weight[3:], generator=generator)
            weight.data[0].uniform_(generator=generator)
            results.append(weight.detach().clone())

        work()
        with intercept(seed=0) as intercepted:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert results[0].equal(results[1])
            assert not intercepted.pending

    def test_two_threads_each_with_its_own(self):
        """Their blocks overlap, and the first to end leaves the other's standing."""
        inside, done = threading.Barrier(2, timeout=10), threading.Event()
        models = {}

        def build(seed):
            with intercept(seed=seed):
                inside.wait()
                if seed:
                    done.wait(10)
                models[seed] = nn.Linear(3, 4)
            done.set()

        threads = [threading.Thread(target=build, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, model in models.items():
            expected = tritoninit.kaiming_uniform_(nans(4, 3), math.sqrt(5), key=key(0, seed))
            assert model.weight.equal(expected)
        assert nn.init.zeros_.__code__.co_firstlineno > 1  # torch's own again

    def test_our_own_functions_inside(self):
        weight = parameter(4)
        with intercept(seed=0) as intercepted:
            nn.init.normal_(weight)
            tritoninit.uniform_(weight, key=Key(8))
        assert weight.equal(Uniform()(nans(4), key=Key(8)))
        assert not intercepted.assignments(nn.ParameterList([weight]))
