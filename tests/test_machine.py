"""Versions and devices, as results name them."""

import platform
from importlib import metadata

import torch

import tritoninit as ti
from tritoninit.machine import device_name, software, versions


def test_versions():
    assert versions("numpy", "no_such_package") == {
        "numpy": metadata.version("numpy"),
        "no_such_package": None,
    }


def test_version_by_the_name_that_is_imported():
    """As cupy is in a package called cupy-cuda12x, _pytest is in one called pytest."""
    assert versions("_pytest") == {"_pytest": metadata.version("pytest")}


def test_a_module_of_no_package():
    assert versions("json") == {"json": None}


def test_software():
    found = software()
    names = ["tritoninit", "stream", "python", "torch", "triton", "numpy", "rich", "safetensors"]
    assert list(found) == names
    assert found["tritoninit"] == ti.__version__
    assert found["stream"] == str(ti.STREAM_VERSION)
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__


def test_cpu():
    assert f"{torch.get_num_threads()} threads of " in device_name(torch.device("cpu"))


def test_other_devices_by_their_name():
    assert device_name(torch.device("meta")) == "meta"
