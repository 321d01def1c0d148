"""``tritoninit init``: what it prints and writes, that it builds a model once, and how it fails."""

import hashlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tritoninit as ti
from tests.zoo import init, written
from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.auditing.report import Report
from tritoninit.cli import main
from tritoninit.commands import init as init_command
from tritoninit.schemes import TORCH_DEFAULTS

pytestmark = pytest.mark.usefixtures("folder")

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
TIMES = "\N{MULTIPLICATION SIGN}"
BACKEND = ti.registry.resolve("cpu").name


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
        ours, audit = capsys.readouterr().out.splitlines()[-2:]
        assert ours.startswith("2,288 elements in 7 parameters, 0.009152 MB: ")
        assert re.search(r"[\d.e-]+ s, [\d.e-]+ GB/s", ours)
        assert re.fullmatch(
            r"7 parameters and 0 buffers: 0 untouched, 0 drawn twice, 0 with NaN or infinities;"
            r" worst \|z\| [\d.]+; fingerprint [0-9a-f]{16}",
            audit,
        )

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

    @pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float64"])
    def test_other_dtypes(self, dtype):
        """Of 8 bits, which torch builds no model in, the parameters alone."""
        assert init("zoo:tiny", "--out", "wide") == 0
        assert init("zoo:tiny", "--out", "other", "--dtype", dtype) == 0
        wide, other = load_file("wide"), load_file("other")
        assert {x.dtype for name, x in other.items() if "weight" in name} == {getattr(torch, dtype)}
        near = (other["3.weight"].double() - wide["3.weight"].double()).abs().max()
        assert near < (0.2 if dtype.startswith("float8") else 1e-5)

    def test_rounding(self, capsys):
        """Of what rules draw; of a model's own code it is refused, before that runs."""
        rules = ("--rules", "torch", "--dtype", "bfloat16")
        for name, more in (("a", ()), ("b", ("--rounding", "nearest")), ("c", ("--rounding", "stochastic"))):
            assert init("zoo:tiny", *rules, *more, "--out", name, "--json", f"{name}.json", "--compare") == 0
        assert Path("a").read_bytes() == Path("b").read_bytes()
        assert [json.loads(Path(f"{name}.json").read_text())["rounding"] for name in "bc"] == [
            *("nearest", "stochastic")
        ]
        assert "error" not in json.loads(Path("c.json").read_text())["torch_nn_init"]
        out = capsys.readouterr().out
        assert "zoo:tiny, seed 0, bfloat16 (stochastic rounding) on " in out
        assert "KaimingUniform ±0.125, stochastic" in out
        model = sys.modules["zoo"].tiny().bfloat16()
        ti.initialize_(model, TORCH_DEFAULTS, seed=0, rounding="stochastic")
        saved = load_file("c")
        assert all(torch.equal(saved[name], x) for name, x in model.state_dict().items())
        assert not torch.equal(saved["0.weight"], load_file("a")["0.weight"])
        assert main(["init", "zoo:raises", "--rounding", "stochastic"]) == 2
        assert "is initialised by its own code: give --rules" in capsys.readouterr().err

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
        totals = summary["totals"]
        assert (totals["elements"], totals["bytes"], totals["parameters"]) == (2288, 4 * 2288, 7)
        assert totals["gigabytes_per_second"] == pytest.approx(4 * 2288e-9 / totals["seconds"])
        assert summary["torch_nn_init"] is None

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

    def test_attribute_of_an_attribute(self):
        assert init("zoo:Holder.build") == 0

    def test_backend_asked_for(self, capsys):
        assert init("zoo:tiny", "--backend", "numpy") == 0
        assert "numpy" in capsys.readouterr().out

    def test_every_parameter_is_written(self, monkeypatch, capsys):
        """Memory is poisoned first, so that an initializer that does nothing shows."""
        monkeypatch.setattr(init_command, "initialize_", skip_writing)
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


def skip_writing(module, rules, *, seed, rounding):
    """What initialize_ returns, without what it does."""
    named = module.named_parameters()
    return Report([ti.Assignment(name, p, ti.Zeros(), None, "none") for name, p in named], seed=seed)


class TestBuildsOnce:
    """The user's code is run once, and a second time only where it is compared with."""

    def built(self, *arguments):
        assert init("zoo:counted", *arguments) == 0
        return sys.modules["zoo"].times_built

    @pytest.mark.parametrize("arguments", [[], ["--rules", "torch"], ["--json", "r", "--out", "w"]])
    def test_without_compare(self, arguments):
        assert self.built(*arguments) == 1

    @pytest.mark.parametrize(("arguments", "times"), [([], 2), (["--rules", "torch"], 1)])
    def test_with_compare(self, arguments, times):
        assert self.built("--compare", *arguments) == times

    def test_what_fails_is_not_tried_again(self):
        assert init("zoo:raises") == 2
        assert init("zoo:once") == 0
        assert sys.modules["zoo"].times_built == 1


class TestFiles:
    def test_output_is_checked_before_the_work(self):
        assert main(["init", "zoo:counted", "--out", "no/where"]) == 2
        assert "zoo" not in sys.modules

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
        assert init_command._device(None) == torch.device(device)

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


def test_touch_leaves_integers_alone_and_floats_nan():
    module = nn.Linear(2, 2)
    module.count = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    init_command._touch(module)
    assert module.weight.isnan().all()
    assert module.count.tolist() == [0, 0]
