"""What GPUs achieve of their data sheet: ``profiles/efficiencies.toml``."""

from collections.abc import Iterable
from functools import cache

import msgspec

from loraprof.errors import InputError
from loraprof.model.estimate import Rate
from loraprof.store.profiles import profiles_dir, read_profile


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rate: tuple[Rate, ...]


@cache
def load_rates() -> tuple[Rate, ...]:
    """All rows, in the file's order. Raises InputError for one that does not hold together."""
    path = profiles_dir() / "efficiencies.toml"
    rates = read_profile(path, _File).rate
    for rate in rates:
        if not 0 < rate.low <= rate.value <= rate.high:
            raise InputError(f"{path}: {rate.shape}: {rate.value:g} is not within {rate.low:g} and {rate.high:g}")
    return rates


def rates_of(gpu: str, rates: Iterable[Rate]) -> dict[str, Rate]:
    """Shape to row for the GPU whose file is ``gpu``; the last row that names it wins."""
    return {rate.shape: rate for rate in rates if not rate.gpus} | {
        rate.shape: rate for rate in rates if gpu in rate.gpus
    }
