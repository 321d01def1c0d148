"""Torch's, NumPy's and Python's generators in a block: seeded from its key, put back at its end."""

import asyncio
import contextvars
import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit
from tests.interception.cases import nans, ours, parameter
from tritoninit import Key, Normal
from tritoninit.interception import generators
from tritoninit.interception.entry import intercept

LEGACY = np.random.mtrand  # the functions of numpy.random, which lint would have nobody call


def states():
    return torch.get_rng_state().tolist(), repr(LEGACY.get_state(legacy=False)), random.getstate()


def draws():
    """Something of every generator, each of which keeps more than one number's worth."""
    return torch.randn(3).tolist(), LEGACY.randn(3).tolist(), random.gauss(0, 1), torch.rand(1).item()


def holding(seed):
    with intercept(seed=seed) as intercepted:
        yield intercepted


def _fail(bits):
    raise OSError("no device")


@pytest.fixture(autouse=True)
def _as_before():
    """Each test may count on generators that are its own."""
    before = torch.get_rng_state(), LEGACY.get_state(legacy=False), random.getstate()
    yield
    torch.set_rng_state(before[0])
    LEGACY.set_state(before[1])
    random.setstate(before[2])


PINNED = {"torch": 4695698299617815633, "numpy": 1426214453, "random": 3686596791}


