"""Where the files shipped under ``profiles/`` are: in a clone beside the package, in a wheel inside it."""

from pathlib import Path

from loraprof.errors import InputError


def profiles_dir() -> Path:
    """The directory holding ``gpus`` and ``workloads``. Raises InputError when the installation lacks it."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "_profiles", package.parent / "profiles"):
        if (path / "gpus").is_dir():
            return path
    raise InputError(f"{package}: profiles are missing from this installation", "reinstall loraprof")
