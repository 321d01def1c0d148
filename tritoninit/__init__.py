"""Weight-initialization kernels that give the same weights on every device, GPU model, dtype and sharding."""

from tritoninit import _start  # noqa: F401 - before what takes a second to import

# isort: split
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tritoninit import _on_import, ops  # noqa: F401 - they take, and define, what has to be there
from tritoninit._collector import collector_paused
from tritoninit._names import FOLDERS, HOMES
from tritoninit._version import __version__

if TYPE_CHECKING:  # what __getattr__ finds, for readers that run nothing
    from tritoninit import distributed, presets, registry, schemes
    from tritoninit.auditing.assignments import Assignment
    from tritoninit.auditing.findings import audit
    from tritoninit.auditing.fingerprint import bits_hash
    from tritoninit.auditing.records import Audit, Coverage, TensorRecord
    from tritoninit.auditing.report import Report
    from tritoninit.catalogue import initializer
    from tritoninit.combinators import (
        AsOne,
        BlockDiagonal,
        CopyOf,
        Keep,
        Patch,
        Patched,
        Scaled,
        Stacked,
        StochasticallyRounded,
        ZeroRow,
    )
    from tritoninit.coordinates import CoordCheck, Coordinate, coord_check
    from tritoninit.distributions import (
        Bernoulli,
        Cauchy,
        Exponential,
        Geometric,
        LogNormal,
        Permutation,
        RandInt,
    )
    from tritoninit.drawing import (
        bernoulli_,
        cauchy_,
        exponential_,
        geometric_,
        log_normal_,
        permutation_,
        randint_,
        random_,
    )
    from tritoninit.ensembles import ensemble
    from tritoninit.experts import Experts
    from tritoninit.fans import Axes
    from tritoninit.fills import (
        Constant,
        Elementwise,
        Fill,
        Initializer,
        Normal,
        Piece,
        TruncatedNormal,
        Uniform,
    )
    from tritoninit.functional import (
        constant,
        constant_,
        dirac,
        dirac_,
        eye,
        eye_,
        kaiming_normal,
        kaiming_normal_,
        kaiming_uniform,
        kaiming_uniform_,
        normal,
        normal_,
        ones_,
        orthogonal,
        orthogonal_,
        sparse,
        sparse_,
        trunc_normal_,
        uniform,
        uniform_,
        xavier_normal,
        xavier_normal_,
        xavier_uniform,
        xavier_uniform_,
        zeros_,
    )
    from tritoninit.initializers import (
        FanScaled,
        KaimingNormal,
        KaimingUniform,
        Ones,
        VarianceScaling,
        XavierNormal,
        XavierUniform,
        Zeros,
        calculate_gain,
    )
    from tritoninit.interception.entry import intercept, record
    from tritoninit.interception.intercepted import Intercepted, PassedOn
    from tritoninit.kernels.lowering import ParameterError
    from tritoninit.kernels.stream import STREAM_VERSION
    from tritoninit.keys import Key
    from tritoninit.located import DeltaOrthogonal
    from tritoninit.lsuv import LayerVariance, lsuv_
    from tritoninit.mapped import LogOfUniform, LogUniform, Mapped, RingDecay, TimeStepBias
    from tritoninit.meshes.layouts import Layout
    from tritoninit.meshes.mesh_plan import MeshPlan, plan_mesh
    from tritoninit.model_initialization import initialize_
    from tritoninit.models.mup import mup, mup_groups, mup_rates
    from tritoninit.models.rules import Rule, RuleSet
    from tritoninit.plan import Plan
    from tritoninit.prepared import Prepared, prepare
    from tritoninit.recorded import Recorded
    from tritoninit.registry import Backend, backends, use_backend
    from tritoninit.reinitialization import reinitialize_, shrink_and_perturb_
    from tritoninit.schemes import OWN_CODE, TORCH_DEFAULTS
    from tritoninit.structured import Dirac, Eye, Identity, Orthogonal, Sparse, Structured, Value
    from tritoninit.tables import S4D, STFT, Sinusoids, Table
    from tritoninit.targets import TargetError
    from tritoninit.window import Window
    from tritoninit.windows import Windows

__all__ = [
    "OWN_CODE",
    "S4D",
    "STFT",
    "STREAM_VERSION",
    "TORCH_DEFAULTS",
    "AsOne",
    "Assignment",
    "Audit",
    "Axes",
    "Backend",
    "Bernoulli",
    "BlockDiagonal",
    "Cauchy",
    "Constant",
    "CoordCheck",
    "Coordinate",
    "CopyOf",
    "Coverage",
    "DeltaOrthogonal",
    "Dirac",
    "Elementwise",
    "Experts",
    "Exponential",
    "Eye",
    "FanScaled",
    "Fill",
    "Geometric",
    "Identity",
    "Initializer",
    "Intercepted",
    "KaimingNormal",
    "KaimingUniform",
    "Keep",
    "Key",
    "LayerVariance",
    "Layout",
    "LogNormal",
    "LogOfUniform",
    "LogUniform",
    "Mapped",
    "MeshPlan",
    "Normal",
    "Ones",
    "Orthogonal",
    "ParameterError",
    "PassedOn",
    "Patch",
    "Patched",
    "Permutation",
    "Piece",
    "Plan",
    "Prepared",
    "RandInt",
    "Recorded",
    "Report",
    "RingDecay",
    "Rule",
    "RuleSet",
    "Scaled",
    "Sinusoids",
    "Sparse",
    "Stacked",
    "StochasticallyRounded",
    "Structured",
    "Table",
    "TargetError",
    "TensorRecord",
    "TimeStepBias",
    "TruncatedNormal",
    "Uniform",
    "Value",
    "VarianceScaling",
    "Window",
    "Windows",
    "XavierNormal",
    "XavierUniform",
    "ZeroRow",
    "Zeros",
    "__version__",
    "audit",
    "backends",
    "bernoulli_",
    "bits_hash",
    "calculate_gain",
    "cauchy_",
    "constant",
    "constant_",
    "coord_check",
    "dirac",
    "dirac_",
    "distributed",
    "ensemble",
    "exponential_",
    "eye",
    "eye_",
    "geometric_",
    "initialize_",
    "initializer",
    "intercept",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "log_normal_",
    "lsuv_",
    "mup",
    "mup_groups",
    "mup_rates",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "permutation_",
    "plan_mesh",
    "prepare",
    "presets",
    "randint_",
    "random_",
    "record",
    "registry",
    "reinitialize_",
    "schemes",
    "shrink_and_perturb_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "use_backend",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]


def __getattr__(name: str) -> Any:
    """A public name, or a module, when it is first asked for; from then on it is here."""
    home = HOMES.get(name)
    if home is None:
        return _module(__name__, name)
    with collector_paused():
        found = globals()[name] = getattr(import_module(home), name)
    return found


def _module(package: str, name: str) -> Any:
    """One of a package's, imported when it is first asked for."""
    full_name = f"{package}.{name}"
    if not name.startswith("_"):
        try:
            with collector_paused():
                return import_module(full_name)
        except ModuleNotFoundError as error:
            if error.name != full_name:
                raise
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


for _folder in FOLDERS:
    _package = import_module(f"{__name__}.{_folder}")
    vars(_package)["__getattr__"] = partial(_module, _package.__name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
