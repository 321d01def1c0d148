"""Who takes part in the benchmarks, and that nobody is timed who writes something else."""

import ctypes
import math
import sys
import types

import numpy as np
import pytest
import torch

import tritoninit as ti
from tritoninit.bench import contenders, curand_device, device
from tritoninit.bench.contenders import FILLS, Trial, WrongValues, check, check_distribution, contender

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize(
    "name", [each.name for each in contenders.contenders(False) if each.unavailable() is None]
)
@pytest.mark.parametrize("subject", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_contenders_pass_their_check(name, subject, dtype):
    """In every row of a full run, here at a size that shows a mean or a std that is 1% off."""
    filler, fill = contender(name), FILLS[subject]
    if not filler.serves(fill, dtype):
        return
    buffers = list(torch.full((2, 2**18), math.nan, dtype=dtype, device=device.DEVICE))
    row = Trial("fill", subject, str(dtype).removeprefix("torch."), 2**18, device.ALL_THREADS, name)
    with row.serving():
        prepared = filler.prepare(fill, buffers)
        for _ in buffers:
            written = prepared.call()
            prepared.wait()
            check(filler, fill, written)


WRONG = {
    "mean": lambda x: x + 0.06 * x.std(),
    "standard deviation": lambda x: x * 0.94,
    "nan": lambda x: x.index_fill(0, torch.tensor([7]), math.nan),
    "infinity": lambda x: x.index_fill(0, torch.tensor([len(x) - 1]), math.inf),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("subject", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_another_distribution_is_refused(wrong, subject, dtype):
    fill = FILLS[subject]
    x = fill(torch.empty(2**17, dtype=dtype), key=ti.Key(1))
    check_distribution(x, fill)
    with pytest.raises(WrongValues):
        check_distribution(WRONG[wrong](x), fill)


@pytest.mark.parametrize("subject", ["uniform", "truncated_normal"])
def test_values_out_of_bounds_are_refused(subject):
    fill = FILLS[subject]
    x = fill(torch.empty(2**17), key=ti.Key(1))
    x[3] = 0.101
    with pytest.raises(WrongValues, match="values from"):
        check_distribution(x, fill)


def test_what_has_no_distribution_is_refused():
    with pytest.raises(WrongValues, match="the reference has 0"):
        check(contender("memset"), FILLS["normal"], torch.full((8,), 1e-30))


def test_the_end_of_a_large_tensor_is_looked_at(monkeypatch):
    monkeypatch.setattr(contenders, "CHECKED", 1024)
    x = FILLS["normal"](torch.empty(10_000), key=contenders.KEY)
    backend = contender(ti.registry.resolve("cpu").name)
    check(backend, FILLS["normal"], x)
    x[-1024] += 1e-9
    with pytest.raises(WrongValues, match="element 8976"):
        check(backend, FILLS["normal"], x)


class Curand:
    """What the contender asks of CuPy, by NumPy; CuPy itself needs a GPU."""

    def __init__(self, seed, method):
        assert method == 161
        np.asarray(seed).astype(np.uint64, casting="safe")  # as CuPy does, which refuses Python's ints for it
        self.generator = np.random.default_rng(seed)

    def uniform(self, low, high, size, dtype):
        return self.generator.uniform(low, high, size).astype(dtype)

    def normal(self, loc, scale, size, dtype):
        return self.generator.normal(loc, scale, size).astype(dtype)


class TorchFunc(types.ModuleType):
    """What the contender asks of torch.func._random, by PyTorch's generator; itself it needs a GPU."""

    def key(self, seed, device):
        return torch.tensor([seed, 0], dtype=torch.uint64, device=device)

    def uniform_(self, key, result, *, low, high):
        assert key.dtype == torch.uint64
        if result.dtype == torch.float16:
            raise NotImplementedError("not in float16")
        return result.uniform_(low, high)

    def normal_(self, key, result, *, mean, std):
        return result.normal_(mean, std)


def test_torch_s_fills_by_a_key_take_part_where_they_run(monkeypatch):
    theirs = contender("torch-func")
    unavailable = contenders._torch_func_unavailable
    monkeypatch.setitem(sys.modules, "torch.func._random", None)  # as in a torch that has none
    unavailable.cache_clear()
    assert "torch.func._random cannot run" in theirs.unavailable()
    monkeypatch.setitem(sys.modules, "torch.func._random", TorchFunc("torch.func._random"))
    unavailable.cache_clear()
    try:
        assert theirs.unavailable() is None
        assert [theirs.serves(FILLS["normal"], dtype) for dtype in DTYPES] == [True, True, False]
        assert not theirs.serves(FILLS["truncated_normal"], torch.float32)
        for subject in ("uniform", "normal"):
            buffers = list(torch.empty(2, 2**14, device=device.DEVICE))
            prepared = theirs.prepare(FILLS[subject], buffers)
            for buffer in buffers:
                written = prepared.call()
                assert written is buffer
                check(theirs, FILLS[subject], written)
    finally:
        unavailable.cache_clear()


class RawKernel:
    """A kernel of CuPy's that does what ``curand_device.source`` says, by NumPy, where the pointer leads."""

    def __init__(self, code, name, options, *, backend):
        assert f'extern "C" __global__ void {name}(' in code
        assert (backend, options[0]) == ("nvrtc", "--std=c++17")
        self.narrow = "#define NARROW" in code
        self.draw = "standard_normal" if "#define DRAW4 curand_normal4\n" in code else "random"
        self.kernel = types.SimpleNamespace(ptr=1)
        self.begins = []

    def __call__(self, grid, block, args):
        assert [type(each) for each in args] == [np.uint64] * 4 + [np.float32] * 2
        pointer, turns, seed, drawn, shift, scale = (each.item() for each in args)
        assert block == (256,)
        assert grid[0] == min(6, math.ceil(turns / 256))
        width = 8 if self.narrow else 4
        values = getattr(np.random.default_rng((seed, drawn)), self.draw)(width * turns) * scale + shift
        values = torch.from_numpy(values).to(torch.bfloat16 if self.narrow else torch.float32)
        ctypes.memmove(pointer, values.data_ptr(), 16 * turns)
        self.begins.append((drawn, width * math.ceil(turns / (256 * grid[0]))))


@pytest.fixture
def nvidia(monkeypatch, tmp_path):
    """A GPU of three multiprocessors, CuPy, and a CUDA toolkit, none of which is here; the kernels made."""
    made = []
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "curand_kernel.h").touch()
    cuda = types.SimpleNamespace(
        get_cuda_path=lambda: str(tmp_path),
        driver=types.SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=lambda *_: 2),
    )
    fake = types.SimpleNamespace(
        __file__=str(tmp_path / "cupy" / "__init__.py"),
        cuda=cuda,
        zeros=np.zeros,
        RawKernel=lambda *a, **k: made.append(RawKernel(*a, **k)) or made[-1],
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    properties = types.SimpleNamespace(multi_processor_count=3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("subject", ["uniform", "normal"])
def test_the_kernel_of_curand_s_device_interface(nvidia, subject, dtype):
    rival = contender("curand-device")
    assert rival.serves(FILLS[subject], dtype)
    assert not rival.serves(FILLS[subject], torch.float16)
    assert not rival.serves(FILLS["truncated_normal"], dtype)
    buffers = list(torch.empty(2, 2**14, dtype=dtype))
    prepared = rival.prepare(FILLS[subject], buffers)
    for buffer in (*buffers, buffers[0]):
        assert prepared.call() is buffer
        check(rival, FILLS[subject], buffer)
    assert (buffers[0] != buffers[1]).any()
    (kernel,) = nvidia
    ends = [begin + length for begin, length in kernel.begins]
    assert [0, *ends[:-1]] == [begin for begin, _ in kernel.begins]  # each call draws what follows the last
    assert all(end % 4 == 0 for end in ends)
    with pytest.raises(ValueError, match="no multiple"):
        rival.prepare(FILLS[subject], [torch.empty(6, dtype=dtype)]).call()


def test_a_gpu_that_rounds_to_bfloat16_by_more_than_one_instruction(nvidia, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert curand_device.dtypes() == (torch.float32,)


@pytest.mark.parametrize(
    ("lacking", "why"),
    [("cupy", "cupy is not installed"), ("header", "curand_kernel.h is not"), ("compiler", "no nvrtc here")],
)
def test_without_curand_s_device_interface(nvidia, monkeypatch, tmp_path, lacking, why):
    def fails(*_, **__):
        raise RuntimeError("no nvrtc here\nof many lines")

    monkeypatch.setattr(contenders, "DEVICE", "cuda")
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None if lacking == name else 1)
    monkeypatch.setattr(
        curand_device, "_folders", lambda cuda: [] if lacking == "header" else [tmp_path / "include"]
    )
    if lacking == "compiler":
        sys.modules["cupy"].RawKernel = fails
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **_: empty(*size))  # which is on no GPU
    unavailable = contenders._curand_device_unavailable
    unavailable.cache_clear()
    try:
        found = unavailable()
    finally:
        unavailable.cache_clear()
    assert why in found
    assert "\n" not in found


@pytest.mark.parametrize("where", ["wheel", "toolkit", "variable"])
def test_headers_are_found(monkeypatch, tmp_path, where):
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    folder = tmp_path / ("cu13/include" if where == "wheel" else "include")
    folder.mkdir(parents=True)
    wheels = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)] if where == "wheel" else [])
    monkeypatch.setattr(curand_device.importlib.util, "find_spec", lambda name: wheels)
    cuda = str(tmp_path) if where == "toolkit" else None
    if where == "variable":
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    if not curand_device.Path("/usr/local/cuda/include/curand_kernel.h").exists():
        with pytest.raises(RuntimeError, match="is not installed"):
            curand_device.headers(cuda)
    (folder / "curand_kernel.h").touch()
    assert curand_device.headers(cuda) == folder


