"""Frames over a socket: four bytes of length, then one encoded value; descriptors may travel with a frame."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import Any

from .codec import MAX_BYTES, MalformedError, decode, encode

_LENGTH = struct.Struct(">I")
MAX_FRAME = 8 * MAX_BYTES  # jobs carry whole test files; what a candidate may answer is bounded by whoever reads it


class ClosedError(ConnectionError):
    """The other side is gone."""


def send(sock: socket.socket, value: Any, descriptors: list[int] | None = None) -> None:
    """Send a value, with descriptors if there are any.

    Raises:
        ClosedError: nobody reads any more.
    """
    send_bytes(sock, encode(value, max_bytes=MAX_FRAME), descriptors)


def send_bytes(sock: socket.socket, data: bytes, descriptors: list[int] | None = None) -> None:
    """Send what was encoded before."""
    frame = _LENGTH.pack(len(data)) + data
    try:
        if descriptors:
            sent = socket.send_fds(sock, [frame], descriptors)
            frame = frame[sent:]
        if frame:
            sock.sendall(frame)
    except OSError as error:
        raise ClosedError(str(error)) from error


def receive(sock: socket.socket, deadline: float | None = None, limit: int = MAX_FRAME) -> Any:
    """Receive a value.

    Args:
        sock: blocking.
        deadline: by time.monotonic(); None waits for ever.
        limit: a longer frame is malformed.

    Raises:
        ClosedError: the other side is gone, also in the middle of a frame.
        TimeoutError: the deadline passed.
        MalformedError: not a frame.
    """
    return decode(receive_bytes(sock, deadline, limit))


def receive_bytes(sock: socket.socket, deadline: float | None = None, limit: int = MAX_FRAME) -> bytes:
    """`receive` without decoding."""
    (length,) = _LENGTH.unpack(_exactly(sock, 4, deadline))
    if length > limit:
        raise MalformedError(f"a frame of {length} bytes")
    return _exactly(sock, length, deadline)


def receive_with_descriptors(sock: socket.socket, most: int) -> tuple[Any, list[int]]:
    """Receive a value and the descriptors that came with it.

    Raises:
        ClosedError: the other side is gone.
    """
    data, descriptors, _, _ = socket.recv_fds(sock, 4, most)
    if not data:
        raise ClosedError("closed")
    (length,) = _LENGTH.unpack(data + _exactly(sock, 4 - len(data), None))
    return decode(_exactly(sock, length, None)), descriptors


def _exactly(sock: socket.socket, count: int, deadline: float | None) -> bytes:
    parts = []
    while count:
        if deadline is not None:
            _wait(sock, deadline)
        try:
            part = sock.recv(min(count, 1 << 20))
        except OSError as error:
            raise ClosedError(str(error)) from error
        if not part:
            raise ClosedError("closed")
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _wait(sock: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not _readable(sock, left):
        raise TimeoutError


def _readable(sock: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
