"""Reading the fields of a model's config: what is missing is said once, all together."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from loraprof.errors import UsageError

LARGEST = 10**7  # of any size in a config


class Fields(Struct):
    """A config and the names that were asked for and not there."""

    values: Mapping[str, Any]
    where: str
    missing: list[str] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        return any(self.values.get(name) is not None for name in names)

    def size(self, *names: str, default: int | None = None) -> int:
        """A positive integer under the first of ``names`` that is there; 1 stands in for a missing one."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise UsageError(f"{self.where}: `{name}` is {value!r}, not a whole number", None)
            if not 1 <= value <= LARGEST:
                least = "at least 1" if value < 1 else f"at most {LARGEST}"
                raise UsageError(f"{self.where}: `{name}` must be {least}, got {str(value)[:20]}", None)
            return value
        if default is None:
            self.missing.append(names[0])
            return 1
        return default

    def labels(self, default: int) -> int:
        """Of a classifier; configs list their names instead of their number."""
        named = self.values.get("id2label")
        return len(named) if isinstance(named, dict) and named else self.size("num_labels", default=default)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise UsageError(f"{self.where}: `{name}` is {value!r}, not true or false", None)
        return value

    def heads(self, hidden: int) -> tuple[int, ...]:
        """Query heads, key heads, width of a head. Raises UsageError where they contradict each other."""
        q, kv = "num_attention_heads", "num_key_value_heads"
        queries = self.size(q)
        keys = self.size(kv, default=queries)
        if queries % keys:
            raise UsageError(f"{self.where}: `{q}` {queries} is no multiple of `{kv}` {keys}", None)
        if not self.has("head_dim") and hidden % queries and not self.missing:
            raise UsageError(f"{self.where}: width {hidden} is no multiple of `{q}` {queries}", "give `head_dim`")
        return queries, keys, self.size("head_dim", default=max(1, hidden // queries))

    def close(self, kind: str) -> None:
        """Raises UsageError for what was missing."""
        if self.missing:
            names = ", ".join(dict.fromkeys(self.missing))
            raise UsageError(f"{self.where}: {kind} lacks {names}", "a Hugging Face config.json has these fields")
