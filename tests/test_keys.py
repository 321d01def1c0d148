"""Keys: the derivation of streams from names, their range, and where they come from when nobody gives one."""

import hashlib
import pickle
import threading

import numpy as np
import pytest
import torch

from tritoninit import Key


def expected_stream(stream, tail):
    """What the docstring of ``Key.fold_in`` specifies, from hashlib and integers alone."""
    digest = hashlib.blake2b(stream.to_bytes(8, "little") + tail, digest_size=8).digest()
    return sum(byte << 8 * place for place, byte in enumerate(digest))


class TestFoldIn:
    @pytest.mark.parametrize("stream", [0, 1, 2**32, 2**64 - 1])
    @pytest.mark.parametrize("name", ["", "layers.0.weight", "größe", "重み", "a" * 1000])
    def test_name_is_hashed_as_specified(self, stream, name):
        assert Key(5, stream).fold_in(name) == Key(5, expected_stream(stream, b"s" + name.encode("utf-8")))

    @pytest.mark.parametrize("stream", [0, 2**63])
    @pytest.mark.parametrize("number", [0, 1, -1, 2**63, 2**64 - 1, -(2**63)])
    def test_number_is_hashed_as_specified(self, stream, number):
        tail = b"i" + (number % 2**64).to_bytes(8, "little")
        assert Key(5, stream).fold_in(number) == Key(5, expected_stream(stream, tail))

    def test_pinned(self):
        """Weights of released models hang on these numbers."""
        assert Key(0).fold_in("layers.0.weight") == Key(0, 14262892534632057687)
        assert Key(0).fold_in(0) == Key(0, 1047935533549840783)
        assert Key(0).fold_in("a").fold_in(1) == Key(0, 8229898740519055115)

    def test_seed_is_kept(self):
        assert Key(123).fold_in("x").seed == 123

    def test_stream_does_not_depend_on_seed(self):
        assert Key(1).fold_in("x").stream == Key(2).fold_in("x").stream

    def test_numbers_differ_from_their_spelling(self):
        assert Key(0).fold_in(1) != Key(0).fold_in("1")

    def test_order_and_grouping_matter(self):
        one = Key(0).fold_in("a").fold_in("b")
        assert one != Key(0).fold_in("b").fold_in("a")
        assert one != Key(0).fold_in("ab")

    def test_index_types_fold_as_integers(self):
        assert Key(0).fold_in(np.int64(7)) == Key(0).fold_in(torch.tensor(7)) == Key(0).fold_in(7)

    def test_no_collision_among_a_large_models_names(self):
        names = [f"layers.{i}.{part}" for i in range(1000) for part in ("weight", "bias", "attn.weight")]
        assert len({Key(0).fold_in(name).stream for name in names}) == len(names)

    @pytest.mark.parametrize("bad", [True, 1.0, None, b"x", ("a",)])
    def test_other_types_are_refused(self, bad):
        with pytest.raises(TypeError, match="fold_in takes an integer or a string"):
            Key(0).fold_in(bad)


class TestRange:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (0, 0),
            (2**64 - 1, 2**64 - 1),
            (-1, 2**64 - 1),
            (-(2**63), 2**63),
            (np.uint64(2**64 - 1), 2**64 - 1),
        ],
    )
    def test_64_bits(self, given, kept):
        assert (Key(given).seed, Key(0, given).stream) == (kept, kept)
        assert type(Key(given).seed) is int

    @pytest.mark.parametrize("bad", [2**64, -(2**63) - 1, 10**30])
    def test_more_bits_are_refused(self, bad):
        with pytest.raises(ValueError, match="seed must fit 64 bits"):
            Key(bad)
        with pytest.raises(ValueError, match="stream must fit 64 bits"):
            Key(0, bad)

    @pytest.mark.parametrize("bad", [True, 0.0, "0", None, np.bool_(True)])
    def test_no_integer_is_refused(self, bad):
        with pytest.raises(TypeError, match="seed must be an integer"):
            Key(bad)
        with pytest.raises(TypeError, match="stream must be an integer"):
            Key(0, bad)


class TestValue:
    def test_equality_and_hash(self):
        assert Key(-1, 3) == Key(2**64 - 1, 3)
        assert hash(Key(-1, 3)) == hash(Key(2**64 - 1, 3))
        assert len({Key(0), Key(0, 0), Key(0, 1), Key(1)}) == 3

    def test_repr_and_pickle_give_it_back(self):
        key = Key(3).fold_in("x")
        assert eval(repr(key)) == key
        assert pickle.loads(pickle.dumps(key)) == key

    def test_frozen(self):
        with pytest.raises(AttributeError):
            Key(0).seed = 1


class TestFromGenerator:
    def test_the_default_generator_governs(self):
        torch.manual_seed(7)
        first, second = Key.from_generator(), Key.from_generator()
        torch.manual_seed(7)
        assert Key.from_generator() == first
        assert Key.from_generator() == second != first

    def test_a_generator_of_its_own(self):
        before = torch.get_rng_state()
        one = Key.from_generator(torch.Generator().manual_seed(7))
        assert torch.get_rng_state().equal(before)
        assert one == Key.from_generator(torch.Generator().manual_seed(7))
        assert one != Key.from_generator(torch.Generator().manual_seed(8))

    def test_all_64_bits_are_drawn(self):
        """In 64 draws, a bit that can take both values stays constant with probability 2**-63."""
        generator = torch.Generator().manual_seed(0)
        seeds = [Key.from_generator(generator).seed for _ in range(64)]
        for bit in range(64):
            assert {seed >> bit & 1 for seed in seeds} == {0, 1}
        assert all(Key.from_generator(generator).stream == 0 for _ in range(4))

    @pytest.mark.parametrize("default", ["meta", "cpu"])
    def test_under_a_default_device(self, default):
        torch.manual_seed(7)
        expected = Key.from_generator()
        torch.manual_seed(7)
        with torch.device(default):
            assert Key.from_generator() == expected

    def test_within_torch_func_and_inference_mode(self):
        torch.manual_seed(7)
        expected = Key.from_generator()
        found = []

        def drawing(x):
            torch.manual_seed(7)
            found.append(Key.from_generator())
            return x.sum()

        torch.func.grad(drawing)(torch.ones(3))
        with torch.inference_mode():
            drawing(torch.ones(3))
        thread = threading.Thread(target=drawing, args=(torch.ones(3),))
        thread.start()
        thread.join()
        assert found == [expected] * 3

    def test_no_generator_is_refused(self):
        with pytest.raises(TypeError, match="Generator"):
            Key.from_generator(42)


class TestSplit:
    def test_numbered_children(self):
        key = Key(5, 9)
        assert key.split() == (key.fold_in(0), key.fold_in(1))
        assert key.split(4)[:2] == key.split()
        assert len(set(Key(0).split(1000))) == 1000
        assert Key(0).split(0) == ()
        assert Key(0).split(np.int64(2)) == Key(0).split()

    @pytest.mark.parametrize("bad", [True, 2.5, "2", None])
    def test_other_types(self, bad):
        with pytest.raises(TypeError):
            Key(0).split(bad)

    def test_negative(self):
        with pytest.raises(ValueError, match="negative"):
            Key(0).split(-1)


def test_from_torch_is_from_generator():
    keys = [make(torch.Generator().manual_seed(3)) for make in (Key.from_torch, Key.from_generator)]
    assert keys[0] == keys[1]
    torch.manual_seed(4)
    first = Key.from_torch()
    assert first != Key.from_torch()
