"""Autograd in a block: leaves, versions, and the engine, which reads and changes without a word."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from tests.interception.cases import nans, ours, parameter
from tritoninit import Normal
from tritoninit.interception.entry import intercept
from tritoninit.interception.filled import Overlaid

ENGINE = torch.autograd.graph._engine_run_backward.__code__


class TestAutograd:
    def test_leaves_stay_leaves(self):
        with intercept(seed=0):
            weight = nn.init.normal_(parameter(4))
        assert weight.is_leaf
        assert weight.requires_grad
        weight.square().sum().backward()
        assert weight.grad.equal(2 * weight.detach())

    def test_the_middle_of_a_graph(self):
        """As in torch: recorded there, since gradients stop at what is overwritten."""
        with intercept(seed=0) as intercepted:
            leaf = parameter(3)
            middle = leaf * 2
            middle.normal_()
            middle.sum().backward()
        assert leaf.grad.tolist() == [0, 0, 0]
        assert not intercepted.passed_on  # no parameter's memory

    @pytest.mark.parametrize("fill", [nn.init.normal_, lambda w: w.data.normal_(), nn.init.eye_])
    def test_versions_move_on_at_once(self, fill):
        def change(weight):
            before = weight._version
            fill(weight)
            return weight._version > before

        plain = change(parameter(3, 3))
        with intercept(seed=0):
            assert change(parameter(3, 3)) == plain

    def test_a_change_of_a_saved_tensor_is_noticed(self):
        with intercept(seed=0):
            leaf, saved = torch.ones(4, requires_grad=True), parameter(4)
            product = (leaf * saved).sum()
            nn.init.normal_(saved)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
    def test_modes(self, mode):
        with intercept(seed=0) as intercepted:
            with mode():
                linear = nn.Linear(4, 6)
                linear.weight.data.normal_()
                assert linear.weight.is_inference() == (mode is torch.inference_mode)
            assert intercepted.pending == 2
        assert linear.weight.equal(ours("normal_", (6, 4), (), number=2))
        assert not intercepted.passed_on

    def test_inference_tensors_outside_inference_mode(self):
        with torch.inference_mode():
            weight = nans(4)
        with intercept(seed=0), pytest.raises(RuntimeError, match="inference tensor"):
            nn.init.normal_(weight)


def stepped(call):
    """Run ``call``, which returns tensors and lists, in plain torch and in a block."""
    plain = call()
    with intercept(seed=0) as intercepted:
        inside = call()
        assert not intercepted.pending
    return plain, inside


class TestBackward:
    """The engine reads what it saved, and adds to gradients, without a word."""

    @pytest.mark.parametrize(
        "backward",
        [
            lambda loss, x: loss.backward(),
            lambda loss, x: torch.autograd.backward(loss),
            lambda loss, x: x.grad.add_(torch.autograd.grad(loss, x)[0]),
        ],
    )
    def test_saved_tensors_and_gradients(self, backward):
        def call():
            weight, x = nn.Parameter(torch.full((3,), 2.0)), torch.ones(3, requires_grad=True)
            x.grad = torch.full((3,), 7.0)
            loss = (weight * x).sum()
            weight.data.fill_(10.0)
            nn.init.ones_(x.grad)
            backward(loss, x)
            return x.grad.tolist()

        assert stepped(call) == ([11.0] * 3, [11.0] * 3)

    def test_gradients_that_accumulate(self):
        def call():
            weight = nn.Parameter(torch.ones(3))
            for _ in range(2):
                weight.sum().backward()
                nn.init.zeros_(weight.grad)
            weight.sum().backward()
            return weight.grad.tolist()

        assert stepped(call) == ([1.0] * 3, [1.0] * 3)

    @pytest.mark.parametrize("nested", [False, True])
    def test_hooks_are_served(self, nested):
        """At once: what the engine reads next may be what they filled."""
        weight, pending = nn.Parameter(torch.ones(3)), parameter(4)
        seen = []

        def hook(gradient):
            seen.append(pending.tolist())
            pending.data.normal_()
            seen.append(np.array(pending.tolist(), np.float32))
            nn.init.zeros_(pending.data[1:])
            assert not intercepted.pending

        weight.register_hook(hook)
        with intercept(seed=5 if nested else 0) as intercepted:
            if nested:
                with intercept(seed=0) as intercepted:
                    nn.init.ones_(pending)
                    weight.sum().backward()
            else:
                nn.init.ones_(pending)
                weight.sum().backward()
        assert seen[0] == [1.0] * 4
        expected = ours("normal_", (4,), ())
        assert np.array_equal(seen[1], expected)
        expected[1:] = 0.0
        assert pending.equal(expected)
        assert [a.initializer for a in intercepted.assignments(nn.ParameterList([pending]))] == [
            Overlaid(Normal(), 1)
        ]

    def test_a_fill_in_a_hook_comes_before_what_the_engine_reads(self):
        def call():
            weight, x = nn.Parameter(torch.full((3,), 2.0)), torch.ones(3, requires_grad=True)
            product = weight * x

            def hook(gradient):
                weight.data.fill_(3.0)

            product.register_hook(hook)
            product.sum().backward()
            return x.grad.tolist()

        assert stepped(call) == ([3.0] * 3, [3.0] * 3)

    def test_module_hooks(self):
        def call():
            module, pending, seen = nn.Linear(2, 2), parameter(2), []
            nn.init.ones_(pending)
            module.register_full_backward_hook(lambda *_: seen.append(pending.tolist()))
            module(torch.ones(1, 2, requires_grad=True)).sum().backward()
            return seen

        assert stepped(call) == ([[1.0, 1.0]], [[1.0, 1.0]])

    def test_other_threads_go_their_own_way(self):
        weight = nn.Parameter(torch.ones(3))
        with intercept(seed=0):
            thread = threading.Thread(target=lambda: weight.sum().backward())
            thread.start()
            thread.join()
        assert weight.grad.tolist() == [1, 1, 1]
        assert torch.autograd.graph._engine_run_backward.__code__ is ENGINE
