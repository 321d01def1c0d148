"""The command line: initialise a model, see what is here, prove the backends equal, measure and compare."""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import gc
import importlib
import importlib.metadata
import json
import math
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from tritoninit import registry
from tritoninit._version import __version__
from tritoninit.auditing.findings import Report
from tritoninit.fills import Constant, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import Dirac, Eye, Orthogonal, Sparse, ZeroRow
from tritoninit.interception.recorder import Intercepted, intercept
from tritoninit.kernels.lowering import FLOAT_DTYPES
from tritoninit.kernels.stream import STREAM_VERSION
from tritoninit.keys import Key
from tritoninit.model_initialization import initialize_
from tritoninit.models.rules import RuleSet
from tritoninit.outputs import UsageError, replacing, writable
from tritoninit.presets import PRESETS, Preset
from tritoninit.report import (
    Timing,
    availability,
    build_report,
    device_name,
    lowered,
    print_lines,
    progress_display,
    show,
    table,
    versions,
)
from tritoninit.schemes import SCHEMES
from tritoninit.targets import as_target

if TYPE_CHECKING:
    from rich.progress import Progress

    from tritoninit.checks import Comparison

_TIMED_SECONDS = 0.3  # a fill shorter than this is repeated, and its median taken
_TIMED_RUNS = 25
_WARM_UP = (Constant(0.0), Uniform(), Normal(), TruncatedNormal())
_SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
_TIMES = "\N{MULTIPLICATION SIGN}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (it failed), 2 (bad input) or 130 (interrupted)."""
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.run(arguments)
        return code
    except UsageError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # whoever read our output has read enough; Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, torch.OutOfMemoryError) as error:
        return _fail(str(error).strip().partition("\n")[0], 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"tritoninit: {message}\n")
    return code


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tritoninit", description=__doc__)
    parser.add_argument("--version", action="version", version=_version_line())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    init = commands.add_parser(
        "init",
        help="initialise a model and show every parameter",
        description="Initialise a model, show every parameter, and compare the speed with torch.nn.init's.",
        epilog=f"Presets: {', '.join(PRESETS)}; they are built on the meta device. A module"
        " of your own, or a transformers class (transformers:GPT2LMHeadModel), is built with its own"
        " initialisation intercepted, unless --rules names a scheme or the attribute is a"
        " tritoninit.presets.Preset, which brings rules of its own.",
    )
    init.add_argument(
        "spec", metavar="SPEC", help="a preset, or package.module:callable that makes an nn.Module"
    )
    init.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_setting,
        help="an argument of the callable, or of a transformers class's configuration; may be repeated",
    )
    init.add_argument(
        "--rules", choices=SCHEMES, help="a scheme to initialise by, instead of the model's own"
    )
    init.add_argument("--seed", type=_seed, default=0, help="64 bits (default: 0)")
    init.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)")
    init.add_argument("--dtype", default="float32", choices=FLOAT_DTYPES, help="default: float32")
    init.add_argument("--backend", help="which backend fills (default: the first that serves the device)")
    init.add_argument("--out", metavar="FILE", help="write the weights there, as safetensors")
    init.add_argument("--json", metavar="FILE", help="write this report there, as JSON")
    init.set_defaults(run=_init)

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
    compare.add_argument("files", metavar="FILE", nargs="+", type=Path, help="what tritoninit bench wrote")
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
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return number


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a string without quotes


def _init(arguments: argparse.Namespace) -> int:
    out, report_path = _output(arguments.out), _output(arguments.json)
    if out is not None:
        if out == report_path:
            raise UsageError("--out and --json name the same file")
        _import_safetensors()
    subject = _subject(arguments)
    device = _device(arguments.device)
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    with _backend(arguments.backend, device), progress_display() as progress:
        small = torch.empty(4096, device=device, dtype=dtype)
        theirs: Timing | str | None = None
        scheme, passed_on = None, []
        if subject.rules is None:
            model, intercepted, ours, theirs = _intercept(subject, arguments.seed, small, progress)
            report, passed_on = intercepted.report(model), intercepted.passed_on
        else:
            model, rules = _build(subject, small, progress)
            report, ours = _initialize(model, rules, subject.name, arguments.seed, small, progress)
            scheme = rules.citation
        with _stage(progress, "measuring"):
            _ = report.audit
        if out is not None:
            _save(model, out, progress)
        if theirs is None:
            theirs = _time_torch(report, small, progress)
    summary = build_report(arguments, device, report, ours, theirs)
    summary["passed_on"] = [asdict(each) for each in passed_on]
    show(report, summary, scheme)
    if report_path is not None:
        with replacing(report_path) as temporary:
            text = json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return 0


