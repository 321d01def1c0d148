"""The command line: that bad input costs one line and nothing else, and how the process behaves."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tritoninit as ti
from tests.zoo import init, written
from tritoninit.cli import main
from tritoninit.commands import info
from tritoninit.outputs import UsageError

pytestmark = pytest.mark.usefixtures("folder")

ROOT = Path(__file__).parents[1]


LINEAR = ("--set", "in_features=3", "--set", "out_features=2")
# The last two are seconds, though no timer has as many.
NUMBERS = ("0", "-1", "nan", "inf", "-inf", "1e400", "fast", "", "1e300", "9999999999")
ABSURD = (
    "-1",
    "1.5",
    "nan",
    "1e400",
    "'",
    "{[]: 1}",
    "{{}}",
    "1" * 5000,
    str(10**400),
    "[" * 3000,
    "(" * 3000 + ")" * 3000,
    "-" * 20000 + "1",
    "'\\d'",
    "__import__('os')",
    "None",
    str(2**62),
    str(10**15),
    "\udcff",
)


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
            (["init", "zoo:lazy", "--rules", "torch"], "weight: a lazy parameter has no shape yet"),
            (["init", "gpt2", "--device", "abacus"], "no device 'abacus' here"),
            (["init", "gpt2", "--device", "cuda:99"], "no device 'cuda:99' here"),
            (["init", "gpt2", "--device", "meta"], "the meta device has no memory to fill"),
            (["init", "gpt2", "--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
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
            (["init", "zoo:tiny", "--rules", "gpt2"], "cannot .* zoo:tiny: "),
            (
                ["init", "torch.nn:Linear", "--rules", "gpt2", *LINEAR],
                "cannot find rules for torch.nn:Linear: ",
            ),
            (["init", "gpt2", "--rules", "gpt4"], "argument --rules: invalid choice: 'gpt4'"),
            (
                ["init", "zoo:attribute_that_raises"],
                "cannot take 'attribute_that_raises' from .*: ImportError: needs",
            ),
            (["init", "kit:resnet18"], r"no 'resnet18' in .* \(did you mean kit.models:resnet18\?\)"),
            (["init", "kit:resnet19"], "no 'resnet19' in the module of 'kit:resnet19'\n$"),
            (["init", "sys:exit"], r"cannot build sys:exit: SystemExit \(.*subjects.py:\d+\)"),
            (["init", "zoo:leaves"], r"cannot build zoo:leaves: Exit: gone \(.*zoo.py:\d+\)"),
            (["init", "torch.nn:Linear"], "cannot build torch.nn:Linear: TypeError: "),
            *(
                (
                    ["init", "torch.nn:Linear", *LINEAR, "--set", f"in_features={value}"],
                    "cannot build torch.nn:Linear: ",
                )
                for value in ABSURD
            ),
            (["init", "gpt2", "--set", "n_embd"], "'n_embd' is not NAME=VALUE"),
            (["init", "gpt2", "--set", "=1"], "'=1' is not NAME=VALUE"),
            (["init", "gpt2", "--set", "a b=1"], "'a b=1' is not NAME=VALUE"),
            (["init", "gpt2", "--set", "x=1"], "cannot build gpt2: TypeError: .*'x'"),
            (["init", "zoo:shared", "--out", "w"], "safetensors cannot hold the weights: .*share memory"),
            (["init", "gpt2", "--device", ""], "no device '' here"),
            (["init", "gpt2", "--device", "lazy"], "no device 'lazy' here"),
            (["init", "gpt2", "--backend", ""], "unknown backend ''"),
            (["init", "gpt2", "--seed", "9" * 5000], "is no integer of 64 bits"),
            (["init", "gpt2", "x\ny"], r"unrecognized arguments: x\\ny"),
            (["init", "gpt2\udcff"], r"unknown preset 'gpt2\\udcff'"),
            (["init", "gpt2", "--out", "a\0b"], "cannot write"),
            *(
                (["bench", option, value], f"argument {option}: ")
                for option in ("--seconds", "--limit")
                for value in NUMBERS
            ),
            (["bench", "--resume"], "--resume continues what --out names"),
            (["compare", "absent\udcff.json"], r"absent\\udcff.json': no such file"),
            (["compare", "/dev/zero"], "/dev/zero is not a file"),
            (["compare", "."], "a result file has a name"),
            (["compare", "zoo.py", "zoo.py"], "zoo.py is given twice"),
            *(
                (["compare", "a", "b", "--fail-below", value], "--fail-below|--fail-below is")
                for value in NUMBERS[:-2]
            ),
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


class TestLastResort:
    """What nobody foresaw costs one line, too; for its way there Python has an option."""

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (
                RuntimeError("first\nsecond"),
                1,
                r"RuntimeError: first \(.*test_cli.py:\d+; python -X dev .*\)",
            ),
            (OverflowError(), 1, r"OverflowError \(.*test_cli.py:\d+; .*\)"),
            (RecursionError("too deep"), 1, r"RecursionError: too deep \(.*"),
            (MemoryError(), 1, "out of memory"),
            (torch.OutOfMemoryError("CUDA out of memory\nand more"), 1, "CUDA out of memory"),
            (OSError(28, "No space left"), 1, r"\[Errno 28\] No space left"),
            (UsageError("a\rb\u2028c\x1b[31m\udcff"), 2, r"a\\rb\\u2028c\\x1b\[31m\\udcff"),
            (KeyboardInterrupt(), 130, "interrupted"),
        ],
    )
    def test_one_line(self, monkeypatch, capsys, error, code, said):
        def run(arguments):
            raise error

        monkeypatch.setattr(info, "run", run)
        assert main(["info"]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(f"tritoninit: {said}\n", err)

    def test_as_it_is_for_developers(self):
        program = """