class TestSeeds:
    def test_the_seed_governs(self):
        drawn = []
        for seed in (0, 0, 1, 2**32, -1):
            torch.rand(2), LEGACY.rand(2), random.random()
            with intercept(seed=seed):
                drawn.append(draws())
        assert drawn[0] == drawn[1]
        for first, *others in zip(*drawn[1:], strict=True):
            assert len({str(each) for each in (first, *others)}) == 4

    def test_what_they_draw_is_pinned(self):
        """A release that draws other numbers would build other models from the same seed."""
        with intercept(seed=0):
            assert torch.default_generator.initial_seed() == generators._bits(Key(0).fold_in("torch"))
            assert LEGACY.randint(2**31) == PINNED["numpy"]
            assert random.getrandbits(32) == PINNED["random"]
        assert generators._bits(Key(0).fold_in("torch")) == PINNED["torch"]

    def test_without_a_seed_the_key_is_drawn(self):
        def built():
            torch.manual_seed(7)
            with intercept() as intercepted:
                return intercepted.key, draws(), torch.rand(1).item()

        assert built() == built()

    def test_keys_and_fills_inside(self):
        """A key from the default generator is the block's; a generator of one's own stays as it is."""
        found = []
        for _ in range(2):
            with intercept(seed=3):
                key = Key.from_generator()
                own = tritoninit.normal_(nans(3), generator=torch.Generator().manual_seed(9))
                found.append((key, tritoninit.normal_(nans(3)).tolist(), own.tolist()))
        assert found[0] == found[1]
        assert own.equal(tritoninit.normal_(nans(3), generator=torch.Generator().manual_seed(9)))

    def test_manual_seed_inside(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        with intercept(seed=0):
            torch.manual_seed(5)
            assert torch.rand(3).equal(expected)

    def test_what_is_served_draws_from_none(self):
        with intercept(seed=0):
            before = states()
            nn.Linear(3, 4), nn.init.orthogonal_(parameter(3, 3)), parameter(3).data.normal_()
            assert states() == before


class TestPutBack:
    def test_at_the_end(self):
        LEGACY.randn(), random.gauss(0, 1)  # of two normals, the second waits
        before = states()
        with intercept(seed=0):
            draws()
        assert states() == before

    def test_when_the_block_raises(self):
        before = states()
        with pytest.raises(KeyError), intercept(seed=0):  # noqa: PT012
            draws()
            raise KeyError
        assert states() == before

    def test_when_it_cannot_be_entered(self):
        before = states()
        with pytest.raises(TypeError), intercept(seed=1.5):
            pass
        assert states() == before

    def test_when_generators_cannot_be_seeded(self, monkeypatch):
        """What was seeded until then is put back, and nobody is served afterwards."""
        before = states()
        with monkeypatch.context() as patched, pytest.raises(OSError, match="no device"):  # noqa: PT012
            patched.setitem(generators._SOURCES, "last", SimpleNamespace(get=list, set=len, seed=_fail))
            with intercept(seed=0):
                pass
        assert states() == before
        weight = nn.init.normal_(parameter(3))
        torch.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
        assert weight.equal(torch.empty(3).normal_())

    def test_nested(self):
        with intercept(seed=1):
            expected = [draws() for _ in range(2)]
        with intercept(seed=2):
            inner = draws()
        before = states()
        with intercept(seed=1):
            assert draws() == expected[0]
            with intercept(seed=2):
                assert draws() == inner
            assert draws() == expected[1]
        assert states() == before

    @pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    def test_left_out_of_order(self, order):
        """Whoever is innermost goes on where it was, and the last one leaves all as it was."""
        alone = []
        for seed in range(3):
            with intercept(seed=seed):
                alone.append([draws() for _ in range(4)])
        before = states()
        blocks, drawn = [holding(seed) for seed in range(3)], [0] * 3
        for seed, block in enumerate(blocks):
            next(block)
            assert draws() == alone[seed][0]
            drawn[seed] += 1
        left = {0, 1, 2}
        for leaving in order:
            blocks[leaving].close()
            left.remove(leaving)
            if left:
                inner = max(left)
                assert draws() == alone[inner][drawn[inner]]
                drawn[inner] += 1
        assert states() == before

    @pytest.mark.parametrize("kind", [np.random.PCG64, np.random.Philox, np.random.MT19937])
    def test_another_bit_generator_of_numpy(self, kind):
        """numpy.random's functions may have any: they draw the same in a block, and get theirs back."""
        own, kept = kind(3), LEGACY.get_bit_generator()
        with intercept(seed=0):
            expected = draws()
        LEGACY.set_bit_generator(own)
        try:
            LEGACY.randn()
            before = states()
            with intercept(seed=0):
                assert draws() == expected
            assert states() == before
            assert LEGACY.get_bit_generator() is own
        finally:
            LEGACY.set_bit_generator(kept)

    def test_a_bit_generator_set_inside(self):
        kept = LEGACY.get_bit_generator()
        with intercept(seed=0):
            LEGACY.set_bit_generator(np.random.PCG64(3))
        assert LEGACY.get_bit_generator() is kept


class Device(SimpleNamespace):
    """A device module such as torch.cuda, with two devices of CPU generators."""

    def __init__(self):
        super().__init__(default_generators=(), _lazy_seed_tracker=torch._utils._LazySeedTracker())

    def is_initialized(self):
        return bool(self.default_generators)

    def initialize(self):
        self.default_generators = tuple(torch.Generator() for _ in range(2))
        for call in self._lazy_seed_tracker.get_calls():
            if call:
                call[0]()

    def seed(self, seed):
        """As manual_seed_all: at once, or when the devices are initialised."""
        generators._seed_all(self, seed)
        if not self.is_initialized():
            self._lazy_seed_tracker.queue_seed_all(lambda: generators._seed_all(self, seed), [])

    def draw(self):
        return [torch.rand(2, generator=each).tolist() for each in self.default_generators]


@pytest.fixture
def device(monkeypatch):
    module = Device()
    monkeypatch.setattr(generators, "accelerator", lambda: module)
    return module


class TestDevices:
    def test_initialised(self, device):
        device.initialize()
        expected = torch.Generator().get_state()
        drawn = []
        for _ in range(2):
            with intercept(seed=0):
                drawn.append(device.draw())
            assert all(each.get_state().equal(expected) for each in device.default_generators)
        assert drawn[0] == drawn[1]

    @pytest.mark.parametrize("seed", [None, 5])
    def test_never_initialised(self, device, seed):
        """It stays so, and its later seed is what it would have been."""
        if seed is not None:
            device.seed(seed)
        with intercept(seed=0):
            assert not device.is_initialized()
        device.initialize()
        expected = torch.Generator() if seed is None else torch.Generator().manual_seed(seed)
        assert all(each.get_state().equal(expected.get_state()) for each in device.default_generators)

    @pytest.mark.parametrize("seed", [None, 5])
    def test_initialised_inside(self, seed, monkeypatch):
        drawn = []
        for _ in range(2):
            device = Device()
            monkeypatch.setattr(generators, "accelerator", lambda device=device: device)
            if seed is not None:
                device.seed(seed)
            with intercept(seed=0):
                device.initialize()
                drawn.append(device.draw())
            expected = torch.Generator() if seed is None else torch.Generator().manual_seed(seed)
            assert all(each.get_state().equal(expected.get_state()) for each in device.default_generators)
        assert drawn[0] == drawn[1]

    def test_a_draw_of_theirs_is_one_of_torchs(self, device):
        device.initialize()
        with intercept(seed=0) as intercepted:
            own = nn.Parameter(torch.rand(3, generator=device.default_generators[1]))
        assert [each.backend for each in intercepted.assignments(nn.ParameterList([own]))] == ["torch"]

    def test_one_generator_without_a_name(self):
        """As MPS has it."""
        own = torch.Generator()
        module = SimpleNamespace(
            get_rng_state=own.get_state, set_rng_state=own.set_state, manual_seed=own.manual_seed
        )
        (found,) = generators.device_generators(module)
        found.manual_seed(3)
        assert own.initial_seed() == 3
        found.set_state(torch.Generator().get_state())
        assert found.get_state().equal(own.get_state())

    @pytest.mark.gpu
    def test_gpu(self):
        before = torch.cuda.get_rng_state()
        drawn = []
        for _ in range(2):
            with intercept(seed=0) as intercepted:
                model = nn.ParameterList([nn.Parameter(torch.randn(9, device="cuda"))])
                drawn.append(model[0].tolist())
            assert torch.cuda.get_rng_state().equal(before)
        assert drawn[0] == drawn[1]
        assert [each.backend for each in intercepted.assignments(model)] == ["torch"]


def build():
    return nn.ParameterList([nn.Linear(3, 4).weight, nn.Parameter(torch.randn(3)), nn.Linear(2, 2).bias])


async def slowly(seed, steps=3):
    """Build layer by layer, while other tasks take their turns."""
    with intercept(seed=seed) as intercepted:
        models = []
        for _ in range(steps):
            models.append(build())
            await asyncio.sleep(0)
        model = nn.ModuleList(models)
    return model, intercepted


def equal(first, second):
    return all(map(torch.equal, first.parameters(), second.parameters()))


class TestTasks:
    def test_each_is_served_by_its_own(self):
        async def together():
            return await asyncio.gather(*(slowly(seed, steps) for seed, steps in enumerate((3, 1, 4, 2))))

        before = states()
        for seed, (model, intercepted) in enumerate(asyncio.run(together())):
            alone, _ = asyncio.run(slowly(seed, len(model)))
            assert equal(model, alone)
            assert intercepted.key == Key(seed)
            assert len(intercepted.assignments(model)) == len(list(model.parameters()))
        assert states() == before

    def test_a_task_without_one(self):
        """Torch's own numbers, from torch's own generators; what others have pending is there to be read."""
        weight = parameter(4)

        async def inside():
            with intercept(seed=0):
                nn.init.normal_(weight)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        async def outside():
            seen = weight.detach().clone()
            return seen, torch.randn(3), nn.init.normal_(torch.empty(3))

        async def together():
            return (await asyncio.gather(inside(), outside()))[1]

        torch.manual_seed(2)
        expected = torch.randn(3), nn.init.normal_(torch.empty(3))
        torch.manual_seed(2)
        seen, *got = asyncio.run(together())
        assert seen.equal(ours("normal_", (4,), ()))
        assert all(map(torch.equal, got, expected))
        after = torch.rand(2)
        torch.manual_seed(2)
        torch.randn(3), nn.init.normal_(torch.empty(3))
        assert after.equal(torch.rand(2))

    def test_tasks_made_inside_belong_to_it(self):
        async def fill(weight):
            await asyncio.sleep(0)
            nn.init.normal_(weight)

        async def together():
            weights = [parameter(4) for _ in range(3)]
            with intercept(seed=0) as intercepted:
                await asyncio.gather(*map(fill, weights))
            late = parameter(4)
            await asyncio.create_task(fill(late))
            return weights, late, intercepted

        weights, late, intercepted = asyncio.run(together())
        for number, weight in enumerate(weights):
            assert weight.equal(ours("normal_", (4,), (), number=number))
        assert not intercepted.assignments(nn.ParameterList([late]))

    def test_a_task_that_outlives_the_block(self):
        async def late(weight, left):
            await left.wait()
            nn.init.normal_(weight)

        async def together():
            weight, left = parameter(4), asyncio.Event()
            with intercept(seed=0) as intercepted:
                task = asyncio.create_task(late(weight, left))
                await asyncio.sleep(0)
            left.set()
            await task
            return weight, intercepted

        torch.manual_seed(1)
        weight, intercepted = asyncio.run(together())
        torch.manual_seed(1)
        assert weight.equal(nn.init.normal_(torch.empty(4)))
        assert not intercepted.assignments(nn.ParameterList([weight]))

    def test_a_context_in_another_thread(self):
        """As asyncio.to_thread has it: plain torch, since nobody sees there that a fill is pending."""
        weight = parameter(4)
        with intercept(seed=0) as intercepted:
            thread = threading.Thread(
                target=contextvars.copy_context().run, args=(lambda: nn.init.normal_(weight),)
            )
            thread.start()
            thread.join()
            assert not intercepted.pending
        assert not weight.isnan().any()
        assert not intercepted.assignments(nn.ParameterList([weight]))


class TestThreads:
    def test_blocks_beside_each_other(self):
        """What torch draws is each block's own, however their calls fall."""
        built, meet = {}, threading.Barrier(2, timeout=60)

        def work(seed):
            with intercept(seed=seed):
                models = []
                for _ in range(20):
                    meet.wait()
                    models.append(nn.Parameter(torch.randn(3)))
                built[seed] = nn.ParameterList(models)

        before = states()
        threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert states() == before
        for seed in (0, 1):
            with intercept(seed=seed):
                alone = nn.ParameterList([nn.Parameter(torch.randn(3)) for _ in range(20)])
            assert equal(built[seed], alone)

    def test_a_key_drawn_beside_another_block(self):
        """Is drawn as if that were not there."""
        inside, done, keys = threading.Event(), threading.Event(), []

        def work():
            with intercept(seed=0):
                inside.set()
                done.wait(60)

        torch.manual_seed(4)
        expected = Key.from_generator()
        torch.manual_seed(4)
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(60)
        with intercept() as intercepted:
            keys.append(intercepted.key)
        done.set()
        thread.join()
        assert keys == [expected]


def test_fills_of_this_library_count_on_keys_alone():
    with intercept(seed=0):
        torch.rand(5)
        weight = nn.init.normal_(parameter(3))
    assert weight.equal(Normal()(nans(3), key=Key(0).fold_in(0)))