def _output(name: str | None) -> Path | None:
    return None if name is None else writable(name)


class _Subject(NamedTuple):
    """A model to be initialised: how it is built, and by which rules; without any, by its own code.

    ``on_meta`` says that it can be built on the meta device.
    """

    name: str
    build: Callable[[], Any]
    rules: Callable[[nn.Module], RuleSet] | None
    on_meta: bool = False


def _subject(arguments: argparse.Namespace) -> _Subject:
    """What the command line asks for: a preset by its name, or what ``package.module:callable`` names.

    Raises:
        UsageError: there is no such thing.
    """
    spec, settings = arguments.spec, dict(arguments.set)
    module_name, colon, attribute = spec.partition(":")
    if not colon and spec not in PRESETS:
        near = _close_matches(spec, list(PRESETS))
        raise UsageError(
            f"unknown preset {spec!r}{near}; known are {', '.join(PRESETS)}, or give package.module:callable"
        )
    found = _attribute(_import(module_name, spec), attribute, spec) if colon else PRESETS[spec]
    chosen = SCHEMES[arguments.rules] if arguments.rules else None
    if isinstance(found, Preset):
        own = found.rules
        return _Subject(spec, partial(found.build, **settings), chosen or (lambda _: own), on_meta=True)
    if not callable(found) or isinstance(found, nn.Module):
        raise UsageError(f"{spec} is no function that makes an nn.Module, but {found!r:.60}")
    configuration = getattr(found, "config_class", None)
    if configuration is None:
        return _Subject(spec, partial(found, **settings), chosen)
    return _Subject(spec, lambda: found(configuration(**settings)), chosen)


def _import(name: str, spec: str) -> Any:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises is the answer
        raise UsageError(f"cannot import the module of {spec!r}: {_one_line(error)}") from error


def _attribute(module: Any, path: str, spec: str) -> Any:
    try:
        return functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        near = _close_matches(path, [name for name in vars(module) if not name.startswith("_")])
        raise UsageError(f"no {path!r} in the module of {spec!r}{near}") from None


