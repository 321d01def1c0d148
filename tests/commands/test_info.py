"""``tritoninit info``."""

import re

import torch

import tritoninit as ti
from tritoninit.cli import main


def test_versions_devices_and_backends(capsys):
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
