"""The command line: what it prints and writes, and that bad input costs one line and nothing else."""

import hashlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tritoninit as ti
from tritoninit import checks, cli, report
from tritoninit.auditing.findings import Report
from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.cli import main
from tritoninit.initializers import ZeroRow
from tritoninit.schemes import TORCH_DEFAULTS

ROOT = Path(__file__).parents[1]
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
TIMES = "\N{MULTIPLICATION SIGN}"
BACKEND = ti.resolve("cpu").name

ZOO = """
import signal, torch
from torch import nn
import tritoninit as ti
from tritoninit.presets import Preset

def tiny():
    padded = nn.Embedding(10, 4, padding_idx=2)
    return nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Conv1d(4, 8, 3), padded)

def tied():
    model = nn.Sequential(nn.Embedding(10, 4), nn.BatchNorm1d(4), nn.Linear(4, 10, bias=False))
    model[2].weight = model[0].weight
    return model

def scalars():
    model = nn.Linear(3, 2)
    model.scale = nn.Parameter(torch.empty(()))
    model.none = nn.Parameter(torch.empty(0, 3))
    return model

def where():
    assert torch.get_default_dtype() == torch.bfloat16, torch.get_default_dtype()
    return nn.Linear(2, 2)

class Holder:
    build = staticmethod(tiny)

class Odd(ti.Initializer):
    def check(self, target, window):
        pass
    def add(self, plan, target, key, window):
        plan.afterwards(lambda: target.detach().fill_(7.0))

own_rules = [ti.Rule("scale", Odd()), ti.Rule(nn.Linear, ti.Normal(1.0, 0.5))]
own = Preset("own", scalars, ti.RuleSet("own", "nobody", own_rules))
module = nn.Linear(2, 2)
not_a_function = 3
def raises(): raise KeyError("oops\\nand more")
def three(): return 3
def unmatched():
    model = nn.Linear(2, 3)
    model.extra, model.other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    return model
def empty(): return nn.ReLU()
def wide(): return nn.Linear(3, 3).double()
def lazy(): return nn.LazyLinear(3)
def interrupted():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory with the modules zoo and broken in it."""
    (tmp_path / "zoo.py").write_text(ZOO)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "zoo", raising=False)
    yield tmp_path
    sys.modules.pop("zoo", None)


def written(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".py")


def init(spec, *arguments):
    """``tritoninit init`` on the CPU, also where there is a GPU."""
    return main(["init", spec, "--device", "cpu", *arguments])


