"""Ops that versions of libraries made slow: ``profiles/regressions.toml``."""

from functools import cache

import msgspec

from loraprof.model.regression import Regression
from loraprof.store.profiles import profiles_dir, read_profile


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    regression: tuple[Regression, ...]


@cache
def load_regressions() -> tuple[Regression, ...]:
    """All rows, in the file's order. Raises InputError for one that does not hold together."""
    return read_profile(profiles_dir() / "regressions.toml", _File).regression
