"""The eviction policy: against a model that is written for reading, and what it is for."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from rafs.eviction import EvictionPolicy, Fifo

SIZES = st.integers(1, 50)


class Cache:
    """Chunks by key, with their sizes and visited bits; what readers and the governor do."""

    def __init__(self, policy: EvictionPolicy, quota: int) -> None:
        self.policy, self.quota = policy, quota
        self.sizes: dict[int, int] = {}
        self.visited: set[int] = set()
        self.misses = 0

    def look(self, key: int) -> bool | None:
        if key not in self.sizes:
            return None
        was_read = key in self.visited
        self.visited.discard(key)
        return was_read

    def read(self, key: int, size: int = 1, times: int = 1) -> None:
        if key not in self.sizes:
            self.misses += 1
            excess = sum(self.sizes.values()) + size - self.quota
            if excess > 0:
                for victim, _ in self.policy.victims(excess, self.look):
                    del self.sizes[victim]
                    self.visited.discard(victim)
            self.sizes[key] = size
            self.policy.add(key, size)
        for _ in range(times):
            self.visited.add(key)


class Model:
    """The same rules with plain lists: the module's picture, line by line."""

    def __init__(self, fresh_bytes: int, max_ghosts: int) -> None:
        self.fresh: list[tuple[int, int]] = []
        self.probation: list[tuple[int, int]] = []
        self.main: list[tuple[int, int]] = []
        self.ghosts: list[int] = []
        self.fresh_bytes, self.max_ghosts = fresh_bytes, max_ghosts

    def add(self, key: int, size: int) -> None:
        if key in self.ghosts:
            self.ghosts.remove(key)
            self.main.append((key, size))
        else:
            self.fresh.append((key, size))

    def victims(self, wanted: int, look: Callable[[int], bool | None]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        chances = len(self.fresh + self.probation + self.main)
        while sum(size for _, size in found) < wanted and self.fresh + self.probation + self.main:
            total = sum(size for _, size in self.fresh + self.probation + self.main)
            share = max(total // 10, min(self.fresh_bytes, total // 2))
            while sum(size for _, size in self.fresh) > share // 2:
                entry = self.fresh.pop(0)
                if look(entry[0]) is not None:
                    self.probation.append(entry)
            if not self.fresh + self.probation + self.main:
                break
            # what was gone has left with its bytes: the share is that of what is left
            total = sum(size for _, size in self.fresh + self.probation + self.main)
            share = max(total // 10, min(self.fresh_bytes, total // 2))
            small = sum(size for _, size in self.fresh + self.probation)
            if self.probation and (small >= share or not self.main):
                queue = self.probation
            else:
                queue = self.main or self.probation or self.fresh
            key, size = queue.pop(0)
            was_read = look(key)
            if was_read is None:
                continue
            if was_read and chances and queue is not self.fresh:
                chances -= 1
                self.main.append((key, size))
            else:
                found.append((key, size))
                if queue is self.probation:
                    self.ghosts = [*(ghost for ghost in self.ghosts if ghost != key), key]
                    self.ghosts = self.ghosts[-self.max_ghosts :]
        return found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), SIZES),
        st.tuples(st.just("visit"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("lose"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("evict"), st.just(0), st.integers(1, 200)),
    ),
    max_size=80,
)


@given(STEPS, st.integers(0, 100), st.integers(1, 5))
def test_it_does_what_the_model_does(
    steps: list[tuple[str, int, int]], fresh_bytes: int, max_ghosts: int
) -> None:
    policy = EvictionPolicy(fresh_bytes=fresh_bytes, max_ghosts=max_ghosts)
    model = Model(fresh_bytes, max_ghosts)
    sizes: dict[int, int] = {}
    visited: set[int] = set()

    def looking(bits: set[int]) -> Callable[[int], bool | None]:
        def look(key: int) -> bool | None:
            if key not in sizes:
                return None
            was_read = key in bits
            bits.discard(key)
            return was_read

        return look

    for step, key, size in steps:
        if step == "add" and key not in sizes:
            sizes[key] = size
            policy.add(key, size)
            model.add(key, size)
        elif step == "visit":
            visited.add(key)
        elif step == "lose":
            sizes.pop(key, None)
        elif step == "evict":
            bits = set(visited)
            victims = policy.victims(size, looking(visited))
            assert victims == model.victims(size, looking(bits))
            assert visited == bits
            keys = [key for key, _ in victims]
            assert len(keys) == len(set(keys)) and sizes.keys() >= set(keys)
            freed = sum(size for _, size in victims)
            assert freed < size + 50 and (freed >= size or sizes.keys() == set(keys))
            for key in keys:
                del sizes[key]
        assert policy.bytes == sum(size for _, size in model.fresh + model.probation + model.main)
        assert len(policy) == len(model.fresh + model.probation + model.main)


@given(st.lists(st.one_of(SIZES, st.none()), max_size=5000))
def test_a_fifo_is_first_in_first_out(steps: list[int | None]) -> None:
    fifo, model = Fifo(), list[tuple[int, int]]()
    for key, size in enumerate(steps):
        if size is not None:
            fifo.push(key, size)
            model.append((key, size))
        elif model:
            assert fifo.pop() == model.pop(0)
        assert (len(fifo), fifo.bytes) == (len(model), sum(size for _, size in model))


def test_a_long_fifo_gives_back_what_it_used() -> None:
    fifo = Fifo()
    for key in range(10_000):
        fifo.push(key, 2)
        if key >= 100:
            assert fifo.pop() == (key - 100, 2)
    assert len(fifo) == 100 and len(fifo._keys) < 2500


def test_a_scan_leaves_what_is_read_again_and_again() -> None:
    """A working set of half the cache, with scans over ten times the cache in between."""
    cache = Cache(EvictionPolicy(fresh_bytes=0), quota=1000)
    for _ in range(5):
        for key in range(500):
            cache.read(key)
    for scan in range(3):
        for key in range(10_000):
            cache.read(1_000_000 * (scan + 1) + key, times=8)
            if key % 10 == 0:
                cache.read((key // 10) % 500)
        before = cache.misses
        for key in range(500):
            cache.read(key)
        assert cache.misses - before <= 25
        assert sum(cache.sizes.values()) <= 1000


def test_a_new_working_set_takes_over() -> None:
    rng = random.Random(1)
    cache = Cache(EvictionPolicy(fresh_bytes=0), quota=1000)
    for base in (0, 10_000):
        for _ in range(20_000):
            cache.read(base + rng.randrange(800))
        before = cache.misses
        for key in range(800):
            cache.read(base + key)
        assert cache.misses - before < 80


def test_a_new_chunk_stays_while_there_are_others() -> None:
    """Whoever waits for a chunk must find it, in however small a cache."""
    cache = Cache(EvictionPolicy(), quota=8)
    for key in range(1000):
        cache.read(key)
        assert {key, key - 1, key - 2} & cache.sizes.keys() == {k for k in (key, key - 1, key - 2) if k >= 0}


def test_everything_can_be_had() -> None:
    policy = EvictionPolicy()
    for key in range(10):
        policy.add(key, 5)
        policy.add_old(key + 10, 5)
    assert sorted(key for key, _ in policy.victims(1 << 40, lambda key: True)) == list(range(20))
    assert len(policy) == 0 and policy.bytes == 0 and policy.victims(1, lambda key: True) == []
