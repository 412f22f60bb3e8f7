"""Where the files shipped under ``profiles/`` are: in a clone beside the package, in a wheel inside it."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

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


def read_toml(path: Path) -> dict[str, Any]:
    """Raises InputError that names the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{path}: nested too deep") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}") from None


def read_profile(path: Path, kind: type[T]) -> T:
    """A TOML file as one ``kind``. Raises InputError that names it, and the key where one is wrong."""
    try:
        return msgspec.convert(read_toml(path), kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