def _close_matches(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _device(name: str | None) -> torch.device:
    """The device of that name, or the best there is.

    Raises:
        UsageError: it is not here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # by what it is that is missing
        raise UsageError(f"no device {name!r} here: {_one_line(error)}") from None
    if device.type == "meta":
        raise UsageError("the meta device has no memory to fill")
    return device


@contextmanager
def _backend(name: str | None, device: torch.device) -> Iterator[None]:
    """The backend asked for, found to be able to serve the device.

    Raises:
        UsageError: it cannot, or there is none of that name.
    """
    with ExitStack() as stack:
        try:
            if name is not None:
                stack.enter_context(registry.use_backend(name))
            registry.resolve(device.type)
        except (ValueError, RuntimeError) as error:
            raise UsageError(str(error)) from None
        yield


def _build(subject: _Subject, like: Tensor, progress: Progress | None) -> tuple[nn.Module, RuleSet]:
    """The module with memory of its own, NaN throughout so that an omission shows, and its rules.

    Raises:
        UsageError: it cannot be built or written, or is no module with parameters.
    """
    assert subject.rules is not None
    with _stage(progress, f"building {subject.name}"):
        model = _constructed(subject, torch.device("meta") if subject.on_meta else like.device, like.dtype)
        rules = subject.rules(model)
        if subject.on_meta:
            with _usage_errors(f"cannot initialise {subject.name}"):
                initialize_(model, rules, seed=0, device=like.device, dtype=like.dtype)
        _touch(model)
    return model, rules


def _constructed(subject: _Subject, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module, its floats of ``dtype`` unless it says otherwise.

    Raises:
        UsageError: it cannot be built, or is no module with parameters.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            module = subject.build()
            if isinstance(module, nn.Module):
                module.to(device)
    except Exception as error:  # whatever the user's code raises is the answer
        raise UsageError(f"cannot build {subject.name}: {_one_line(error)}{_place(error)}") from error
    finally:
        torch.set_default_dtype(default)
    if not isinstance(module, nn.Module):
        raise UsageError(f"{subject.name} makes no nn.Module, but {module!r:.60}")
    if not any(True for _ in module.parameters()):
        raise UsageError(f"{subject.name} has no parameters")
    return module


def _intercept(
    subject: _Subject, seed: int, small: Tensor, progress: Progress | None
) -> tuple[nn.Module, Intercepted, Timing, Timing]:
    """Construct the model by its own code, its initialisation intercepted; timed, and beside it without."""
    built: list[tuple[nn.Module, Intercepted]] = []

    def run() -> None:
        built.clear()
        with intercept(seed=seed) as intercepted:
            module = _constructed(subject, small.device, small.dtype)
        built.append((module, intercepted))

    def run_plain() -> None:
        _constructed(subject, small.device, small.dtype)

    with _stage(progress, f"building {subject.name}"):
        _warm_up(small)
        theirs = _timed(run_plain, small.device)
        ours = _timed(run, small.device)
    model, intercepted = built[0]
    return model, intercepted, ours, theirs


@contextmanager
def _usage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"{what}: {error}") from error


def _place(error: BaseException) -> str:
    """Where an exception was raised, file and line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({frame.filename}:{frame.lineno})"


def _touch(module: nn.Module) -> None:
    """Write NaN to every parameter: memory is paged in before anything is timed, and an omission shows.

    Raises:
        UsageError: a parameter cannot be written.
    """
    for name, parameter in module.named_parameters():
        try:
            as_target(parameter)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
        with torch.no_grad():
            parameter.fill_(math.nan if parameter.is_floating_point() else 0)


def _timed(run: Callable[[], object], device: torch.device) -> Timing:
    """Time ``run`` to the end of its work on the device, more than once if it is short.

    What lived before is frozen: a collection that walks all of it would take longer than most runs.
    """
    seconds: list[float] = []
    gc.collect()
    gc.freeze()
    try:
        while sum(seconds) < _TIMED_SECONDS and len(seconds) < _TIMED_RUNS:
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            seconds.append(time.perf_counter() - start)
    finally:
        gc.unfreeze()
    return Timing(statistics.median(seconds), len(seconds))


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _warm_up(small: Tensor) -> None:
    """Let what happens once (kernels compile, threads start) happen outside of measurements."""
    for fill in _WARM_UP:
        fill(small, key=Key(0))


def _initialize(
    model: nn.Module, rules: RuleSet, name: str, seed: int, small: Tensor, progress: Progress | None
) -> tuple[Report, Timing]:
    """Initialise the model and time that, from looking up the rules to the last element."""
    reports: list[Report] = []

    def run() -> None:
        reports[:] = [initialize_(model, rules, seed=seed)]

    with _stage(progress, "initialising"), _usage_errors(f"cannot initialise {name}"):
        _warm_up(small)
        timing = _timed(run, small.device)
    return reports[0], timing


def _time_torch(report: Report, small: Tensor, progress: Progress | None) -> Timing | str:
    """The same distributions by torch.nn.init, into the same memory; or why it cannot."""
    with _stage(progress, "initialising by torch.nn.init"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            calls = [
                (_torch_equivalent(lowered(each.initializer, each.tensor.shape)), each.tensor)
                for each in report
            ]
            for fill in _WARM_UP:
                _torch_equivalent(fill)(small)

            def run() -> None:
                for call, parameter in calls:
                    call(parameter)

            return _timed(run, small.device)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            return _one_line(error)


def _torch_equivalent(initializer: Initializer) -> Callable[[Tensor], object]:
    """What torch.nn.init calls a fill, or an initializer that is built on fills.

    Raises:
        NotImplementedError: it has none.
    """
    match initializer:
        case Constant(value):
            return lambda x: nn.init.constant_(x, value)
        case Uniform(low, high):
            return lambda x: nn.init.uniform_(x, low, high)
        case Normal(mean, std):
            return lambda x: nn.init.normal_(x, mean, std)
        case TruncatedNormal(mean, std, a, b):
            return lambda x: nn.init.trunc_normal_(x, mean, std, a, b)
        case Orthogonal(gain):
            return lambda x: nn.init.orthogonal_(x, gain)
        case Sparse(sparsity, std):
            return lambda x: nn.init.sparse_(x, sparsity, std)
        case Eye():
            return nn.init.eye_
        case Dirac(groups):
            return lambda x: nn.init.dirac_(x, groups)
        case ZeroRow(scheme, row):
            whole = _torch_equivalent(scheme)
            return lambda x: (whole(x), x.detach()[row].zero_())
    raise NotImplementedError(f"torch.nn.init has no {type(initializer).__name__}")


@contextmanager
def _stage(progress: Progress | None, what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show one piece of work while it lasts; yields what to call after each of its ``total`` parts."""
    if progress is None:
        yield lambda: None
        return
    task = progress.add_task(what, total=total)
    try:
        yield lambda: progress.advance(task)
    finally:
        progress.remove_task(task)


def _import_safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UsageError(f"--out needs the safetensors package: {error}") from None
    return safetensors


def _save(model: nn.Module, path: Path, progress: Progress | None) -> None:
    """Write the state dict as safetensors, tied parameters once, under their first name."""
    safetensors = _import_safetensors()
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value.detach().contiguous()
    with _stage(progress, f"writing {path.name}"), replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors would let nobody else read the file
        try:
            # One entry of metadata, which loaders ask for: safetensors writes several in no fixed order.
            safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from None
        temporary.chmod(mode)


def _info(_: argparse.Namespace) -> int:
    devices = [torch.device("cpu"), *(torch.device("cuda", k) for k in range(torch.cuda.device_count()))]
    backends = [
        [status.name, ", ".join(status.devices), availability(status)] for status in registry.backends()
    ]
    print_lines(
        "  ".join(f"{name} {version}" for name, version in versions().items()),
        "",
        *table(["device", "what it is"], [[str(device), device_name(device)] for device in devices]),
        "",
        *table(["backend", "serves", "here"], backends),
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from tritoninit import checks

    rows: list[list[str]] = []
    total, difference = 0, None
    with progress_display() as progress:
        for comparison in _comparisons(arguments):
            try:
                values, difference, seconds = _compare(comparison, progress)
            except checks.CheckFailed as error:
                return _fail(str(error), 1)
            total += values
            pair = f"{comparison.backend} = {checks.REFERENCE}"
            rows.append([pair, comparison.where, f"{comparison.cases:,}", f"{values:,}", f"{seconds:.1f}"])
            if difference:
                break
    print_lines(
        *table(["backends", "where", ">cases", ">values", ">seconds"], rows),
        "",
        f"{total:,} values compared. {'The first that differs:' if difference else 'No difference.'}",
    )
    if difference:
        print_lines(difference)
        return 1
    return 0


def _comparisons(arguments: argparse.Namespace) -> list[Comparison]:
    """What ``check`` compares, announced."""
    from tritoninit import checks

    against = f"against {checks.REFERENCE}, the reference, bit for bit; stream version {STREAM_VERSION}"
    if arguments.emulate is not None:
        archs = [name.strip() for name in arguments.emulate.split(",")]
        found = checks.emulations(archs, arguments.seed, arguments.quick)
        print_lines(f"Compiled kernels, executed, {against}, seed {arguments.seed}", "")
        return found
    print_lines(
        f"Every backend here {against}, seed {arguments.seed}",
        *(f"{each.name} is {availability(each)}" for each in registry.backends() if not each.available),
        "",
    )
    return checks.comparisons(arguments.seed, arguments.quick)


def _bench(arguments: argparse.Namespace) -> int:
    from tritoninit.bench import suite

    return suite.run(
        arguments.quick,
        arguments.filter,
        _output(arguments.out),
        seconds=arguments.seconds,
        limit=arguments.limit,
        resume=arguments.resume,
    )


def _compare_results(arguments: argparse.Namespace) -> int:
    from tritoninit.bench import comparison

    outputs = {form: _output(getattr(arguments, form)) for form in ("html", "png", "md", "csv")}
    chosen, least = arguments.contender, arguments.fail_below
    return comparison.run(arguments.files, contender=chosen, fail_below=least, **outputs)


def _inspect(arguments: argparse.Namespace) -> int:
    from tritoninit.bench import inspection

    archs = () if arguments.arch is None else [name.strip() for name in arguments.arch.split(",")]
    return inspection.run(archs, _output(arguments.out))


def _compare(comparison: Comparison, progress: Progress | None) -> tuple[int, str | None, float]:
    """How many values were compared, the first that differs, and the seconds it took."""
    values, difference = 0, None
    start = time.perf_counter()
    with _stage(progress, f"{comparison.backend} on {comparison.where}", comparison.cases) as advance:
        for outcome in comparison.run():
            values += outcome.values
            difference = outcome.difference
            advance()
    return values, difference, time.perf_counter() - start
