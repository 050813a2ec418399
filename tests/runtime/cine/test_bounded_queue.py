"""Queues that never grow."""

import threading

import pytest

from samus_edge.runtime.cine.bounded_queue import BoundedQueue, QueueClosedError


def test_the_oldest_is_dropped() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2, drops_oldest=True)
    assert [queue.put(number) for number in range(5)] == [None, None, 0, 1, 2]
    assert (len(queue), queue.get(), queue.get()) == (2, 3, 4)


def test_a_full_queue_makes_the_producer_wait() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, drops_oldest=False)
    queue.put(0)
    with pytest.raises(TimeoutError):
        queue.put(1, timeout=0.01)
    thread = threading.Thread(target=queue.put, args=(2,))
    thread.start()
    assert (queue.get(), queue.get()) == (0, 2)
    thread.join(5)
    assert not thread.is_alive()


def test_what_waits_may_be_taken_after_closing() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3, drops_oldest=True)
    queue.put(1)
    assert queue.close() == 0
    with pytest.raises(QueueClosedError):
        queue.put(2)
    assert queue.get() == 1
    with pytest.raises(QueueClosedError):
        queue.get()


def test_closing_wakes_who_waits() -> None:
    full: BoundedQueue[int] = BoundedQueue(1, drops_oldest=False)
    full.put(0)
    empty: BoundedQueue[int] = BoundedQueue(1, drops_oldest=False)
    ended: list[str] = []

    def wait(work: object, name: str) -> None:
        try:
            work()  # type: ignore[operator]
        except QueueClosedError:
            ended.append(name)

    threads = [
        threading.Thread(target=wait, args=(lambda: full.put(1), "put")),
        threading.Thread(target=wait, args=(empty.get, "get")),
    ]
    for thread in threads:
        thread.start()
    assert full.close(discards=True) == 1
    empty.close()
    for thread in threads:
        thread.join(5)
    assert sorted(ended) == ["get", "put"]


def test_nothing_within_the_time() -> None:
    with pytest.raises(TimeoutError):
        BoundedQueue[int](1, drops_oldest=True).get(timeout=0.01)


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BoundedQueue[int](0, drops_oldest=True)
