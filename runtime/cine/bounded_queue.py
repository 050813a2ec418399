"""A queue between threads that never grows: it drops what is oldest, or makes the producer wait."""

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["BoundedQueue", "QueueClosedError"]

Item = TypeVar("Item")


class QueueClosedError(Exception):
    """Nothing more can be put into or taken from a queue."""


class BoundedQueue(Generic[Item]):
    """First in, first out.

    Args:
        capacity: items that wait at most, at least 1.
        drops_oldest: whether a full queue drops its oldest item for a new one; else `put` waits.

    Raises:
        ValueError: if the capacity is below 1.
    """

    def __init__(self, capacity: int, *, drops_oldest: bool) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity of a queue must be at least 1, got {capacity}.")
        self._items: deque[Item] = deque()
        self._capacity, self._drops_oldest = capacity, drops_oldest
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        """Items that wait."""
        with self._changed:
            return len(self._items)

    def put(self, item: Item, timeout: float | None = None) -> Item | None:
        """Add an item.

        Args:
            item: to be taken later.
            timeout: seconds to wait for room; None for ever. Of no effect where the oldest is dropped.

        Returns:
            The item that was dropped for it, or None.

        Raises:
            TimeoutError: if there is no room in that time.
            QueueClosedError: if the queue is closed, also while it waits.
        """
        with self._changed:
            dropped: Item | None = None
            if self._drops_oldest:
                if len(self._items) == self._capacity and not self._is_closed:
                    dropped = self._items.popleft()
            elif not self._changed.wait_for(
                lambda: len(self._items) < self._capacity or self._is_closed, timeout
            ):
                raise TimeoutError
            if self._is_closed:
                raise QueueClosedError
            self._items.append(item)
            self._changed.notify_all()
            return dropped

    def get(self, timeout: float | None = None) -> Item:
        """Take the oldest item.

        Args:
            timeout: seconds to wait for one; None for ever.

        Raises:
            TimeoutError: if there is none in that time.
            QueueClosedError: if the queue is closed and empty.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._is_closed, timeout):
                raise TimeoutError
            if not self._items:
                raise QueueClosedError
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, discards: bool = False) -> int:
        """Let nothing more in; what waits may still be taken.

        Args:
            discards: whether what waits is thrown away.

        Returns:
            How many items were thrown away.
        """
        with self._changed:
            self._is_closed = True
            discarded = len(self._items) if discards else 0
            if discards:
                self._items.clear()
            self._changed.notify_all()
            return discarded
