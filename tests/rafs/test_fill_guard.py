"""FillGuard: no chunk is filled and evicted at once."""

from __future__ import annotations

import threading

from rafs.fill_guard import FillGuard


def test_what_is_being_filled_is_not_taken() -> None:
    guard = FillGuard()
    guard.begin(1)
    guard.begin(1)
    guard.begin(2)
    assert guard.take([0, 1, 2, 3]) == {0, 3}
    guard.give_back({0, 3})
    guard.end([1, 2])
    assert guard.take([1, 2]) == {2}
    guard.end([1])
    assert guard.take([1, 2]) == {1}  # 2 is taken already


def test_a_fill_waits_for_an_eviction() -> None:
    guard = FillGuard()
    assert guard.take([4, 5]) == {4, 5}
    begun = threading.Event()

    def fill() -> None:
        guard.begin(6)
        guard.begin(5)
        begun.set()

    filler = threading.Thread(target=fill)
    filler.start()
    guard.give_back({4})
    assert not begun.wait(0.02)
    guard.give_back({5})
    assert begun.wait(10)
    filler.join()
    assert guard.take([4, 5, 6]) == {4}


def test_many_threads_never_meet_in_one_chunk() -> None:
    guard, owner, wrong = FillGuard(), dict[int, str](), list[str]()
    lock = threading.Lock()

    def own(chunk: int, who: str) -> None:
        with lock:
            if owner.setdefault(chunk, who) != who:
                wrong.append(f"{who} meets {owner[chunk]} in {chunk}")

    def disown(chunk: int) -> None:
        with lock:
            owner.pop(chunk, None)

    def fill(number: int) -> None:
        for step in range(3000):
            chunk = (step * 7 + number) % 5
            guard.begin(chunk)
            own(chunk, "fill")
            guard.end([chunk])

    def evict() -> None:
        for step in range(3000):
            taken = guard.take({step % 5, (step + 1) % 5})
            for chunk in taken:
                disown(chunk)
                own(chunk, "evict")
                disown(chunk)
            guard.give_back(taken)

    threads = [threading.Thread(target=fill, args=(0,)), threading.Thread(target=evict)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
