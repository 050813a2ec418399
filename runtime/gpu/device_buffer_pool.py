"""Memory of the GPU that is used again for the next tensor of its size."""

import threading

from samus_edge.runtime.gpu.device import Device, DeviceBuffer

__all__ = ["DeviceBufferPool"]


class _PooledBuffer:
    """A buffer that goes back to its pool when it is freed or no longer referenced."""

    def __init__(self, pool: "DeviceBufferPool", buffer: DeviceBuffer) -> None:
        self._pool: DeviceBufferPool | None = pool
        self._buffer = buffer

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._buffer.address

    @property
    def size_bytes(self) -> int:
        """As asked for."""
        return self._buffer.size_bytes

    def free(self) -> None:
        """Give it back to the pool; a second call does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool._take_back(self._buffer)

    def __del__(self) -> None:
        self.free()


class DeviceBufferPool:
    """Keeps freed buffers by size: allocating memory of a GPU stops it, and costs more than a frame.

    Safe to use from several threads. `allocate` and `close` are called while the device is current.
    """

    def __init__(self, device: Device, most_kept: int = 4) -> None:
        """Make an empty pool.

        Args:
            device: whose memory it is.
            most_kept: buffers of one size that are kept while nobody uses them.
        """
        self._device = device
        self._most_kept = most_kept
        # Reentrant: a collection of garbage may free a buffer while this thread holds the lock.
        self._lock = threading.RLock()
        self._idle: dict[int, list[DeviceBuffer]] = {}
        self._is_closed = False

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        """A buffer of this size, with whatever was in it before.

        Raises:
            BackendError: if there is not enough memory.
        """
        with self._lock:
            idle = self._idle.get(size_bytes)
            if idle:
                return _PooledBuffer(self, idle.pop())
        return _PooledBuffer(self, self._device.allocate(size_bytes))

    def close(self) -> None:
        """Free what is idle; what is still in use is freed when it comes back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, {}
        for buffers in idle.values():
            for buffer in buffers:
                buffer.free()

    def _take_back(self, buffer: DeviceBuffer) -> None:
        with self._lock:
            kept = self._idle.setdefault(buffer.size_bytes, [])
            if not self._is_closed and len(kept) < self._most_kept:
                kept.append(buffer)
                return
        with self._device.current():
            buffer.free()