from tritoninit.cli import main
from tritoninit.commands import info
info.run = lambda arguments: 1 / 0
main(["info"])
"""
        command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", program]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback")
        assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


# torch as it is when Ctrl-C is pressed, in less time: every import of it is interrupted at once.
INTERRUPTED_TORCH = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)
except BaseException as error:  # as some extensions do
    raise ImportError("cannot import torch") from error
"""


@pytest.mark.skipif(os.name != "posix", reason="signals and shells are Unix's")
class TestStreamsAndSignals:
    @pytest.mark.parametrize("how", ["python -m", "python -mtritoninit", "the command"])
    def test_interrupted_while_importing(self, folder, how):
        (folder / "torch.py").write_text(INTERRUPTED_TORCH)
        script = folder / "tritoninit"
        script.write_text("import sys\nfrom tritoninit.cli import main\nsys.exit(main())\n")
        arguments = {
            "python -m": ["-m", "tritoninit", "init", "-m"],
            "python -mtritoninit": ["-mtritoninit", "info"],
            "the command": [str(script), "info"],
        }[how]
        result = subprocess.run(
            [sys.executable, *arguments],
            env={**ENVIRONMENT, "PYTHONPATH": f"{folder}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # in a background job it is ignored
        )
        assert (result.returncode, result.stdout, result.stderr) == (130, "", "tritoninit: interrupted\n")

    def test_in_other_programs_an_interrupt_is_an_exception(self, folder):
        (folder / "torch.py").write_text(INTERRUPTED_TORCH)
        result = subprocess.run(
            [sys.executable, "-c", "import tritoninit", "-m", "tritoninit"],
            env={**ENVIRONMENT, "PYTHONPATH": f"{folder}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert result.returncode == 1
        assert "ImportError: cannot import torch" in result.stderr

    @pytest.mark.parametrize(
        ("shell", "code", "out", "err"),
        [
            ("{} compare absent >&-", 2, "", "tritoninit: absent: no such file\n"),
            ("{} compare absent 2>&-", 2, "", ""),
            ("{} init zoo:tiny --device cpu --out w <&- >&- 2>&- && ls -A w", 0, "w\n", ""),
            pytest.param("{} compare absent 2>/dev/full", 2, "", "", marks=pytest.mark.slow),
            ("{} --help | true; exit ${{PIPESTATUS[0]}}", 1, "", ""),
            ("{} --help > /dev/full", 1, "", "tritoninit: [Errno 28] No space left on device\n"),
            pytest.param(
                "{} info > /dev/full",
                1,
                "",
                "tritoninit: [Errno 28] No space left on device\n",
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_closed_full_and_unread(self, shell, code, out, err):
        command = shell.format(f"{sys.executable} -m tritoninit")
        result = subprocess.run(
            ["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout, result.stderr) == (code, out, err)


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
        assert all(command in out for command in ("init", "plan", "info", "check"))

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
