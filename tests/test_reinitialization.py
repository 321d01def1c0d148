"""Parts of a model drawn again: which numbers, by name and step, in every shard, and nothing besides."""

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import Key, Normal, Orthogonal, Rule, Scaled, Zeros, reinitialize_, shrink_and_perturb_


def model(dtype=torch.float32):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Embedding(7, 5, 2)
    )
    for parameter in layers.parameters():
        nn.init.normal_(parameter, 3.0)
    return layers.to(dtype)


def values(module):
    return {name: x.detach().clone() for name, x in module.state_dict().items()}


def fresh(module, step, rules=ti.TORCH_DEFAULTS, seed=1, tag="reinitialize"):
    """What initialize_ has for the seed that the docstring names."""
    other = model()
    ti.initialize_(other, rules, seed=Key(seed).fold_in(tag).fold_in(step).stream)
    return values(other)


class TestWhole:
    def test_all_of_a_model(self):
        trained = model()
        reinitialize_(trained, seed=1, step=4)
        expected = fresh(trained, 4)
        assert all(value.equal(expected[name]) for name, value in values(trained).items())

    def test_a_layer_by_glob_or_module(self):
        for only in ("2.*", "2", ["2.weight", "2.bias"]):
            trained = model()
            before = values(trained)
            reinitialize_(trained, seed=1, step=4, only=only)
            expected = fresh(trained, 4)
            for name, value in values(trained).items():
                assert value.equal((expected if name.startswith("2.") else before)[name])
        trained = model()
        reinitialize_(trained, seed=1, only=trained[2])
        assert values(trained)["2.weight"].equal(fresh(trained, 0)["2.weight"])

    def test_steps_differ_and_repeat(self):
        drawn = []
        for step in (0, 1, 1):
            trained = model()
            reinitialize_(trained, seed=1, step=step, only="0")
            drawn.append(trained[0].weight.detach())
        assert drawn[1].equal(drawn[2])
        assert not (drawn[0] == drawn[1]).any()
        initial = model()
        ti.initialize_(initial, seed=1)
        assert not (drawn[0] == initial[0].weight).any()

    def test_skip(self):
        trained = model()
        before = values(trained)
        reinitialize_(trained, seed=1, skip="0.*")
        assert trained[0].weight.equal(before["0.weight"])
        assert not trained[2].weight.equal(before["2.weight"])


