"""Ops that versions of libraries made slow: ``profiles/regressions.toml``."""

import tomllib
from functools import cache

import msgspec

from loraprof.errors import InputError
from loraprof.model.regression import Regression
from loraprof.store.profiles import profiles_dir


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    regression: tuple[Regression, ...]


@cache
def load_regressions() -> tuple[Regression, ...]:
    """All rows, in the file's order. Raises InputError for one that does not hold together."""
    path = profiles_dir() / "regressions.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File).regression
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: {error}") from error
