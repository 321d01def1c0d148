"""Tensors that are not among the arguments of what reads or changes them, and memory that others share."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.interception.cases import nans, ours, parameter
from tritoninit.interception.entry import intercept


class Duck:
    """No tensor, but it holds one."""

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func(*(a.held if isinstance(a, cls) else a for a in args), **(kwargs or {}))


class Holding(torch.Tensor):
    """A tensor of its own, and it holds another."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_subclass(cls, torch.zeros(held.shape))
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*(a.held if isinstance(a, cls) else a for a in args), **(kwargs or {}))


def called_back(tensor):
    return torch.zeros(1).apply_(lambda _: tensor.sum().item())


def dispatched(tensor):
    class Looking(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(tensor.sum().item())
            return func(*args, **(kwargs or {}))

    seen = []
    with Looking():
        torch.zeros(2).neg()
    return torch.tensor(seen)


class TestHidden:
    """Tensors that are not among the arguments of the function that reads or changes them."""

    @pytest.mark.parametrize(
        "read",
        [
            lambda q: torch.sum(Duck(q)),
            lambda q: torch.sum(Holding(q)),
            called_back,
            dispatched,
        ],
    )
    def test_reads(self, read):
        with torch.no_grad():
            plain = nn.init.ones_(torch.full((4,), 7.0))
            expected = read(plain)
            with intercept(seed=0):
                got = read(nn.init.ones_(torch.full((4,), 7.0)))
        assert got.tolist() == expected.tolist()

    def test_an_index(self):
        with intercept(seed=0):
            start, stop = torch.full((), 3), torch.full((), 3)
            nn.init.ones_(start)
            assert torch.ones(5)[start:].shape == (4,)
            nn.init.ones_(stop)
            assert torch.ones(5)[:stop].shape == (1,)

    @pytest.mark.parametrize("name", ["grad", "average"])
    def test_copies(self, name):
        """Of a tensor come with copies of its gradient and of its attributes."""
        with intercept(seed=0):
            tensor = torch.zeros(4)
            setattr(tensor, name, nans(4))
            nn.init.ones_(getattr(tensor, name))
            copied = copy.deepcopy(tensor)
        assert getattr(copied, name).tolist() == [1] * 4

    @pytest.mark.parametrize("kind", [Duck, Holding])
    def test_changes(self, kind):
        with intercept(seed=0), torch.no_grad():
            weight = nn.init.ones_(parameter(4))
            torch.fill_(kind(weight), 3.0)
        assert weight.tolist() == [3] * 4

    def test_custom_operators(self):
        held = nans(3)

        @torch.library.custom_op("tritoninit_test::held", mutates_args=())
        def operator(x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_numpy(held.numpy().copy())

        with intercept(seed=0):
            nn.init.ones_(held)
            assert operator(torch.zeros(3)).tolist() == [1, 1, 1]

    def test_init_in_a_callback_is_served_at_once(self):
        weight, seen = parameter(4), []

        def fill(value):
            nn.init.normal_(weight)
            seen.append(weight.detach().clone())
            return value

        with intercept(seed=0):
            torch.zeros(1).apply_(fill)
        assert seen[0].equal(ours("normal_", (4,), ()))

    @pytest.mark.parametrize(
        "share",
        [
            torch.from_numpy,
            lambda a: nn.Parameter(torch.from_numpy(a)),
            lambda a: torch.frombuffer(a, dtype=torch.float32),
            torch.from_dlpack,
        ],
    )
    def test_memory_that_arrays_share(self, share):
        array = np.zeros(4, np.float32)
        with intercept(seed=0):
            tensor = share(array)
            nn.init.ones_(tensor)
            assert array.tolist() == [1] * 4
            array[:] = 5
        assert array.tolist() == [5] * 4

    def test_arrays_from_before_the_block(self):
        weight = parameter(3)
        array = weight.detach().numpy()
        with intercept(seed=0):
            nn.init.ones_(weight)
            assert array.tolist() == [1] * 3