class TestParts:
    @pytest.mark.parametrize(
        "dead",
        [
            [1, 3],
            (3, 1, 1),
            torch.tensor([1, -5]),
            torch.tensor([1, 3], dtype=torch.uint8),
            [False, True, False, True, *[False] * 4],
            range(1, 4, 2),
        ],
    )
    def test_dead_units(self, dead):
        """What comes into them, their biases, and what goes out of them."""
        trained = model()
        before = values(trained)
        chosen = torch.tensor([1, 3])
        if isinstance(dead, list) and isinstance(dead[0], bool):
            dead = torch.tensor(dead)
        reinitialize_(
            trained, seed=1, step=7, rows={"0.weight": dead, "0.bias": dead}, columns={"2.weight": dead}
        )
        expected, after = fresh(trained, 7), values(trained)
        for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
            mask = torch.zeros(after[name].shape[axis], dtype=torch.bool)
            mask[chosen] = True
            mask = (
                mask if axis == 0 and after[name].dim() == 1 else mask[:, None] if axis == 0 else mask[None]
            )
            assert after[name].equal(torch.where(mask, expected[name], before[name])), name
            before[name] = after[name]
        assert all(after[name].equal(before[name]) for name in after)

    def test_masks(self):
        trained = model()
        before = values(trained)
        pruned = before["2.weight"].abs() < 3
        reinitialize_(trained, seed=1, masks={"2.weight": pruned})
        assert trained[2].weight.equal(torch.where(pruned, fresh(trained, 0)["2.weight"], before["2.weight"]))

    def test_rows_and_columns_and_layers_together(self):
        trained = model()
        before = values(trained)
        report = reinitialize_(
            trained, seed=1, only="2", rows={"0.weight": [0]}, columns={"0.weight": [5]}, masks={}
        )
        expected = fresh(trained, 0)
        mask = torch.zeros(8, 6, dtype=torch.bool)
        mask[0] = mask[:, 5] = True
        assert trained[0].weight.equal(torch.where(mask, expected["0.weight"], before["0.weight"]))
        assert trained[2].weight.equal(expected["2.weight"])
        assert trained[0].bias.equal(before["0.bias"])
        (said,) = [str(each.initializer) for each in report if each.name == "0.weight"]
        assert said.startswith("1 rows, 1 columns of KaimingUniform")
        assert "1 rows, 1 columns of KaimingUniform" in str(report)
        report.to_json()

    def test_running_statistics(self):
        trained = model()
        trained[3].running_mean.fill_(9.0)
        reinitialize_(trained, seed=1, rows={"3.*": [2]})
        assert trained[3].running_mean.tolist() == [9, 9, 0, 9, 9]
        assert trained[3].weight[2] == 1
        assert trained[3].bias[2] == 0

    def test_a_glob_of_several(self):
        trained = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        before = values(trained)
        reinitialize_(trained, seed=1, rows={"*.weight": (k for k in (0,))})
        for k in range(2):
            assert trained[k].weight[1:].equal(before[f"{k}.weight"][1:])
            assert not (trained[k].weight[0] == before[f"{k}.weight"][0]).any()

    def test_no_rows(self):
        trained = model()
        before = values(trained)
        reinitialize_(trained, seed=1, rows={"0.weight": [], "0.bias": torch.zeros(8, dtype=torch.bool)})
        assert all(value.equal(before[name]) for name, value in values(trained).items())

    def test_structured_ones_are_those_of_the_whole(self):
        trained = model()
        before = values(trained)
        rules = [Rule("0.weight", Orthogonal(2.0)), *ti.TORCH_DEFAULTS]
        reinitialize_(trained, rules, seed=1, rows={"0.weight": [2]})
        expected = fresh(trained, 0, rules)["0.weight"]
        assert trained[0].weight[2].equal(expected[2])
        assert trained[0].weight[3:].equal(before["0.weight"][3:])

    def test_fans_are_of_the_module(self):
        conv = nn.Conv2d(8, 8, 3, groups=4)
        reinitialize_(
            conv, [Rule("weight", ti.KaimingNormal()), *ti.TORCH_DEFAULTS], seed=1, rows={"weight": [5]}
        )
        whole = nn.Conv2d(8, 8, 3, groups=4)
        seed = Key(1).fold_in("reinitialize").fold_in(0).stream
        ti.initialize_(whole, [Rule("weight", ti.KaimingNormal()), *ti.TORCH_DEFAULTS], seed=seed)
        assert conv.weight[5].equal(whole.weight[5])

    def test_what_only_a_model_s_own_code_knows(self):
        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.full((4,), 7.0))
                self.table = nn.Parameter(torch.full((4,), 7.0))

            def reset_parameters(self):
                nn.init.constant_(self.scale, 2.0)
                with torch.no_grad():
                    self.table.copy_(torch.rand(4).log())

        trained, whole = nn.ModuleList([Scale()]), nn.ModuleList([Scale()])
        reinitialize_(trained, seed=1, rows={"0.*": [1]})
        ti.initialize_(whole, seed=Key(1).fold_in("reinitialize").fold_in(0).stream)
        assert trained[0].scale.tolist() == [7, 2, 7, 7]
        assert trained[0].table[1] == whole[0].table[1] != 7
        assert trained[0].table[2] == 7

    def test_parametrised_and_tied(self):
        layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        before = layer.weight.detach().clone()
        reinitialize_(layer, seed=1, rows={"weight": [1]})
        assert torch.allclose(layer.weight[2:], before[2:], atol=1e-6)
        assert not torch.allclose(layer.weight[1], before[1])
        tied = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
        tied["b"].weight = tied["a"].weight
        reinitialize_(tied, seed=1, rows={"b.weight": [0]})
        seed = Key(1).fold_in("reinitialize").fold_in(0).stream
        assert (
            tied["a"]
            .weight[0]
            .equal(ti.initialize_(nn.ModuleDict({"a": nn.Linear(4, 4)}), seed=seed)[0].tensor[0])
        )

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"rows": {"0.weight": "all"}}, "."),
            ({"rows": {"0.weight": [8]}}, "of 8 rows there is no 8"),
            ({"rows": {"0.weight": [-9]}}, "of 8 rows there is no -9"),
            ({"rows": {"0.weight": [1.5]}}, "rows are integers"),
            ({"rows": {"0.weight": torch.ones(3, dtype=torch.bool)}}, "3 Booleans for 8 rows"),
            ({"columns": {"0.bias": [1]}}, "has no columns"),
            ({"rows": {"0.wieght": [1]}}, "rows matches nothing in the model: 0.wieght"),
            (
                {"masks": {"0.weight": torch.ones(8, dtype=torch.bool)}},
                "a mask of it has Booleans in the shape",
            ),
            ({"masks": {"0.bias": torch.ones(8)}}, "not torch.float32"),
            ({"rows": {"0.weight": [1]}, "only": "0"}, "as a whole and in part: 0.weight"),
            (
                {"rules": [Rule("0.weight", Zeros())], "rows": {"0.bias": [1]}},
                "no rule matches 1 parameters: 0.bias",
            ),
        ],
    )
    def test_mistakes_change_nothing(self, given, match):
        trained = model()
        before = values(trained)
        with pytest.raises(ValueError, match=match):
            reinitialize_(trained, seed=1, **given)
        assert all(value.equal(before[name]) for name, value in values(trained).items())

    def test_lazy_parameters(self):
        for change in (
            lambda m: reinitialize_(m, seed=1, rows={"*": [0]}),
            lambda m: shrink_and_perturb_(m, seed=1),
        ):
            with pytest.raises(ValueError, match=r"weight: .*"):
                change(nn.LazyLinear(2))

    def test_not_by_position(self):
        with pytest.raises(TypeError, match="by names of parameters"):
            reinitialize_(model(), seed=1, rows=[1, 2])

    def test_nothing_to_keep_on_the_meta_device(self):
        with torch.device("meta"):
            layer = nn.Linear(4, 4)
        with pytest.raises(ValueError, match=r"meta"):
            reinitialize_(layer, seed=1, rows={"weight": [1]})


