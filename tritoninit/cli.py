"""The command line: initialise a model, plan one on a mesh, prove the backends equal, measure and compare."""

from __future__ import annotations

import argparse
import ast
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from tritoninit import _start
from tritoninit._version import __version__
from tritoninit.kernels.lowering import FLOAT_DTYPES
from tritoninit.kernels.stream import STREAM_VERSION
from tritoninit.keys import Key
from tritoninit.meshes.mesh import KINDS
from tritoninit.outputs import UsageError, writable
from tritoninit.presets import LARGE, PRESETS
from tritoninit.rounding import NEAREST, STOCHASTIC
from tritoninit.schemes import SCHEMES
from tritoninit.terminal import fail, let_go, one_line, place, provide_streams

_MOST_SECONDS = 1e9  # what a timer takes
_MOST_ELEMENTS = 1 << 26  # of a weight that is drawn to be looked at


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (it failed), 2 (bad input) or 130 (interrupted)."""
    _start.imported()
    provide_streams()
    try:
        return _run(argv)
    except UsageError as error:
        return fail(str(error), 2)
    except BrokenPipeError:  # whoever read our output has read enough
        return 1
    except (OSError, torch.OutOfMemoryError) as error:
        return fail(str(error).strip().partition("\n")[0], 1)
    except MemoryError as error:
        return fail(f"out of memory{f': {error}' if str(error) else ''}", 1)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return fail(f"{one_line(error)} ({place(error)}; python -X dev -m tritoninit shows the way there)", 1)
    finally:
        let_go(sys.stdout)


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.run(arguments)
        return code
    finally:
        sys.stdout.flush()  # --help ends by SystemExit, and may have no reader


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stdout).write(message)  # argparse takes no notice of what goes wrong


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = _Parser(prog="tritoninit", description=__doc__)
    parser.add_argument("--version", action="version", version=_version_line())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    init = commands.add_parser(
        "init",
        help="initialise a model and show every parameter",
        description="Build a model, initialise it, and show every parameter and how long it took.",
        epilog=f"Presets: {', '.join(PRESETS)}; they are built on the meta device. A module"
        " of your own, or a transformers class (transformers:GPT2LMHeadModel), is built with its own"
        " initialisation intercepted, unless --rules names a scheme or the attribute is a"
        " tritoninit.presets.Preset, which brings rules of its own.",
    )
    init.add_argument(
        "spec", metavar="SPEC", help="a preset, or package.module:callable that makes an nn.Module"
    )
    _add_settings(init)
    init.add_argument(
        "--rules", choices=SCHEMES, help="a scheme to initialise by, instead of the model's own"
    )
    init.add_argument("--seed", type=_seed, default=0, help="64 bits (default: 0)")
    init.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)")
    init.add_argument("--dtype", default="float32", choices=FLOAT_DTYPES, help="default: float32")
    init.add_argument(
        "--rounding",
        default=NEAREST,
        choices=(NEAREST, STOCHASTIC),
        help="to 16 and 8 bits, of what rules draw; stochastic: up or down at random (default: nearest)",
    )
    init.add_argument("--backend", help="which backend fills (default: the first that serves the device)")
    init.add_argument("--out", metavar="FILE", help="write the weights there, as safetensors")
    init.add_argument("--json", metavar="FILE", help="write this report there, as JSON")
    init.add_argument(
        "--compare",
        action="store_true",
        help="have torch.nn.init do the same, once, and show how fast each is; a model's own code runs again"
        " for that",
    )
    init.set_defaults(run=_init)

    plan = commands.add_parser(
        "plan",
        help="show what each rank of a mesh would hold of a model and do for it, on paper",
        description="Plan a model on a mesh that need not be here: elements, bytes, launches and predicted"
        " seconds of each rank, and a proof that ranks hold every element once, or once a replica. Exit code"
        " 1 if they do not.",
        epilog=f"Presets: {', '.join((*PRESETS, *LARGE))}; or package.module:callable, as in init. Axes of"
        f" the mesh are for what their names begin with: {', '.join(KINDS)}. dp and fsdp cut as fully_shard"
        " does, tp as parallelize_module by Llama's, Mixtral's and GPT-2's names, ep experts, pp layers into"
        " stages; hsdp, ddp and replicate cut nothing.",
    )
    plan.add_argument(
        "spec", metavar="SPEC", help="a preset, or package.module:callable that makes an nn.Module"
    )
    plan.add_argument("--mesh", metavar="AXIS=SIZE,...", help="the axes, outermost first: pp=16,tp=8,dp=128")
    plan.add_argument(
        "--shard",
        metavar="GLOB=CUTS",
        action="append",
        default=[],
        type=_cuts,
        help="how parameters are cut whose names match, in order: '*.q_proj.weight=0@tp,0@dp',"
        " '*.c_attn.weight=1/3@tp' (each of three parts), '*.bias=0@dp*ep' (as one axis),"
        " '*.norm.*=replicate'; may be repeated, the first that matches counts",
    )
    plan.add_argument("--layout", metavar="FILE", help="a file with mesh, shard and stages, as JSON or TOML")
    which = plan.add_mutually_exclusive_group()
    which.add_argument("--rank", metavar="R", type=_count, help="show that rank, and all that it holds")
    which.add_argument("--all", action="store_true", help="show every rank")
    plan.add_argument("--gpu", default="H100", help="whose seconds to predict (default: H100)")
    _add_settings(plan)
    plan.add_argument(
        "--rules", choices=SCHEMES, help="a scheme to initialise by, instead of the preset's, or torch's"
    )
    plan.add_argument("--dtype", default="float32", choices=FLOAT_DTYPES, help="default: float32")
    plan.add_argument("--json", metavar="FILE", help="write this report there, as JSON")
    plan.set_defaults(run=_plan)

    catalogue = commands.add_parser(
        "catalogue",
        help="show every initializer, or one: its formula, bounds and a histogram",
        description="List every initializer; or show one: its formula, its source, what others call it, and,"
        " for shapes, its bounds, its standard deviation and a histogram of what it draws.",
        epilog="Names of torch, Keras, JAX and timm will do, too: glorot_uniform, jax.normal.",
    )
    catalogue.add_argument("name", metavar="NAME", nargs="?", help="an initializer's, in any spelling")
    catalogue.add_argument(
        "--shape",
        metavar="N,...",
        action="append",
        default=[],
        type=_shape,
        help="of a weight, (out, in, ...); may be repeated (default: some that are usual)",
    )
    catalogue.add_argument("--json", metavar="FILE", help="write this report there, as JSON")
    catalogue.set_defaults(run=_catalogue)

    info = commands.add_parser("info", help="versions, devices and backends")
    info.set_defaults(run=_info)

    check = commands.add_parser(
        "check",
        help="prove that every backend here gives the same bits",
        description="Fill tensors by every backend available here and compare them, bit for bit, with the"
        " NumPy reference. Exit code 1 if a value differs.",
    )
    check.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    check.add_argument("--seed", type=_seed, default=0, help="64 bits (default: 0)")
    check.add_argument(
        "--emulate",
        metavar="ARCH,...",
        help="instead, execute what Triton's kernels are compiled to for sm_90, gfx942, ..., on the CPU",
    )
    check.set_defaults(run=_check)

    bench = commands.add_parser(
        "bench",
        help="measure fills and whole models, against torch.nn.init and others",
        description="Measure every backend here against torch.nn.init, the other libraries that are installed"
        " and a memset. What each backend writes is checked before it is timed.",
    )
    bench.add_argument("--quick", action="store_true", help="the rows that tell most, in under a minute")
    bench.add_argument(
        "--filter",
        metavar="TEXT",
        action="append",
        default=[],
        help="only rows with this in their name; * and ? are wild: 'fill*2^24*'. Given several times, rows"
        " come in that order",
    )
    bench.add_argument("--seconds", type=_positive, help="for each row (default: 0.5; if quick, 0.2)")
    bench.add_argument(
        "--limit",
        metavar="SECONDS",
        type=_positive,
        help="end with exit code 1 at a row that takes longer; --resume goes on after it",
    )
    bench.add_argument(
        "--out", metavar="FILE", help="write the results there after every row, as pytest-benchmark's JSON"
    )
    bench.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows that the file has, and measure the others, but for those that a run was killed"
        " at: the machine, its versions and the commit have to be the same",
    )
    bench.set_defaults(run=_bench)

    compare = commands.add_parser(
        "compare",
        help="put results of several machines side by side",
        description="Compare result files of tritoninit bench: throughput, the fraction of each machine's own"
        " memset, and the ratio to torch.nn.init there.",
    )
    compare.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="what tritoninit bench wrote; beside it what tritoninit inspect did, whose GPUs are predicted",
    )
    for form, what in {"html": "a page", "png": "the figures", "md": "tables", "csv": "all numbers"}.items():
        compare.add_argument(f"--{form}", metavar="FILE", help=f"write {what} there")
    compare.add_argument("--contender", metavar="NAME", help="show that one (default: each machine's own)")
    compare.add_argument(
        "--fail-below",
        metavar="RATIO",
        type=float,
        help="exit with code 1 if the second file's speed, relative to torch or memset there, is less than"
        " this times the first's",
    )
    compare.set_defaults(run=_compare_results)

    inspect = commands.add_parser(
        "inspect",
        help="count the kernels' instructions and predict their speed, without a GPU",
        description="Compile every Triton kernel ahead of time, count the instructions of its hot path by"
        " pipe, and predict its throughput on GPUs that need not be here.",
    )
    inspect.add_argument(
        "--arch", metavar="ARCH,...", help="sm_90, gfx942, ... (default: six, sm_80 to gfx942)"
    )
    inspect.add_argument("--out", metavar="FILE", help="write the counts there, as JSON")
    inspect.set_defaults(run=_inspect)
    return parser


def _version_line() -> str:
    return f"tritoninit {__version__}, stream version {STREAM_VERSION}"


def _seed(text: str) -> int:
    try:
        return Key(int(text, 0)).seed
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of 64 bits") from None


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number up to {_MOST_SECONDS:g}")
    return number


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_setting,
        help="an argument of the callable, or of a transformers class's configuration; may be repeated",
    )


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a string without quotes may have backslashes
            return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as its documentation has them
        return name, value  # a string without quotes


def _cuts(text: str) -> tuple[str, str]:
    glob, equals, cuts = text.rpartition("=")
    if not equals or not glob or not cuts:
        raise argparse.ArgumentTypeError(f"{text!r} is not GLOB=CUTS, as in '*.weight=0@tp,0@dp'")
    return glob, cuts


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",") if text else []
    if not all(size.isascii() and size.isdigit() and len(size) < 10 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape, as in 256,128")
    shape = tuple(map(int, sizes))
    if math.prod(shape) > _MOST_ELEMENTS:
        raise argparse.ArgumentTypeError(f"{text!r} has more than {_MOST_ELEMENTS:,} elements to draw")
    return shape


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a rank")
    return int(text)


def _init(arguments: argparse.Namespace) -> int:
    from tritoninit.commands import init

    return init.run(arguments)


def _plan(arguments: argparse.Namespace) -> int:
    from tritoninit.commands import plan

    return plan.run(arguments)


def _catalogue(arguments: argparse.Namespace) -> int:
    from tritoninit.commands import catalogue

    return catalogue.run(arguments)


def _info(arguments: argparse.Namespace) -> int:
    from tritoninit.commands import info

    return info.run(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from tritoninit.commands import check

    return check.run(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    from tritoninit.bench import suite

    return suite.run(
        arguments.quick,
        arguments.filter,
        writable(arguments.out),
        seconds=arguments.seconds,
        limit=arguments.limit,
        resume=arguments.resume,
    )


def _compare_results(arguments: argparse.Namespace) -> int:
    from tritoninit.commands import compare

    outputs = {form: writable(getattr(arguments, form)) for form in ("html", "png", "md", "csv")}
    chosen, least = arguments.contender, arguments.fail_below
    return compare.run(arguments.files, contender=chosen, fail_below=least, **outputs)


def _inspect(arguments: argparse.Namespace) -> int:
    from tritoninit.bench import inspection

    archs = () if arguments.arch is None else [name.strip() for name in arguments.arch.split(",")]
    return inspection.run(archs, writable(arguments.out))