def test_libcu_is_found_with_them(nvidia, tmp_path):
    cupy = sys.modules["cupy"]
    assert curand_device.includes(cupy) == [tmp_path / "include"]
    copied, toolkit = tmp_path / "cupy/_core/include/cupy/_cccl/libcudacxx", tmp_path / "include" / "cccl"
    for folder in (copied, toolkit):
        folder.mkdir(parents=True)
    assert curand_device.includes(cupy) == [tmp_path / "include", copied, toolkit]


def test_a_library_is_a_vendor_s(monkeypatch):
    monkeypatch.setattr(contenders, "DEVICE", "cuda")
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(zeros=np.zeros))
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: name)
    names = ("cupy-philox", "cupy-xorwow", "rocrand-philox", "rocrand-xorwow")
    for hip, here in ((None, names[:2]), ("7.0", names[2:])):
        monkeypatch.setattr(torch.version, "hip", hip)
        found = {name: contender(name).unavailable() for name in names}
        assert tuple(name for name, why in found.items() if why is None) == here
        assert all("GPUs" in why for why in found.values() if why)


class FlagGems(types.ModuleType):
    """What the contender asks of FlagGems, by PyTorch."""

    @staticmethod
    def uniform_(tensor, low, high):
        return tensor.uniform_(low, high)

    @staticmethod
    def normal_(tensor, mean, std):
        if tensor.dtype == torch.bfloat16:
            raise NotImplementedError("not in bfloat16")
        return tensor.normal_(mean, std)