def content_hash(path):
    """SHA-256 over names, dtypes, shapes and bytes of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, x in sorted(load_file(path).items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)};".encode())
        digest.update(x.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class TestInit:
    def test_table(self, capsys):
        assert init("zoo:tiny") == 0
        out, err = capsys.readouterr()
        assert err == ""  # progress is for terminals
        lines = out.splitlines()
        assert lines[0].startswith("zoo:tiny, seed 0, float32 on ")
        rows = {
            line.split()[0]: re.split(r"\s{2,}", line.strip())
            for line in lines
            if re.match(r"\d\.[wb]", line)
        }
        assert list(rows) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "3.weight"]
        assert rows["0.weight"][1:3] == [f"32{TIMES}64", "KaimingUniform ±0.125"]
        assert rows["1.weight"][1:] == ["32", "Ones", "1", "0", "-", BACKEND]
        assert rows["3.weight"][2] == f"ZeroRow Normal {SIGMA} 1 row 2"
        # 2048 numbers of standard deviation 0.125 / sqrt(3): five standard errors of their mean and their std
        assert abs(float(rows["0.weight"][3])) < 5 * 0.0722 / 2048**0.5
        assert float(rows["0.weight"][4]) == pytest.approx(0.0722, rel=5 * 0.45 / 2048**0.5)

    def test_totals(self, capsys):
        assert init("zoo:tiny", "--rules", "torch") == 0
        ours, theirs, ratio, audit = capsys.readouterr().out.splitlines()[-4:]
        assert ours.startswith("2,288 elements in 7 parameters, 0.009152 MB: ")
        assert re.search(r"[\d.e-]+ s, [\d.e-]+ GB/s", ours)
        assert theirs.startswith("torch.nn.init, same distributions and memory, run second: ")
        assert re.fullmatch(r"([\d.e+-]+% of|\d+\.\d\d times) torch\.nn\.init's speed", ratio)
        assert re.fullmatch(
            r"7 parameters and 0 buffers: 0 untouched, 0 drawn twice, 0 with NaN or infinities;"
            r" worst \|z\| [\d.]+; fingerprint [0-9a-f]{16}",
            audit,
        )

    @pytest.mark.parametrize(
        ("ratio", "words"),
        [
            (2.0, "2.00 times torch.nn.init's speed"),
            (1.0, "1.00 times torch.nn.init's speed"),
            (0.255, "26% of torch.nn.init's speed"),
            (0.0012, "0.12% of torch.nn.init's speed"),
        ],
    )
    def test_ratio_says_which_is_faster(self, ratio, words):
        assert report.ratio_in_words(ratio) == words

    def test_piped_rows_are_whole(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "40")
        assert init("zoo:tiny") == 0
        out = capsys.readouterr().out
        assert "…" not in out
        assert f"ZeroRow Normal {SIGMA} 1 row 2" in out

    def test_output_that_cannot_show_every_sign(self, monkeypatch):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert init("zoo:tiny") == 0
        sys.stdout.flush()
        assert b"KaimingUniform ?0.125" in raw.getvalue()

    def test_weights_are_the_librarys(self, folder):
        assert init("zoo:tiny", "--rules", "torch", "--seed", "7", "--out", "w.safetensors") == 0
        model = sys.modules["zoo"].tiny()
        ti.initialize_(model, TORCH_DEFAULTS, seed=7)
        saved = load_file("w.safetensors")
        assert saved.keys() == model.state_dict().keys()
        assert all(torch.equal(saved[name], x) for name, x in model.state_dict().items())
        assert written(folder) == ["w.safetensors"]

    def test_pinned(self):
        """The bits are a promise: a change of this hash is a new version of the stream."""
        assert init("zoo:tiny", "--rules", "torch", "--out", "w.safetensors") == 0
        assert content_hash("w.safetensors") == PINNED["float32"]
        assert init("zoo:tiny", "--rules", "torch", "--out", "w.safetensors", "--dtype", "bfloat16") == 0
        assert content_hash("w.safetensors") == PINNED["bfloat16"]

    def test_file_is_the_same_each_time(self):
        for name in ("a", "b"):
            assert init("zoo:tiny", "--out", name) == 0
        assert init("zoo:tiny", "--out", "c", "--seed", "1") == 0
        assert Path("a").read_bytes() == Path("b").read_bytes()
        assert Path("a").read_bytes() != Path("c").read_bytes()

    def test_negative_seed_wraps(self):
        assert init("zoo:tiny", "--out", "a", "--seed", "-1") == 0
        assert init("zoo:tiny", "--out", "b", "--seed", "0xffffffffffffffff") == 0
        assert Path("a").read_bytes() == Path("b").read_bytes()

    def test_narrow_dtype_is_the_rounded_one(self):
        assert init("zoo:tiny", "--out", "wide") == 0
        assert init("zoo:tiny", "--out", "narrow", "--dtype", "bfloat16") == 0
        wide, narrow = load_file("wide"), load_file("narrow")
        # The padding row aside, uniforms near a bound are kept inside it: only normals are the rounded ones.
        assert torch.equal(narrow["3.weight"], wide["3.weight"].bfloat16())

    def test_built_in_the_dtype_asked_for(self, capsys):
        default = torch.get_default_dtype()
        assert init("zoo:where", "--dtype", "bfloat16") == 0
        assert torch.get_default_dtype() == default

    def test_tied_parameters_once_and_buffers_too(self):
        assert init("zoo:tied", "--out", "w", "--json", "r") == 0
        saved = load_file("w")
        assert [row["name"] for row in json.loads(Path("r").read_text())["parameters"]] == [
            "0.weight",
            "1.weight",
            "1.bias",
        ]
        assert "2.weight" not in saved
        model = sys.modules["zoo"].tied()
        missing, unexpected = model.load_state_dict(saved, strict=False)
        assert (missing, unexpected) == (["2.weight"], [])
        assert torch.equal(saved["1.running_var"], torch.ones(4))

    def test_file_is_as_readable_as_any_other(self):
        Path("plain").touch()
        assert init("zoo:tiny", "--out", "w", "--json", "r") == 0
        assert {Path(name).stat().st_mode for name in ("plain", "w", "r")} == {Path("plain").stat().st_mode}

    def test_through_a_symbolic_link(self, folder):
        (folder / "link").symlink_to("real")
        assert init("zoo:tiny", "--out", "link") == 0
        assert (folder / "link").is_symlink()
        assert load_file("real")

    def test_report(self):
        assert init("zoo:tiny", "--rules", "torch", "--seed", "3", "--out", "w", "--json", "r.json") == 0
        summary = json.loads(Path("r.json").read_text())
        head = {key: summary[key] for key in ("spec", "seed", "stream_version", "dtype", "device")}
        assert head == {
            "spec": "zoo:tiny",
            "seed": 3,
            "stream_version": ti.STREAM_VERSION,
            "dtype": "float32",
            "device": "cpu",
        }
        assert summary["versions"]["torch"] == torch.__version__
        rows = {row["name"]: row for row in summary["parameters"]}
        saved = load_file("w")
        assert rows.keys() == saved.keys()
        for name, row in rows.items():
            x = saved[name].double()
            assert row["shape"] == list(x.shape)
            stream = None if row["lowered"].startswith("Constant") else ti.Key(3).fold_in(name).stream
            assert row["stream"] == stream
            assert row["backend"] == BACKEND
            # Sums in double precision in another order: 2048 roundings of 1e-16.
            assert row["mean"] == pytest.approx(float(x.mean()), rel=1e-12, abs=1e-13)
            assert row["std"] == pytest.approx(float(x.std(correction=0)), rel=1e-12, abs=1e-13)
            assert row["hash"] == f"{bits_hash(saved[name]):016x}"
        assert rows["1.bias"]["initializer"] == "Zeros()"
        assert rows["1.bias"]["lowered"] == "Constant(value=0.0)"
        totals, torchs = summary["totals"], summary["torch_nn_init"]
        assert (totals["elements"], totals["bytes"], totals["parameters"]) == (2288, 4 * 2288, 7)
        assert totals["gigabytes_per_second"] == pytest.approx(4 * 2288e-9 / totals["seconds"])
        assert torchs["ratio"] == pytest.approx(torchs["seconds"] / totals["seconds"])

    def test_preset_of_ones_own(self, capsys):
        assert init("zoo:own", "--json", "r") == 0
        out = capsys.readouterr().out
        assert "Scheme: nobody" in out
        rows = {row["name"]: row for row in json.loads(Path("r").read_text())["parameters"]}
        assert rows["weight"]["summary"] == f"Normal 1, {SIGMA} 0.5"
        assert (rows["scale"]["shape"], rows["scale"]["mean"], rows["scale"]["std"]) == ([], 7.0, 0.0)
        assert (rows["none"]["mean"], rows["none"]["std"]) == (None, None)
        assert re.search(r"scale +scalar +Odd", out)
        assert re.search(rf"none +0{TIMES}3 +Normal 1, {SIGMA} 0.5 +- +- +- +{BACKEND}", out)
        assert out.splitlines()[-2] == (
            "torch.nn.init cannot do the same: NotImplementedError: torch.nn.init has no Odd"
        )

    def test_attribute_of_an_attribute(self):
        assert init("zoo:Holder.build") == 0

    def test_backend_asked_for(self, capsys):
        assert init("zoo:tiny", "--backend", "numpy") == 0
        assert "numpy" in capsys.readouterr().out

    def test_every_parameter_is_written(self, monkeypatch, capsys):
        """Memory is poisoned first, so that an initializer that does nothing shows."""
        monkeypatch.setattr(cli, "initialize_", skip_writing)
        assert init("zoo:tiny", "--rules", "torch", "--json", "r") == 0
        summary = json.loads(Path("r").read_text())
        assert all(row["mean"] is None for row in summary["parameters"])
        assert len(summary["coverage"]["nonfinite"]) == 7
        assert "3.weight holds 40 NaN of 40 elements" in capsys.readouterr().out.splitlines()

    def test_gpt2(self, capsys):
        assert init("gpt2", "--json", "r") == 0
        summary = json.loads(Path("r").read_text())
        assert summary["totals"]["elements"] == 124_439_808
        for row in summary["parameters"]:
            n = torch.Size(row["shape"]).numel()
            if row["name"].endswith("bias"):
                expected = 0.0, 0.0
            elif ".ln_" in row["name"] or row["name"] == "ln_f.weight":
                expected = 1.0, 0.0
            else:
                expected = 0.0, 0.02 / 24**0.5 if "c_proj" in row["name"] else 0.02
            mean, std = expected
            # Five standard errors of n normals.
            assert abs(row["mean"] - mean) <= 5 * std / n**0.5, row["name"]
            assert abs(row["std"] - std) <= 5 * std / (2 * n) ** 0.5, row["name"]
        assert "124,439,808 elements in 148 parameters, 497.8 MB: " in capsys.readouterr().out


PINNED = {
    "float32": "fe559136801f0a1bc72a429d2d768e58f0525022442238e0167f9075162ef15d",
    "bfloat16": "cbc557f238c553b5a17f002af02a6f279db831d43fef12c71ac1a030d711344f",
}


def skip_writing(module, rules, *, seed):
    """What initialize_ returns, without what it does."""
    named = module.named_parameters()
    return Report([ti.Assignment(name, p, ti.Zeros(), None, "none") for name, p in named], seed=seed)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: COMMAND"),
            (["fill"], "invalid choice: 'fill'"),
            (["init"], "the following arguments are required: SPEC"),
            (
                ["init", "gpt3"],
                r"unknown preset 'gpt3' \(did you mean gpt2\?\); known are gpt2, llama-3.2-1b, ",
            ),
            (["init", "resnet50"], r"did you mean resnet-50\?"),
            (["init", "nowhere:f"], "ModuleNotFoundError: No module named 'nowhere'"),
            (["init", ":f"], "cannot import the module of ':f'"),
            (["init", "zoo:"], "no '' in the module of 'zoo:'"),
            (["init", "..zoo:f"], "cannot import the module"),
            (["init", "broken:f"], "cannot import .*No module named 'nowhere_to_be_found'"),
            (["init", "zoo:tny"], r"no 'tny' in the module of 'zoo:tny' \(did you mean tiny"),
            (["init", "zoo:module"], "zoo:module is no function that makes an nn.Module, but Linear"),
            (["init", "zoo:not_a_function"], "is no function that makes an nn.Module, but 3"),
            (["init", "zoo:raises"], r"cannot build zoo:raises: KeyError: 'oops.*zoo\.py:\d+"),
            (["init", "zoo:three"], "zoo:three makes no nn.Module, but 3"),
            (["init", "zoo:unmatched", "--rules", "torch"], "no rule matches 2 parameters: extra, other"),
            (["init", "zoo:empty"], "zoo:empty has no parameters"),
            (
                ["init", "zoo:wide", "--rules", "torch"],
                "weight: Uniform of float64: random fills serve float32, float16, bfloat16",
            ),
            (["init", "zoo:lazy", "--rules", "torch"], "weight: a lazy parameter has no shape yet"),
            (["init", "gpt2", "--device", "abacus"], "no device 'abacus' here"),
            (["init", "gpt2", "--device", "cuda:99"], "no device 'cuda:99' here"),
            (["init", "gpt2", "--device", "meta"], "the meta device has no memory to fill"),
            (["init", "gpt2", "--dtype", "float64"], "argument --dtype: invalid choice: 'float64'"),
            (["init", "gpt2", "--backend", "abacus"], "unknown backend 'abacus'; known are triton, "),
            (
                ["init", "gpt2", "--device", "cpu", "--backend", "triton"],
                "backend 'triton' cannot serve 'cpu'",
            ),
            (["init", "gpt2", "--seed", str(2**64)], f"'{2**64}' is no integer of 64 bits"),
            (["init", "gpt2", "--seed", str(-(2**63) - 1)], "is no integer of 64 bits"),
            (["init", "gpt2", "--seed", "1.5"], "'1.5' is no integer of 64 bits"),
            (["init", "gpt2", "--out", "no/where"], "cannot write no/where: No such file or directory"),
            (["init", "gpt2", "--json", "no/where"], "cannot write no/where: No such file or directory"),
            (["init", "gpt2", "--out", "zoo.py/w"], "cannot write zoo.py/w: Not a directory"),
            (["init", "gpt2", "--out", "."], r"\. is not a file"),
            (["init", "gpt2", "--out", "/dev/null"], "/dev/null is not a file"),
            (["init", "gpt2", "--out", "w" * 300], "File name too long"),
            (["init", "gpt2", "--out", "w", "--json", "./w"], "--out and --json name the same file"),
            (["check", "--seed", "x"], "'x' is no integer of 64 bits"),
            (["check", "--emulate", "sm_90,sm_1"], "unknown architecture sm_1; known are sm_80, "),
            (["check", "--emulate", ""], "unknown architecture"),
            (["bench", "--out", "no/where"], "cannot write no/where: No such file or directory"),
            (["bench", "--filter", "no such row"], "no row has 'no such row' in its name"),
            (["compare", "absent.json"], "absent.json: no such file"),
            (["compare", "zoo.py"], "zoo.py is not JSON"),
            (["compare", "absent.json", "--html", "no/where"], "cannot write no/where: No such file"),
            (["compare", "absent.json", "--fail-below", "fast"], "invalid float value: 'fast'"),
            (["inspect", "--arch", "sm_90,sm_1"], "unknown architecture sm_1; known are sm_80, "),
            (["inspect", "--arch", ""], "unknown architecture"),
            (["inspect", "--out", "."], r"\. is not a file"),
            (["inspect", "--out", ""], "'' is not a file"),
            (["inspect", "--out", "a\nb/c"], r"cannot write 'a\\nb/c': No such file"),
        ],
    )
    def test_one_line_code_2_and_no_file(self, arguments, message, capsys, folder):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("tritoninit: ")
        assert err.count("\n") == 1
        assert re.search(message, err)
        assert written(folder) == []

    def test_output_is_checked_before_the_work(self, monkeypatch):
        monkeypatch.setattr(cli, "_build", lambda *_: pytest.fail("built a model that could not be saved"))
        assert main(["init", "zoo:tiny", "--out", "no/where"]) == 2

    def test_output_checked_leaves_an_older_file(self):
        Path("w").write_text("older")
        assert main(["init", "zoo:raises", "--out", "w"]) == 2
        assert Path("w").read_text() == "older"

    def test_without_safetensors(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "safetensors", None)
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
        assert main(["init", "zoo:tiny", "--out", "w"]) == 2
        assert "--out needs the safetensors package" in capsys.readouterr().err


class TestFailureWhileWriting:
    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (KeyboardInterrupt(), 130, "tritoninit: interrupted\n"),
            (OSError(28, "No space left on device"), 1, "tritoninit: [Errno 28] No space left on device\n"),
        ],
    )
    @pytest.mark.parametrize("older", [None, "older"])
    def test_weights(self, error, code, message, older, folder, monkeypatch, capsys):
        def save_half(tensors, path, metadata):
            Path(path).write_bytes(b"half a fi")
            raise error

        if older:
            Path("w").write_text(older)
        monkeypatch.setattr("safetensors.torch.save_file", save_half)
        assert init("zoo:tiny", "--out", "w") == code
        assert capsys.readouterr().err == message
        assert written(folder) == (["w"] if older else [])
        assert not older or Path("w").read_text() == older

    def test_report(self, folder, monkeypatch):
        def write_half(path, text, encoding):
            path.write_bytes(text[: len(text) // 2].encode())
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "write_text", write_half)
        assert init("zoo:tiny", "--json", "r") == 130
        assert written(folder) == []

    def test_interrupt_while_building(self, folder, capsys):
        assert init("zoo:interrupted", "--out", "w") == 130
        assert capsys.readouterr() == ("", "tritoninit: interrupted\n")
        assert written(folder) == []


class TestDevice:
    @pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
    def test_best_by_default(self, there, device, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        assert cli._device(None) == torch.device(device)

    @pytest.mark.gpu
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_gpu_writes_the_same_file(self, dtype, capsys):
        assert init("zoo:tiny", "--dtype", dtype, "--out", "cpu") == 0
        capsys.readouterr()
        assert main(["init", "zoo:tiny", "--dtype", dtype, "--out", "gpu", "--json", "r"]) == 0
        assert Path("gpu").read_bytes() == Path("cpu").read_bytes()
        summary = json.loads(Path("r").read_text())
        assert summary["device"] == "cuda"
        assert {row["backend"] for row in summary["parameters"]} == {"triton"}
        assert torch.cuda.get_device_name() in capsys.readouterr().out


class TestDescribe:
    @pytest.mark.parametrize(
        ("initializer", "words"),
        [
            (ti.Zeros(), "Zeros"),
            (ti.Constant(0.125), "Constant 0.125"),
            (ti.KaimingUniform(a=5**0.5), "KaimingUniform ±0.0361"),
            (ti.Uniform(0.0, 1.0), "Uniform [0, 1)"),
            (ti.Normal(std=0.02 / 24**0.5), f"Normal {SIGMA} 0.00408"),
            (ti.Normal(1.0, 1e-6), f"Normal 1, {SIGMA} 1e-6"),
            (ti.TruncatedNormal(std=0.5), f"TruncatedNormal {SIGMA} 0.5 in ±2"),
            (ti.TruncatedNormal(1.0, 0.5, 0.0, 3.0), f"TruncatedNormal 1, {SIGMA} 0.5 in [0, 3]"),
            (ti.XavierNormal(), f"XavierNormal {SIGMA} 0.049"),
            (ti.VarianceScaling(2.0, "fan_in", "normal"), f"VarianceScaling {SIGMA} 0.051"),
            (ti.Orthogonal(0.5), "Orthogonal gain 0.5"),
            (ti.Sparse(0.1), "Sparse sparsity 0.1 std 0.01"),
            (ti.Eye(), "Eye"),
            (ti.Dirac(2), "Dirac groups 2"),
            (ZeroRow(ti.Normal(), 3), f"ZeroRow Normal {SIGMA} 1 row 3"),
        ],
    )
    def test_words(self, initializer, words):
        assert report.describe(initializer, (64, 768)) == words


class TestTorchEquivalent:
    @pytest.mark.parametrize(
        "initializer",
        [
            ti.Constant(0.5),
            ti.Uniform(-0.5, 0.25),
            ti.Normal(1.0, 0.5),
            ti.TruncatedNormal(0.0, 1.0, -0.5, 1.0),
            ti.Orthogonal(2.0),
            ti.Sparse(0.25, 0.1),
            ti.Eye(),
            ti.Dirac(2),
            ZeroRow(ti.Normal(), 3),
        ],
    )
    def test_same_distribution(self, initializer):
        torch.manual_seed(0)
        shape = (120, 60, 3) if isinstance(initializer, ti.Dirac) else (120, 120)
        theirs = torch.empty(shape)
        cli._torch_equivalent(initializer)(theirs)
        ours = initializer(torch.empty(shape), key=ti.Key(0))
        # 14,400 numbers each: the difference of two means has a standard error of std / 85.
        assert abs(ours.mean() - theirs.mean()) < 5 * theirs.std() / 85 + 1e-6
        assert ours.std() == pytest.approx(float(theirs.std()), rel=5 / 120)
        assert (ours == 0).sum() == (theirs == 0).sum()


class TestTable:
    HEADINGS = ("parameter", "shape", "initializer", ">mean", ">std", "backend")
    SHRINK = ((0, 28), (2, 22), (0, 12))

    def lines(self, width, name, initializer="Normal s 0.00408"):
        row = [name, "50257x768", initializer, "-1.8e-6", "0.00408", "triton"]
        return report.table(self.HEADINGS, [row], self.SHRINK, width)

    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_fits(self, width):
        lines = self.lines(width, "x" * 200, "TruncatedNormal s 0.0361 in ±2")
        assert len(lines) == 2
        assert max(map(len, lines)) <= width

    def test_gpt2_fits_80_columns_uncut(self):
        lines = self.lines(80, "h.11.attn.c_attn.weight")
        assert lines[1].startswith(
            "h.11.attn.c_attn.weight  50257x768  Normal s 0.00408  -1.8e-6  0.00408  triton"
        )

    def test_a_long_name_keeps_its_end(self):
        assert self.lines(80, "encoder." + "layers." * 9 + "bias")[1].startswith(
            "…rs.layers.layers.layers.bias "
        )

    def test_no_limit(self):
        assert "x" * 200 in self.lines(None, "x" * 200)[1]


class TestInfo:
    def test_versions_devices_and_backends(self, capsys):
        assert main(["info"]) == 0
        out = capsys.readouterr().out
        assert f"tritoninit {ti.__version__}" in out
        assert f"torch {torch.__version__}" in out
        assert f"stream {ti.STREAM_VERSION}" in out
        assert re.search(r"^cpu  ", out, re.MULTILINE)
        for status in ti.backends():
            here = "available" if status.available else f"unavailable: {status.unavailable}"
            assert re.search(
                rf"^{status.name} +{', '.join(status.devices)} +{re.escape(here)}", out, re.MULTILINE
            )


def comparison(*outcomes):
    return checks.Comparison("abacus", "desk", len(outcomes), lambda: iter(outcomes))


class TestCheck:
    def test_equal(self, capsys, monkeypatch):
        equal = comparison(checks.Outcome(1000, None), checks.Outcome(234, None))
        monkeypatch.setattr(checks, "comparisons", lambda seed, quick: [equal, equal])
        assert main(["check"]) == 0
        out = capsys.readouterr().out
        assert re.search(r"abacus = numpy +desk +2 +1,234 ", out)
        assert "2,468 values compared. No difference." in out

    def test_different(self, capsys, monkeypatch):
        wrong = comparison(checks.Outcome(1000, None), checks.Outcome(5, "element (3,) is wrong"))
        after = comparison(checks.Outcome(1, None))
        monkeypatch.setattr(checks, "comparisons", lambda seed, quick: [wrong, after])
        assert main(["check", "--quick", "--seed", "5"]) == 1
        out = capsys.readouterr().out
        assert "1,005 values compared. The first that differs:\nelement (3,) is wrong" in out

    def test_arguments_arrive(self, monkeypatch):
        seen = []
        monkeypatch.setattr(checks, "comparisons", lambda *arguments: seen.append(arguments) or [])
        main(["check", "--quick", "--seed", "5"])
        main(["check"])
        assert seen == [(5, True), (0, False)]

    def test_emulated_instead(self, capsys, monkeypatch):
        seen = []
        equal = comparison(checks.Outcome(7, None))
        monkeypatch.setattr(checks, "emulations", lambda *arguments: seen.append(arguments) or [equal])
        assert main(["check", "--emulate", "sm_90, gfx942", "--seed", "3"]) == 0
        assert seen == [(["sm_90", "gfx942"], 3, False)]
        assert "7 values compared. No difference." in capsys.readouterr().out

    def test_failure_is_one_line(self, capsys, monkeypatch):
        def fail():
            raise checks.CheckFailed("no interpreter")
            yield

        broken = checks.Comparison("abacus", "desk", 1, fail)
        monkeypatch.setattr(checks, "comparisons", lambda seed, quick: [broken])
        assert main(["check"]) == 1
        assert capsys.readouterr().err == "tritoninit: no interpreter\n"


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TERM": "xterm"}


class TestProcess:
    """The command as users start it."""

    def run(self, *arguments, **variables):
        return subprocess.run(
            [sys.executable, "-m", "tritoninit", *arguments],
            env=ENVIRONMENT | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_version_and_help(self, capsys):
        for option in ("--version", "--help"):
            with pytest.raises(SystemExit) as exit_:
                main([option])
            assert exit_.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(f"tritoninit {ti.__version__}, stream version {ti.STREAM_VERSION}\n")
        assert all(command in out for command in ("init", "info", "check"))

    def test_writes_what_the_process_in_here_writes(self):
        result = self.run("init", "zoo:tiny", "--device", "cpu", "--out", "there")
        assert (result.returncode, result.stderr) == (0, "")
        assert init("zoo:tiny", "--out", "here") == 0
        assert Path("there").read_bytes() == Path("here").read_bytes()

    def test_interrupt(self, folder):
        result = self.run("init", "zoo:interrupted", "--out", "w")
        assert (result.returncode, result.stdout, result.stderr) == (130, "", "tritoninit: interrupted\n")
        assert written(folder) == []

    def test_unknown_backend_of_the_environment(self, folder):
        result = self.run("init", "zoo:tiny", TRITONINIT_BACKEND="abacus")
        assert (result.returncode, result.stdout) == (2, "")
        assert "unknown backend 'abacus'" in result.stderr

    def test_full_disk(self, folder):
        """safetensors raises an error of its own, which is no OSError."""
        command = f"ulimit -f 4; {sys.executable} -m tritoninit init zoo:tiny --device cpu --out w"
        result = subprocess.run(
            ["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert re.fullmatch(r"tritoninit: cannot write .*/w: .*File too large.*\n", result.stderr)
        assert written(folder) == []

    def test_terminal_shows_progress(self):
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "tritoninit", "init", "zoo:tiny", "--rules", "torch", "--device", "cpu"],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=its,
        )
        os.close(its)
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            try:
                while chunk := terminal.read(4096):
                    shown += chunk
            except OSError:  # Linux says so when the other end has closed
                pass
        assert process.wait() == 0
        assert b"initialising" in shown

    def test_reader_that_leaves_early(self):
        shell = f"{sys.executable} -m tritoninit init zoo:tiny | head -1; exit ${{PIPESTATUS[0]}}"
        result = subprocess.run(
            ["bash", "-c", shell], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert result.stdout.startswith("zoo:tiny, seed 0")
        assert result.stderr == ""


def test_touch_leaves_integers_alone_and_floats_nan():
    module = nn.Linear(2, 2)
    module.count = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    cli._touch(module)
    assert module.weight.isnan().all()
    assert module.count.tolist() == [0, 0]
