"""The command line: that bad input costs one line and nothing else, and how the process behaves."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tritoninit as ti
from tests.zoo import init, written
from tritoninit.cli import main

pytestmark = pytest.mark.usefixtures("folder")

ROOT = Path(__file__).parents[1]


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
