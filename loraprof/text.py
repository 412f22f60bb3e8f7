"""What may text from a file, a URL or another program say on a terminal, in a log, on a page?

Names come from traces and recordings that strangers made. Here they lose what a reader of text would obey: escape
codes, the commands of a CI runner, the password in a URL.
"""

import re
from typing import Final

LONGEST: Final = 2000  # characters of one name on a page
# GitHub's runner obeys "::" where a line begins and "##[" anywhere (actions/runner, ActionCommand.cs); Azure "##vso[".
_COMMAND = re.compile(r"(?<!\S):(?=:)|#(?=#(?:vso)?\[)")
_USER = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_QUERY = re.compile(r"(://[^\s?]+\?)[^\s'\"]+")


def printable(text: str) -> str:
    """One line that steers neither a terminal nor a runner, valid as UTF-8, of at most ``LONGEST`` characters."""
    cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    plain = "".join(c if c.isprintable() else " " if c in "\n\t\r" else "\ufffd" for c in cut)
    return _COMMAND.sub(lambda found: f"{found[0]} ", plain)


def without_credentials(text: str) -> str:
    """URLs keep their place, not who may read there: user, password and query become ``***``."""
    return _QUERY.sub(r"\1***", _USER.sub("***", text)) if "://" in text else text


def message(text: str) -> str:
    """What stderr is told: one printable line without credentials."""
    return printable(without_credentials(" ".join(text.split())))
