"""That the comparison notices errors: put into compiled code by hand, and at random."""

from __future__ import annotations

import pytest
from emulated_cases import emulated
from kernel_cases import assert_fill_matches, contiguous, make_draw
from mutants import QUICK, SLOW, Mutant, other_last_bit, random_mutations, reason
from triton_at_hand import PINNED

from tritoninit.kernels import stream

# Their edits name places in the code.
pinned = pytest.mark.skipif(not PINNED, reason="mutants are of what the pinned Triton compiles to")


@pinned
@pytest.mark.parametrize("mutant", QUICK, ids=str)
def test_an_error_is_noticed(mutant: Mutant) -> None:
    why = mutant.noticed()
    assert why
    assert why.startswith("Undecoded") == mutant.refused, why


@pytest.mark.slow
@pinned
@pytest.mark.parametrize("mutant", SLOW, ids=str)
def test_more_errors_are_noticed(mutant: Mutant) -> None:
    test_an_error_is_noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [*stream.LOG, stream.MINUS_TWO_LN2 / 2**23, *stream.SINE])
def test_the_last_bit_of_every_coefficient_is_noticed(coefficient):
    """In four million standard normals."""
    with emulated("ptx", "sm_90", edit=other_last_bit(coefficient)) as gpu:
        case = contiguous(2**22), "float32", make_draw("standard", "float32", 0, (1,))
        with pytest.raises(AssertionError, match="differ"):
            assert_fill_matches(gpu.fill, *case)
    assert gpu.edits == 1


@pytest.mark.slow
@pytest.mark.parametrize(("fill", "dtype"), [("standard", "float32"), ("central", "bfloat16")])
@pytest.mark.parametrize(("code", "arch"), [("ptx", "sm_90"), ("sass", "sm_90"), ("gcn", "gfx942")])
def test_random_errors_are_noticed(code, arch, fill, dtype):
    """Of the pinned Triton's code 36 to 44 of 45, of all six 244 of 270.

    The rest change nothing (a bit of a mask that is never set, a carry that nothing reads, a choice for NaN)
    or one value in hundreds of thousands. Another Triton's code has other instructions in these places.
    """
    texts: list[str] = []

    def keep(text: str) -> str:
        texts.append(text)
        return text

    with emulated(code, arch, edit=keep) as gpu:
        assert reason(gpu, fill, dtype) is None
    missed = []
    for what, changed in random_mutations(code, texts[0], 45, seed=1):
        with emulated(
            code, arch, edit=lambda text, changed=changed: changed if text == texts[0] else text
        ) as gpu:
            if reason(gpu, fill, dtype) is None:
                missed.append(what)
    assert len(missed) <= 10, missed