def test_flag_gems_takes_part_where_it_is(monkeypatch):
    theirs, unavailable = contender("flag-gems"), contenders._flag_gems_unavailable
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    unavailable.cache_clear()
    assert theirs.unavailable() == "flag_gems is not installed"
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "flag_gems", FlagGems("flag_gems"))
    unavailable.cache_clear()
    try:
        assert theirs.unavailable() is None
        assert [theirs.serves(FILLS["normal"], dtype) for dtype in DTYPES] == [True, False, True]
        assert not theirs.serves(FILLS["truncated_normal"], torch.float32)
        for subject in ("uniform", "normal"):
            buffers = list(torch.empty(2, 2**14, device=device.DEVICE))
            prepared = theirs.prepare(FILLS[subject], buffers)
            for buffer in buffers:
                assert prepared.call() is buffer
                check(theirs, FILLS[subject], buffer)
    finally:
        unavailable.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", ["curand-device", "cupy-philox", "rocrand-philox", "flag-gems", "torch-func"]
)
def test_what_others_write_on_a_gpu(name):
    """Where it is installed; at a size whose last turn not every thread has."""
    theirs = contender(name)
    if (why := theirs.unavailable()) is not None:
        pytest.skip(why)
    for subject in ("uniform", "normal"):
        for dtype in DTYPES:
            if theirs.serves(FILLS[subject], dtype):
                buffers = list(torch.full((2, 2**20 + 512), math.nan, dtype=dtype, device=device.DEVICE))
                prepared = theirs.prepare(FILLS[subject], buffers)
                for _ in range(3):
                    check(theirs, FILLS[subject], prepared.call())


def test_memset_stores_16_bits_as_it_stores_32():
    buffers = list(torch.full((2, 6), math.nan, dtype=torch.bfloat16))
    prepared = contender("memset").prepare(FILLS["normal"], buffers)
    assert [prepared.call() is each for each in buffers] == [True, True]
    assert not torch.stack(buffers).view(torch.int16).any()


@pytest.mark.parametrize("subject", ["uniform", "normal"])
def test_cupy_draws_into_a_ring_of_its_own(monkeypatch, subject):
    cuda = types.SimpleNamespace(curand=types.SimpleNamespace(CURAND_RNG_PSEUDO_PHILOX4_32_10=161))
    random = types.SimpleNamespace(RandomState=Curand)
    fake = types.SimpleNamespace(cuda=cuda, random=random, zeros=np.zeros)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    buffers = list(torch.empty(3, 2**14))
    prepared = contender("cupy-philox").prepare(FILLS[subject], buffers)
    arrays = [prepared.call() for _ in range(5)]
    assert len({array.ctypes.data for array in arrays[:3]}) == 3
    check(contender("cupy-philox"), FILLS[subject], arrays[-1])
