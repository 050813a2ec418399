"""Files of clients are decoded in processes of their own: one that takes too long, or too much
memory, ends with its process."""

import contextlib
import multiprocessing
import os
import pickle
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from starlette.exceptions import HTTPException

from samus_edge.errors import ImageFileError
from samus_edge.runtime.cine.cine_source import FileFrames, open_frames
from samus_edge.runtime.images.image_io import GreyFrame, decode_image

__all__ = ["Decoders"]

_MAX_BYTES = 3 << 30  # of memory, beside what it has when it starts
_START_SECONDS = 60.0
_IDLE_SECONDS = 2.0
_spawning = multiprocessing.get_context("spawn")  # threads and GPUs do not survive a fork
Result = TypeVar("Result")


class Decoders:
    """Some processes, each of which decodes one file at a time.

    They start with the first file, or by `start`.

    Args:
        slots: Their number.
        seconds: How long a file may take, and wait for its turn.
    """

    def __init__(self, slots: int, seconds: float) -> None:
        self._seconds = seconds
        self._workers = [_Worker() for _ in range(slots)]
        self._free = list(self._workers)
        self._turn = threading.Condition()

    def start(self) -> None:
        """Start all processes now; they are ready a little later."""
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.stop()

    @property
    def busy(self) -> HTTPException:
        """What a client is told that waits for too long."""
        return HTTPException(
            503,
            f"other files are being decoded, for more than {self._seconds:g} seconds. Try again "
            "later.",
            {"Retry-After": "10"},
        )

    def open(self, content: bytes, name: str, max_video_frames: int) -> FileFrames:
        """`open_frames`; the frames that it leaves for later are decoded here as well.

        Raises:
            HTTPException: if it takes too long, or all are busy for too long.
            SamusEdgeError: as `open_frames`.
        """
        work = partial(open_frames, name=name, max_video_frames=max_video_frames)
        frames: FileFrames = self._run("", work, pickle.PickleBuffer(content))
        return _LateFrames(frames, self)

    def frame(self, content: bytes) -> GreyFrame:
        """`decode_image` of a live frame; errors as of `open`."""
        work = partial(decode_image, name=Path("the frame"))
        return self._run("", work, pickle.PickleBuffer(content))

    def read(self, key: str, frames: FileFrames, index: int, *, is_colour: bool) -> Any:
        """A frame of a file; errors as of `open`."""
        return self._run(key, _read, key, frames, index, is_colour)

    def _run(self, key: str, work: Callable[..., Result], *arguments: Any) -> Result:
        with self._turn:
            if not self._turn.wait_for(lambda: self._free, self._seconds):
                raise self.busy
            worker = next((each for each in self._free if each.key == key), self._free[-1])
            self._free.remove(worker)
        try:
            return worker.run(key, work, arguments, self._seconds)
        finally:
            with self._turn:
                self._free.append(worker)
                self._turn.notify()


class _LateFrames(FileFrames):
    """Frames of a file some of which are decoded later, in a process of their own."""

    def __init__(self, frames: FileFrames, decoders: Decoders) -> None:
        vars(self).update(vars(frames))
        self._source, self._decoders, self._key = frames, decoders, secrets.token_hex(8)

    def read(self, index: int) -> GreyFrame:
        if not self.is_late or not 0 <= index < len(self):
            return super().read(index)
        found: GreyFrame = self._decoders.read(self._key, self._source, index, is_colour=False)
        return found

    def read_colour(self, index: int) -> npt.NDArray[np.uint8] | None:
        if not self.may_have_colour:
            return None
        found: npt.NDArray[np.uint8] | None
        found = self._decoders.read(self._key, self._source, index, is_colour=True)
        return found


class _Worker:
    """A process, and the pipe to it. One thread at a time uses it."""

    def __init__(self) -> None:
        self.process: multiprocessing.process.BaseProcess | None = None
        self.key = ""  # of the file that it keeps for the next frame
        self._used = 0.0
        self._pipe: Connection | None = None

    def start(self) -> None:
        if self.process is not None:
            return
        self._pipe, theirs = _spawning.Pipe()
        self.process = _spawning.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        if self.process is not None and self._pipe is not None:
            self.process.kill()
            self.process.join()
            self._pipe.close()
        self.process, self._pipe, self.key = None, None, ""

    def run(
        self, key: str, work: Callable[..., Result], arguments: tuple[Any, ...], seconds: float
    ) -> Result:
        is_kept = key and key == self.key and time.monotonic() - self._used < _IDLE_SECONDS / 2
        if is_kept:
            arguments = tuple(None if isinstance(each, FileFrames) else each for each in arguments)
        self.start()
        assert self._pipe is not None
        is_done = False
        try:
            _send(self._pipe, (work, arguments))
            end = time.monotonic() + _START_SECONDS
            if self._pipe.poll(_START_SECONDS) and self._pipe.recv_bytes():  # it has begun
                end = time.monotonic() + seconds
            if not self._pipe.poll(max(0.0, end - time.monotonic())):
                raise HTTPException(
                    503,
                    f"the file was not decoded in {seconds:g} seconds. Send a smaller part of it.",
                )
            result, error, text = _receive(self._pipe)
            is_done = True
        except (EOFError, OSError) as err:
            raise ImageFileError(
                "the file ended the process that decoded it. Export it again, or scale it down."
            ) from err
        finally:
            if not is_done:
                self.stop()
                self.start()  # the next file does not wait for it
        self.key, self._used = key, time.monotonic()
        if error is not None:
            raise error from (RuntimeError(text) if text else None)
        return result  # type: ignore[no-any-return]  # of `work`, from the other process


_kept: dict[str, FileFrames] = {}  # in a process that decodes: the last file whose frames were read


def _read(key: str, frames: FileFrames | None, index: int, is_colour: bool) -> Any:
    if frames is not None:
        _kept.clear()
        _kept[key] = frames
    return (_kept[key].read_colour if is_colour else _kept[key].read)(index)


def _serve(pipe: Connection) -> None:
    """What such a process does: a job at a time, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the service, which ends this
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
    with contextlib.suppress(ImportError, OSError):  # not every system has such limits
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(EOFError, OSError):
        while True:
            if not pipe.poll(_IDLE_SECONDS):
                _kept.clear()  # nothing of a patient stays
                pipe.poll(None)
            work, arguments = _receive(pipe)
            pipe.send_bytes(b"begun")
            result: Any = None
            error: Exception | None = None
            text = ""
            try:
                result = work(*arguments)
            except MemoryError:
                error = ImageFileError(
                    "the file needs too much memory to be decoded. Scale it down."
                )
            except Exception as err:  # noqa: BLE001  # goes to who has asked
                error, text = err, traceback.format_exc()
            try:
                _send(pipe, (result, error, text))
            except (pickle.PicklingError, TypeError, AttributeError):
                _send(pipe, (None, RuntimeError(repr(error)), text))
            del work, arguments, result, error


def _send(pipe: Connection, value: Any) -> None:
    """Arrays go without being copied first."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, 5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    pipe.send([(part.nbytes, part.readonly) for part in parts])
    pipe.send_bytes(content)
    for part in parts:
        if part.nbytes:
            pipe.send_bytes(part)


def _receive(pipe: Connection) -> Any:
    kinds = pipe.recv()
    content, buffers = pipe.recv_bytes(), list[bytes | bytearray]()
    for size, is_readonly in kinds:
        if is_readonly or not size:
            buffers.append(pipe.recv_bytes() if size else b"")
        else:
            buffer = bytearray(size)
            pipe.recv_bytes_into(buffer)
            buffers.append(buffer)
    return pickle.loads(content, buffers=buffers)
