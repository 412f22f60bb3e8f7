"""Where is a model's shape? A Hugging Face ``config.json``, or the folder that holds one."""

import json
from pathlib import Path
from typing import Any

from loraprof.errors import UsageError


def load_config(path: Path) -> tuple[dict[str, Any], str]:
    """The config and the file it is in. Raises UsageError for what is missing or no JSON object."""
    file = path / "config.json" if path.is_dir() else path
    if file.exists() and not file.is_file():
        raise UsageError(f"{file}: is no plain file", "give a config.json or the folder that holds one")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror or error}", "give a config.json or the folder that holds one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: no JSON: {error}", None) from None
    if not isinstance(found, dict):
        raise UsageError(f"{file}: no config: a JSON object is needed", None)
    return found, str(file)
