"""What every section of a recipe is."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a recipe: a key that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    def with_defaults(self, *keys: str) -> Self:
        """The section with some keys at their defaults: those that nothing reads, so that a plan does not depend on them."""
        fields = type(self).model_fields
        return self.model_copy(update={key: fields[key].get_default(call_default_factory=True) for key in keys})
