"""Where the files shipped under ``profiles/`` are: in a clone beside the package, in a wheel inside it."""

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from loraprof.errors import InputError

T = TypeVar("T")


def profiles_dir() -> Path:
    """The directory holding ``gpus`` and ``workloads``. Raises InputError when the installation lacks it."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "_profiles", package.parent / "profiles"):
        if (path / "gpus").is_dir():
            return path
    raise InputError(f"{package}: profiles are missing from this installation", "reinstall loraprof")


def read_profile(path: Path, kind: type[T]) -> T:
    """A TOML file as one ``kind``. Raises InputError that names it, and the key where one is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: {error}") from error
