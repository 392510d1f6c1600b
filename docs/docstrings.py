"""How docstrings come into the Python reference, an extension of griffe, which reads them: examples as code, settings with their help."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^|(?<=\n))>>> .*?(?=\n[ \t]*\n|\Z)", re.DOTALL)


class Docstrings(griffe.Extension):
    """Puts every example (`>>> …`) between fences, and shows a field `_setting(default, help)` as its default with its help below."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"\n```pycon\n{found[0]}\n```", obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called by griffe for each attribute that it has read."""
        if not str(attr.value).startswith("_setting("):
            return
        call = ast.parse(str(attr.value), mode="eval").body
        assert isinstance(call, ast.Call)
        default, told = call.args
        pieces = told.values if isinstance(told, ast.JoinedStr) else [told]
        attr.value = ast.unparse(default)
        attr.docstring = griffe.Docstring("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in pieces), parent=attr)