class TestShrinkAndPerturb:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_formula(self, dtype):
        trained = model(dtype)
        before = values(trained)
        rules = [Rule("2.weight", Scaled(Normal(), 0.1)), *ti.TORCH_DEFAULTS]
        shrink_and_perturb_(trained, rules, seed=1, step=3, shrink=0.4, perturb=0.1)
        expected = fresh(trained, 3, rules, tag="shrink_and_perturb")
        names = dict(trained.named_parameters())
        for name, value in values(trained).items():
            if name not in names:
                assert value.equal(before[name])
                continue
            moved = before[name].float() * 0.4 + expected[name] * 0.1
            assert value.equal(moved.to(dtype)), name

    def test_ends(self):
        trained = model()
        before = values(trained)
        shrink_and_perturb_(trained, seed=1, shrink=1.0, perturb=0.0)
        assert all(value.equal(before[name]) for name, value in values(trained).items())
        shrink_and_perturb_(trained, seed=1, shrink=0.0, perturb=1.0)
        expected = fresh(trained, 0, tag="shrink_and_perturb")
        assert all(p.equal(expected[name]) for name, p in trained.named_parameters())

    def test_integers_stay(self):
        counts = nn.ParameterList(
            [nn.Parameter(torch.arange(3), requires_grad=False), nn.Parameter(torch.ones(2))]
        )
        shrink_and_perturb_(counts, [Rule("*", Normal())], seed=1)
        assert counts[0].tolist() == [0, 1, 2]
        assert counts[1].tolist() != [1, 1]

    def test_only_and_skip(self):
        trained = model()
        before = values(trained)
        report = shrink_and_perturb_(trained, seed=1, only=["0", "2"], skip="*.bias")
        changed = {name for name, value in values(trained).items() if not value.equal(before[name])}
        assert changed == {"0.weight", "2.weight"}
        assert "0.5 of what was, and 0.5 of KaimingUniform" in str(report)

    @pytest.mark.parametrize(
        "numbers", [(float("nan"), 0.1), (float("inf"), 0.1), (0.5, -0.1), (0.5, float("inf"))]
    )
    def test_numbers(self, numbers):
        with pytest.raises(ValueError, match="shrink is finite"):
            shrink_and_perturb_(model(), seed=1, shrink=numbers[0], perturb=numbers[1])


