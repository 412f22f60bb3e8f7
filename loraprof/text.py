"""What may text from a file, a URL or another program say on a terminal, in a log, on a page?

Names come from traces and recordings that strangers made. Here they lose what a reader of text would obey: escape
codes, the commands of a CI runner, the password in a URL.
"""

import re
from typing import Final

LONGEST: Final = 2000  # characters of one name on a page
HIDDEN: Final = "***"
# GitHub's runner obeys "::" where a line begins and "##[" anywhere (actions/runner, ActionCommand.cs); Azure "##vso[".
# A long name is folded on a terminal, so that a line may begin anywhere in it: before the runner's own words "::" goes.
_RUNNER: Final = (
    *("set-output", "set-env", "add-path", "add-mask", "add-matcher", "remove-matcher", "save-state", "stop-commands"),
    *("error", "warning", "notice", "debug", "group", "endgroup", "echo"),
)
_COMMAND = re.compile(rf"(?<!\S):(?=:)|:(?=:(?:{'|'.join(_RUNNER)})(?:\s|::))|#(?=#(?:vso)?\[)")
_USER = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_OPTION = re.compile(r"(-{0,2}[A-Za-z][\w.-]*)=(.*)", re.S)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRETS: Final = frozenset(
    ("token", "key", "apikey", "password", "passwd", "pwd", "passphrase", "secret", "credential", "credentials", "auth")
)
# How Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS, Google and JSON web tokens begin.
_TOKEN = re.compile(r"\b(hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|eyJ)[\w.-]{8,}")
_QUERY = re.compile(r"(://[^\s?]+\?)[^\s'\"]+")


def printable(text: str) -> str:
    """One line that steers neither a terminal nor a runner, valid as UTF-8, of at most ``LONGEST`` characters."""
    cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    plain = "".join(c if c.isprintable() else " " if c in "\n\t\r" else "\ufffd" for c in cut)
    return _COMMAND.sub(lambda found: f"{found[0]} ", plain)


def without_credentials(text: str) -> str:
    """URLs keep their place, not who may read there: user, password and query become ``***``."""
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(HIDDEN, text)) if "://" in text else text


def without_secrets(words: list[str]) -> list[str]:
    """A command line whose options that are called like secrets have ``***`` for a value, and whose URLs no users."""
    out: list[str] = []
    hidden = False
    for word in words:
        option = _OPTION.fullmatch(word)
        if hidden and not word.startswith("--"):
            out.append(HIDDEN)
        elif option is not None and _is_secret(option[1]):
            out.append(f"{option[1]}={HIDDEN}")
        else:
            out.append(_TOKEN.sub(HIDDEN, without_credentials(word)))
        hidden = word.startswith("-") and option is None and _is_secret(word)
    return out


def _is_secret(option: str) -> bool:
    return any(word.lower() in _SECRETS for word in _WORD.findall(option))


def message(text: str) -> str:
    """What stderr is told: one printable line without credentials."""
    return printable(without_credentials(" ".join(text.split())))
