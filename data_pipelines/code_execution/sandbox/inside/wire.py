"""Frames over a socket: four bytes of length, then one encoded value; descriptors may travel with a frame."""

from __future__ import annotations

import socket
import struct
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


def frame(value: Any) -> bytes:
    """A value as the bytes that are sent."""
    data = encode(value)
    return _LENGTH.pack(len(data)) + data


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


def receive(sock: socket.socket, limit: int = MAX_FRAME) -> Any:
    """Receive a value.

    Args:
        sock: blocking; a timeout of its own is kept.
        limit: a longer frame is malformed.

    Raises:
        ClosedError: the other side is gone, also in the middle of a frame.
        TimeoutError: the socket's timeout passed.
        MalformedError: not a frame.
    """
    return decode(receive_bytes(sock, limit))


def receive_bytes(sock: socket.socket, limit: int = MAX_FRAME) -> bytes:
    """`receive` without decoding."""
    (length,) = _LENGTH.unpack(_exactly(sock, 4))
    if length > limit:
        raise MalformedError(f"a frame of {length} bytes")
    return _exactly(sock, length)


class Peer:
    """The other end of a conversation of many short frames: each is usually received in one call.

    Attributes:
        socket: of this end.
    """

    def __init__(self, sock: socket.socket, limit: int) -> None:
        """Args: a blocking socket; the longest frame that is accepted."""
        self.socket = sock
        self._limit = limit
        self._waiting = b""

    def send(self, data: bytes) -> None:
        """Send an encoded value."""
        send_bytes(self.socket, data)

    def receive(self) -> bytes:
        """Receive an encoded value; raises as `receive` does."""
        data = self._waiting
        while True:
            if len(data) >= 4:
                (length,) = _LENGTH.unpack_from(data)
                if length > self._limit:
                    raise MalformedError(f"a frame of {length} bytes")
                if len(data) >= length + 4:
                    self._waiting = data[length + 4 :]
                    return data[4 : length + 4]
                if length > len(data):
                    data += _exactly(self.socket, length + 4 - len(data))
                    continue
            data += _part(self.socket, 65536)


def receive_with_descriptors(sock: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Receive an encoded value and the descriptors that came with it.

    Raises:
        ClosedError: the other side is gone.
    """
    data, descriptors, _, _ = socket.recv_fds(sock, 4, most)
    if not data:
        raise ClosedError("closed")
    (length,) = _LENGTH.unpack(data + _exactly(sock, 4 - len(data)))
    return _exactly(sock, length), descriptors


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = _part(sock, min(count, 1 << 20))
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _part(sock: socket.socket, most: int) -> bytes:
    try:
        part = sock.recv(most)
    except TimeoutError:
        raise
    except OSError as error:
        raise ClosedError(str(error)) from error
    if not part:
        raise ClosedError("closed")
    return part
