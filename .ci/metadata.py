"""The README as a package index shows it: there are no files beside it there, so no link may be relative.

In the release's workflow, links and pictures lead to the commit that is released; built elsewhere, where no address is
known, pictures are left out and links are their text.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")
PICTURE = re.compile(r"<picture>.*?</picture>\n*", re.DOTALL)
SOURCE = re.compile(r'\b(src|srcset)="(?!https?://)([^"]+)"')


def address() -> str | None:
    """Of the commit that is built, in GitHub's workflows."""
    server, repository, commit = (os.environ.get(f"GITHUB_{what}") for what in ("SERVER_URL", "REPOSITORY", "SHA"))
    return f"{server}/{repository}" + "/{kind}/" + f"{commit}" if server and repository and commit else None


def shown(text: str, place: str | None) -> str:
    """``place`` has ``{kind}`` where a page or a raw file is chosen."""
    if place is None:
        return LINK.sub(r"\1", PICTURE.sub("", text))
    page, raw = place.format(kind="blob"), place.format(kind="raw")
    return SOURCE.sub(rf'\1="{raw}/\2"', LINK.sub(rf"[\1]({page}/\2)", text))


class CustomMetadataHook(MetadataHookInterface):
    """Gives ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": shown(text, address())}
