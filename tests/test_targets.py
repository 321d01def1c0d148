"""Targets: what can be filled, what is refused, and that memory is written in place whatever holds it."""

import sys
import types

import numpy as np
import pytest
import torch

from tests.memory_cases import freed
from tritoninit import (
    Constant,
    Key,
    Normal,
    TargetError,
    Uniform,
    backends,
    eye_,
    orthogonal_,
    use_backend,
    zeros_,
)
from tritoninit.targets import as_array, as_target, device_type, dtype_name, write

KEY = Key(11)


class Sharded(torch.Tensor):
    """The mark of DTensor and its like: the values are in another tensor."""

    def __tensor_flatten__(self):
        return ["local"], None


def overlapping():
    return np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (3, 4), (4, 4))


class TestAccepted:
    def test_tensors_and_arrays_as_they_are(self):
        tensor, array = torch.empty(3), np.empty(3, np.float32)
        parameter = torch.nn.Parameter(torch.empty(3))
        assert as_target(tensor) is tensor
        assert as_target(array) is array
        assert as_target(parameter) is parameter

    @pytest.mark.parametrize(
        "make",
        [
            lambda: torch.empty(4, 6).T,
            lambda: torch.empty(4, 6)[::2, 1::3],
            lambda: torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last),
            lambda: torch.empty(5)[:0].expand(0),
            lambda: torch.empty(3, 1).expand(3, 1),
            lambda: torch.empty(0).expand(7, 0),
            lambda: torch.empty(20).as_strided((3, 3), (3, 2)),  # 0 2 4, 3 5 7, 6 8 10: interleaved, apart
            lambda: np.empty((4, 6), np.float32)[::-1, ::-2],
            lambda: np.empty((), np.float32),
            lambda: np.empty((5, 6), [("x", np.float32), ("y", np.int16)])["x"],
            lambda: np.ndarray((2, 5), np.float32, bytearray(200), 1, (33, 6)),
        ],
    )
    def test_any_layout_whose_elements_are_apart(self, make):
        target = make()
        filled = np.asarray(Normal()(target, key=KEY))
        assert np.array_equal(filled, Normal()(np.empty(filled.shape, np.float32), key=KEY))

    @pytest.mark.filterwarnings("ignore:the matrix subclass is not the recommended way")
    def test_matrix(self):
        """np.matrix has two dimensions whatever is done to it."""
        expected = Normal()(np.empty((3, 4), np.float32), key=KEY)
        matrix = Normal()(np.matrix(np.empty((3, 4), np.float32)), key=KEY)
        assert type(matrix) is np.matrix
        assert np.array_equal(matrix, expected)

    def test_memory_of_a_file(self, tmp_path):
        mapped = np.memmap(tmp_path / "weights", np.float32, "w+", shape=(3, 4))
        Normal()(mapped, key=KEY).flush()
        read = np.fromfile(tmp_path / "weights", np.float32).reshape(3, 4)
        assert np.array_equal(read, Normal()(np.empty((3, 4), np.float32), key=KEY))

    def test_unaligned_field_of_a_record_array(self):
        records = np.zeros(70000, np.dtype([("flag", np.int8), ("weight", np.float32)]))
        Normal()(records["weight"], key=KEY)
        assert np.array_equal(records["weight"], Normal()(np.empty(70000, np.float32), key=KEY))
        assert not records["flag"].any()

    def test_real_part_of_a_complex_tensor(self):
        z = torch.zeros(5, dtype=torch.complex64)
        Normal()(z.real, key=KEY)
        assert z.real.equal(Normal()(torch.empty(5), key=KEY))
        assert not z.imag.any()


class TestRefused:
    @pytest.mark.parametrize("bad", [None, 1.0, [1.0, 2.0], "weight", np.float32(1), object()])
    def test_no_tensor(self, bad):
        with pytest.raises(TypeError, match="expected a tensor or an array"):
            Uniform()(bad)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: torch.empty(2, device="meta"), "meta tensor"),
            (lambda: torch.nn.LazyLinear(3).weight, "lazy parameter"),
            (lambda: torch.empty(2).as_subclass(Sharded), "a Sharded holds other tensors"),
            (lambda: torch.eye(2).to_sparse(), "only strided"),
            (lambda: torch.eye(2).to_sparse_csr(), "only strided"),
            (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "negation"),
            (lambda: torch.empty(3).expand(2, 3), "more than one element"),
            # More addresses than there is memory to look at.
            (lambda: torch.empty(1).expand(2**40), "more than one element"),
            (lambda: torch.empty(2**18).as_strided((2**15, 2**15), (2, 3)), "more than one element"),
            (lambda: np.ndarray((2, 5), np.float32, bytearray(60), 0, (20, 7)), "more than one element"),
            (lambda: torch.empty(9).as_strided((3, 3), (2, 1)), "more than one element"),
            # 0 2 4 6, 3 5 7 9, 6 8 10 12: neighbours are apart.
            (lambda: torch.empty(20).as_strided((3, 4), (3, 2)), "more than one element"),
            (lambda: torch.empty(9).unfold(0, 3, 1), "more than one element"),
            (overlapping, "more than one element"),
            (lambda: np.broadcast_to(np.zeros(3, np.float32), (2, 3)), "read-only"),
            (lambda: np.zeros(3, ">f4" if np.little_endian else "<f4"), "byte order"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
    def test_what_cannot_be_written(self, make, message):
        """As torch does for such tensors, ours raise a RuntimeError too."""
        state = torch.get_rng_state()
        for initialize in (Uniform(), zeros_, eye_, orthogonal_):
            with pytest.raises(TargetError, match=message) as caught:
                initialize(make())
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value, RuntimeError)
        assert torch.get_rng_state().equal(state)

    def test_inference_tensor_outside_inference_mode(self):
        with torch.inference_mode():
            tensor = torch.full((3, 3), torch.nan)
        for initialize in (Uniform(), zeros_, eye_, orthogonal_):
            with pytest.raises(TargetError, match="inference"):
                initialize(tensor)
        assert tensor.isnan().all()
        with torch.inference_mode():
            assert not Uniform()(tensor).isnan().any()