def test_shards_change_as_the_whole_does():
    """By windows, as DTensors' parts are: the same rows, the same numbers."""
    from tritoninit.models.slots import slots
    from tritoninit.reinitialization import _Moved, _Part, _Renewed

    whole = torch.full((8, 6), 5.0)
    slot = slots(nn.Linear(6, 8))[0]
    chosen = (_Part(slot, "rows", 0, [1, 6]), _Part(slot, "columns", 1, [4]))
    chosen += (_Part(slot, "masks", None, torch.eye(8, 6, dtype=torch.bool)),)
    for change in (_Renewed(Normal(), False, chosen), _Moved(Normal(), False, 0.5, 0.25)):
        expected = change(whole.clone(), key=Key(3))
        for begin, end, left, right in ((0, 3, 0, 6), (3, 8, 0, 6), (2, 7, 3, 5), (5, 5, 0, 6)):
            part = whole[begin:end, left:right].clone()
            change(part, key=Key(3), window=ti.Window((8, 6), (begin, left)))
            assert part.equal(expected[begin:end, left:right])


CHANGES = {
    "rows": lambda m, **more: reinitialize_(
        m, seed=4, rows={"layers.3.0.weight": [0, 6], "layers.3.0.bias": [6]}, **more
    ),
    "columns": lambda m, **more: reinitialize_(m, seed=4, columns={"*.0.weight": [1]}, **more),
    "layer": lambda m, **more: reinitialize_(m, seed=4, only="layers.3.0.weight", **more),
    "shrink": lambda m, **more: shrink_and_perturb_(m, seed=4, **more),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_that_are_no_dtensors(change):
    """By windows and a prefix, as initialize_ has them: the keys and the fans of the whole."""

    def half(rows):
        part = nn.Sequential(nn.Linear(4, 4))
        with torch.no_grad():
            part[0].weight.copy_(values(before)["0.weight"][rows])
            part[0].bias.copy_(values(before)["0.bias"][rows])
        return part

    before = nn.Sequential(nn.Linear(4, 8))
    parts = [half(slice(0, 4)), half(slice(4, 8))]
    CHANGES[change](before, prefix="layers.3")
    for begin, part in zip((0, 4), parts, strict=True):
        windows = {"*.weight": ti.Window((8, 4), (begin, 0)), "*.bias": ti.Window((8,), (begin,))}
        CHANGES[change](part, prefix="layers.3", windows=windows)
        for name, value in values(part).items():
            assert value.equal(values(before)[name][begin : begin + 4]), name


def test_copies_have_the_key_of_what_they_copy():
    rules = [Rule("a.weight", Normal()), Rule("b.weight", ti.CopyOf("a.weight", Normal()))]
    for change in (
        lambda m: reinitialize_(m, rules, seed=1, rows={"*": [1]}),
        lambda m: shrink_and_perturb_(m, rules, seed=1),
    ):
        both = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "ab"})
        with torch.no_grad():
            both["b"].weight.copy_(both["a"].weight)
        change(both)
        assert both["a"].weight.equal(both["b"].weight)
