"""What a value that stayed in the program looks like to the tests: they may hand it back, ask its truth, or take items from an iterator.

Anything else would let the program's own code decide what is equal, so it is an OpaqueError, and the verdict is `harness_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .codec import Token
from .standard import OpaqueError

Witness = Callable[["Opaque"], None]


class Opaque(Token):
    """A token in the hands of the tests. See the module."""

    __slots__ = ("_advance", "_witness")

    def __init__(self, token: Token, witness: Witness, advance: Callable[[Opaque], Any]) -> None:
        """Args: the token; told whenever the tests look at it; asks the program for an iterator's next item."""
        super().__init__(token.number, token.truth, token.type_name)
        self._witness, self._advance = witness, advance

    def __bool__(self) -> bool:
        self._witness(self)
        return self.truth

    def __eq__(self, other: object) -> bool:
        self._witness(self)
        if other is None or (isinstance(other, Opaque) and other.number == self.number):
            return other is not None
        raise OpaqueError(self.reason)

    def __hash__(self) -> int:
        return super().__hash__()

    def __iter__(self) -> Iterator[Any]:
        if self.type_name != "chain":
            raise OpaqueError(self.reason)
        return self

    def __next__(self) -> Any:
        return self._advance(self)

    @property
    def reason(self) -> str:
        """Why tests cannot judge what they do with it."""
        return f"a value of type '{self.type_name}' cannot leave the program"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        raise OpaqueError(self.reason)


def _refuse(self: Any, *operands: Any) -> Any:
    if isinstance(self, Proxy):
        raise OpaqueError(f"'{self.__name__}' of the program can only be called")
    raise OpaqueError(self.reason)


class Proxy:
    """A function or class of the program under the name by which tests call it."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        """Args: its name in the program; makes the call: name, arguments, named arguments."""
        self.__dict__.update(__name__=name, __qualname__=name, _call=call)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(self.__name__, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _refuse(self)

    __setattr__ = __instancecheck__ = __subclasscheck__ = _refuse


_OF_FUNCTIONS = "annotations closure code defaults doc globals kwdefaults module"
for _name in _OF_FUNCTIONS.split():  # what this side does not know of them
    setattr(Proxy, f"__{_name}__", property(_refuse))


_OPERATIONS = (
    "lt le gt ge len getitem setitem delitem contains call str int float complex index abs round neg pos invert enter exit "
    "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor "
    "radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand ror rxor"
)
for _name in _OPERATIONS.split():
    setattr(Opaque, f"__{_name}__", _refuse)