class Exporter:
    """An array of some library, which says of it what NumPy does."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Unversioned(Exporter):
    """As it was before DLPack 1.0."""

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()


def read_only(array):
    array.flags.writeable = False
    return array


class TestOtherLibraries:
    @pytest.mark.parametrize("kind", [Exporter, Unversioned])
    @pytest.mark.parametrize("make", [lambda n: np.zeros(n, np.float32), torch.zeros])
    def test_their_arrays_are_filled(self, kind, make):
        array = make(12)
        Normal()(kind(array), key=KEY)
        assert np.array_equal(np.asarray(array), Normal()(np.empty(12, np.float32), key=KEY))

    @pytest.mark.parametrize("kind", [Exporter, Unversioned])
    def test_read_only(self, kind):
        array = read_only(np.zeros((3, 3), np.float32))
        for initialize in (Uniform(), zeros_, eye_, orthogonal_):
            with pytest.raises(TargetError, match=r"read-?only"):
                initialize(kind(array))
        assert not array.any()

    @pytest.mark.parametrize(("library", "name"), [("jax", "Array"), ("tensorflow", "Tensor")])
    def test_immutable_by_contract(self, monkeypatch, library, name):
        """Whatever they tell of their memory; other types of theirs are asked for themselves."""
        immutable = type(name, (Exporter,), {})
        monkeypatch.setitem(sys.modules, library, types.SimpleNamespace(**{name: immutable}))
        array = np.zeros((3, 3), np.float32)
        with pytest.raises(TargetError, match=f"arrays of {library} are immutable"):
            Uniform()(immutable(array))
        assert not array.any()
        zeros_(Exporter(array))

    def test_what_an_exporter_refuses(self):
        with pytest.raises(TargetError, match="require gradient"):
            Uniform()(Exporter(torch.zeros(3, requires_grad=True)))

    def test_no_memory_behind_it(self):
        with pytest.raises(TargetError, match="no memory at an address"):
            Uniform()(Exporter(freed(torch.zeros(3))))

    @pytest.mark.parametrize("array", [np.zeros(3, "U4"), np.zeros(3, "S4"), np.zeros(3, "M8[s]")])
    def test_arrays_of_no_numbers(self, array):
        """A constant as text would be cut to the width of the elements."""
        with pytest.raises(TargetError, match="holds no numbers"):
            Constant(10.5)(array)


class TestNames:
    @pytest.mark.parametrize("name", ["float32", "float16", "float64", "int8", "complex64"])
    def test_torch_and_numpy_agree(self, name):
        assert dtype_name(torch.empty(1, dtype=getattr(torch, name))) == name
        assert dtype_name(np.empty(1, name)) == name

    def test_arrays_live_on_the_cpu(self):
        assert device_type(np.empty(1)) == device_type(torch.empty(1)) == "cpu"


class TestArrays:
    def test_view_shares_memory(self):
        parameter = torch.nn.Parameter(torch.zeros(4))
        as_array(parameter)[:] = 3
        assert (parameter == 3).all()

    def test_bfloat16_is_its_patterns(self):
        tensor = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
        assert as_array(tensor).tolist() == [0x3F80, 0xC000]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize(
        "layout", [lambda x: x, lambda x: x.T, lambda x: x[1:, ::2], lambda x: x[0, 0], lambda x: x[:0]]
    )
    def test_strides(self, dtype, layout):
        tensor = layout(torch.arange(42).view(6, 7).to(dtype))
        array = as_array(tensor)
        bits = tensor.view(torch.int32 if dtype == torch.float32 else torch.int16)
        assert array.shape == tuple(tensor.shape)
        assert array.view(np.int32 if dtype == torch.float32 else np.int16).tolist() == bits.tolist()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("backend", [b.name for b in backends() if b.available and "cpu" in b.devices])
    def test_a_filled_tensor_s_storage_can_be_resized(self, backend, dtype):
        """Tensor.numpy() would forbid it for good, and frameworks free parameters' memory that way."""
        tensor = torch.empty(4, 5, dtype=dtype)
        with use_backend(backend):
            Normal()(tensor)
            Constant(1.0)(tensor)
        assert tensor.untyped_storage().resizable()
        tensor.untyped_storage().resize_(0)

    def test_an_array_keeps_its_tensor_alive(self):
        array = as_array(torch.full((1000,), 3.0))
        torch.full((1000,), 5.0)
        assert (array == 3).all()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int16"])
    def test_write_rounds_to_nearest_even(self, dtype):
        """1 + 2**-8 and 1 + 3 * 2**-8 lie halfway between bfloat16 numbers; with 2**-11, float16 ones."""
        values = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11])
        expected = {
            "bfloat16": [1.0, 1 + 2.0**-6, 1.0, 1.0],
            "float16": [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1.0, 1 + 2.0**-9],
            "int16": [1.0] * 4,
        }.get(dtype, values.tolist())
        tensor = torch.empty(4, dtype=getattr(torch, dtype))
        write(tensor, values)
        assert tensor.tolist() == expected
        if dtype != "bfloat16":
            array = np.empty(4, dtype)
            write(array, values)
            assert array.tolist() == expected

    def test_write_into_a_dtype_that_torch_lacks(self):
        array = np.empty((2, 3), np.longdouble)
        write(array, torch.eye(2, 3))
        assert array.tolist() == [[1, 0, 0], [0, 1, 0]]
