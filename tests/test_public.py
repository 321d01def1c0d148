"""What users may count on: the names, pinned, and docstrings that stand alone."""

import inspect

import pytest

import tritoninit as ti
from tritoninit import drawing, functional

PUBLIC = [
    "StochasticallyRounded",
    "BlockDiagonal",
    "Identity",
    "CoordCheck",
    "Coordinate",
    "coord_check",
    "mup_groups",
    "mup_rates",
    "LayerVariance",
    "lsuv_",
    "Bernoulli",
    "Cauchy",
    "Exponential",
    "Geometric",
    "LogNormal",
    "Permutation",
    "RandInt",
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "permutation_",
    "randint_",
    "random_",
    "reinitialize_",
    "shrink_and_perturb_",
    "S4D",
    "LogOfUniform",
    "LogUniform",
    "Mapped",
    "RingDecay",
    "TimeStepBias",
    "DeltaOrthogonal",
    "STFT",
    "Sinusoids",
    "Table",
    "initializer",
    "STREAM_VERSION",
    "OWN_CODE",
    "TORCH_DEFAULTS",
    "AsOne",
    "Assignment",
    "Audit",
    "Axes",
    "Backend",
    "Constant",
    "CopyOf",
    "Coverage",
    "PassedOn",
    "TensorRecord",
    "Dirac",
    "Elementwise",
    "Experts",
    "Eye",
    "FanScaled",
    "Fill",
    "Initializer",
    "Intercepted",
    "KaimingNormal",
    "KaimingUniform",
    "Keep",
    "Layout",
    "MeshPlan",
    "Key",
    "Normal",
    "Ones",
    "Orthogonal",
    "ParameterError",
    "Patch",
    "Patched",
    "Piece",
    "Plan",
    "Prepared",
    "Recorded",
    "Report",
    "Rule",
    "RuleSet",
    "Scaled",
    "Sparse",
    "Stacked",
    "Structured",
    "TargetError",
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
    "bits_hash",
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "distributed",
    "ensemble",
    "eye",
    "eye_",
    "initialize_",
    "intercept",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "mup",
    "normal",
    "normal_",
    "ones_",
    "plan_mesh",
    "prepare",
    "orthogonal",
    "orthogonal_",
    "presets",
    "record",
    "registry",
    "schemes",
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
IN_REGISTRY = {"Backend", "ENVIRONMENT_VARIABLE", "backends", "get", "register", "resolve", "use_backend"}
MODULES = ("distributed", "presets", "registry", "schemes")


def test_names():
    """A name that goes, or comes, is a line in CHANGELOG."""
    assert sorted(ti.__all__) == sorted(PUBLIC)
    assert all(hasattr(ti, name) for name in PUBLIC)
    assert all(hasattr(ti.registry, name) for name in IN_REGISTRY)


@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.isupper() and name not in MODULES])
def test_docstrings(name):
    """Of their own: not those that dataclasses make of a signature, nor a base's."""
    thing = getattr(ti, name)
    if name == "__version__":
        return
    doc = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    assert doc
    assert not doc.startswith(f"{name}(")


@pytest.mark.parametrize("name", [*functional.__all__, *drawing.__all__])
def test_help_stands_alone(name):
    function = getattr(ti, name)
    parameters = inspect.signature(function).parameters
    doc = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Raises:", ">>> "):
        assert section in doc
    arguments = doc[doc.index("Args:") : doc.index("Returns:")]
    for parameter in parameters:
        assert f"\n    {parameter}: " in arguments, parameter
    floats = "key" in parameters and name not in ("bernoulli_", "permutation_", "randint_", "random_")
    for error in ("TypeError", "ValueError", *["NotImplementedError"] * floats):
        assert f"\n    {error}: " in doc, error
    assert ("float64, float32, or 16 or 8 bits" if floats else "any dtype") in " ".join(doc.split())
    if name in ("orthogonal_", "sparse_"):
        assert f"A shard {'builds the whole global' if name == 'orthogonal_' else 'draws'}" in doc
