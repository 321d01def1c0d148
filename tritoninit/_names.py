"""Where the public names are: each module is imported when one of its names is first asked for.

To import them all takes six times as long as what a process needs that draws some normals.
"""

from typing import Final

# Those whose modules can be asked for like the public names; kernels has no __init__ that could say so.
FOLDERS: Final = ("auditing", "interception", "kernels", "meshes", "models", "tracing")

_NAMES = {
    "auditing.assignments": "Assignment",
    "auditing.findings": "audit",
    "auditing.fingerprint": "bits_hash",
    "auditing.records": "Audit Coverage TensorRecord",
    "auditing.report": "Report",
    "catalogue": "initializer",
    "combinators": (
        "AsOne BlockDiagonal CopyOf Keep Patch Patched Scaled Stacked StochasticallyRounded ZeroRow"
    ),
    "coordinates": "CoordCheck Coordinate coord_check",
    "distributions": "Bernoulli Cauchy Exponential Geometric LogNormal Permutation RandInt",
    "drawing": "bernoulli_ cauchy_ exponential_ geometric_ log_normal_ permutation_ randint_ random_",
    "ensembles": "ensemble",
    "experts": "Experts",
    "fans": "Axes",
    "fills": "Constant Elementwise Fill Initializer Normal Piece TruncatedNormal Uniform",
    "functional": (
        "constant constant_ dirac dirac_ eye eye_ kaiming_normal kaiming_normal_ kaiming_uniform "
        "kaiming_uniform_ normal normal_ ones_ orthogonal orthogonal_ sparse sparse_ trunc_normal_ "
        "uniform uniform_ xavier_normal xavier_normal_ xavier_uniform xavier_uniform_ zeros_"
    ),
    "initializers": (
        "FanScaled KaimingNormal KaimingUniform Ones VarianceScaling XavierNormal XavierUniform "
        "Zeros calculate_gain"
    ),
    "interception.entry": "intercept record",
    "interception.intercepted": "Intercepted PassedOn",
    "kernels.lowering": "ParameterError",
    "kernels.stream": "STREAM_VERSION",
    "keys": "Key",
    "located": "DeltaOrthogonal",
    "lsuv": "LayerVariance lsuv_",
    "mapped": "LogOfUniform LogUniform Mapped RingDecay TimeStepBias",
    "meshes.layouts": "Layout",
    "meshes.mesh_plan": "MeshPlan plan_mesh",
    "model_initialization": "initialize_",
    "models.mup": "mup mup_groups mup_rates",
    "models.rules": "Rule RuleSet",
    "plan": "Plan",
    "prepared": "Prepared prepare",
    "recorded": "Recorded",
    "registry": "Backend backends use_backend",
    "reinitialization": "reinitialize_ shrink_and_perturb_",
    "schemes": "OWN_CODE TORCH_DEFAULTS",
    "structured": "Dirac Eye Identity Orthogonal Sparse Structured Value",
    "tables": "S4D STFT Sinusoids Table",
    "targets": "TargetError",
    "window": "Window",
    "windows": "Windows",
}

HOMES: Final = {name: f"tritoninit.{module}" for module, names in _NAMES.items() for name in names.split()}
