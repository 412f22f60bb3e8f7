"""Which names may be handed on, and what stands for the others?

``words.txt``: the words of torch's operators, of kernel names of vendor libraries, of module classes of torch,
transformers and PEFT. ``modules.txt``: what those call their submodules. A name made of nothing else says nothing
about whoever recorded it. Every other word becomes a pseudonym, the same one wherever it stands, that keeps what the
analysis tells names apart by.
"""

import re
from collections import defaultdict
from functools import cache
from importlib.resources import files
from typing import Final

_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|.", re.S)
_CLASS = re.compile(r"[A-Za-z_][\w.\[\], ]*", re.ASCII)
_NO_CHIP = re.compile(r"[:/\\~_]|\S@|@\S|\d+(\.\d+){3}")
_CHIP = re.compile(r"[^\W\d_]+|\d+")
_RUN = re.compile(r"[^\W_]+")
# Addresses of machines, identifiers in groups, and what people number with: telephones, cards, days.
_ADDRESS = re.compile(
    r"\d+(?:\.\d+){3,}|(?:[\dA-Fa-f]{1,4}:){3,}[\dA-Fa-f:]+|[\dA-Fa-f]{4,}(?:-[\dA-Fa-f]{4,}){2,}"
    r"|\+?\d(?:[() .:/+-]{0,3}\d){6,}"
)
_FILE = re.compile(r"[^\s<>(),:;]*[/\\@][^\s<>(),:;]*|[\w.-]+\.py\b")
_PSEUDONYM = re.compile(r"x\d+")
_MOST_CHIP: Final = 4  # letters and numbers in turn: 9V74 has four
_LONGEST_NUMBER, _SHORT, _MOST_SHORT = 6, 2, 2  # what looks like a token or a hash has more short pieces
_LONG: Final = 4  # letters that a word has when it may stay beside one that may not
_ALWAYS: Final = (
    *("c10", "c10d", "nn", "at", "mm", "bmm", "cpp", "poi", "per", "red", "tf32", "bf16", "f32", "fx"),
    *("e4m3", "e5m2", "e4m3fn", "e4m3fnuz", "e5m2fnuz"),
)
# What the analysis finds in the middle of words that people make up.
_TRAITS: Final = (
    *("lora", "norm", "attn", "att", "flash", "gemm", "nccl", "rccl", "reduce", "dequant", "quant", "embed"),
    *("linear", "conv", "rotary", "dropout", "loss", "softmax", "bmm", "relu", "gelu", "silu", "pool", "lstm", "gru"),
)
_DEVICE: Final = frozenset(
    (
        *("nvidia", "amd", "intel", "apple", "arm", "tesla", "quadro", "geforce", "rtx", "gtx", "titan", "instinct"),
        *("radeon", "pro", "super", "ti", "hbm", "pcie", "sxm", "nvl", "mig", "gh", "gb", "mi", "gfx", "xeon", "epyc"),
        *("core", "ryzen", "platinum", "gold", "silver", "bronze", "cpu", "gpu", "ghz", "mhz", "processor", "laptop"),
        *("genuine", "synthetic", "max", "neoverse", "cortex", "aarch", "oam", "pg", "tm", *"abcdeghiklmnpqrstuvwxz"),
    )
)  # fmt: skip
_PLATFORMS: Final = ("Linux", "Darwin", "Windows")
_NUMBERS = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?|[0-9]{1,4}(,[0-9]{1,4})*|")
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,2}((a|b|rc|\.dev|\.post)\d{1,8})?(\+(cu|rocm)[\d.]{1,8}|\+cpu)?", re.ASCII)
_DEVICE_INDEX = re.compile(r"(cpu|cuda|meta)(:\d{1,3})?", re.ASCII)
_PUBLIC: Final = ("torch", "transformers", "peft", "diffusers", "accelerate", "trl", "bitsandbytes", "timm", "unsloth")
_SOURCES: Final = tuple(f"{package}/" for package in _PUBLIC)
_ORIGIN = re.compile(rf"({'|'.join(_PUBLIC)})(\.[a-z][a-z0-9_]*)*")


@cache
def _words(name: str) -> frozenset[str]:
    return frozenset(files(__package__).joinpath(name).read_text("ascii").split())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _pieces(run: str) -> list[str] | None:
    """The words and numbers of a run of letters and digits; None where it looks made by a machine."""
    pieces = _PIECE.findall(run)
    letters = [piece for piece in pieces if not piece.isdigit()]
    if len(pieces) > len(letters) > 0 and sum(len(piece) <= _SHORT for piece in letters) > _MOST_SHORT:
        return None
    return None if _PSEUDONYM.fullmatch(run) else pieces


def _is_known(run: str) -> bool:
    pieces = _pieces(run)
    return run in _ALWAYS or (
        pieces is not None
        and all(
            len(piece) <= _LONGEST_NUMBER if _is_number(piece) else piece.lower() in _words("words.txt")
            for piece in pieces
        )
    )


class Pseudonyms:
    """One for all files that belong together: ``of("module", "secret")`` is ``module_1`` in each of them."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._names: dict[str, str] = {}

    def of(self, kind: str, text: str) -> str:
        return f"{kind}_{self._number(kind, text)}"

    def _number(self, kind: str, text: str) -> int:
        return self._numbers[kind].setdefault(text, len(self._numbers[kind]) + 1)

    def name(self, text: str) -> str:
        """An operator, a kernel, a range, a class: known words and what stands between words stay."""
        if text not in self._names:
            plain = text
            for pattern in (_ADDRESS, *(() if text.startswith(_SOURCES) else (_FILE,))):
                plain = pattern.sub(lambda found: self._word(found[0]), plain)
            plain = "".join(c if (c.isascii() and c.isprintable()) or c.isalnum() else "?" for c in plain)
            public = plain == text and all(map(_is_known, _RUN.findall(text)))
            self._names[text] = text if public else _RUN.sub(lambda found: self._run(found[0]), plain)
        return self._names[text]

    def _run(self, run: str) -> str:
        """A run in a name that somebody made up: what may be a part of something else goes with the rest."""
        pieces = _pieces(run)
        if run in _ALWAYS or (_is_number(run) and len(run) < _LONG):
            return run
        if pieces is None or len(pieces) == 1:
            return run if pieces and len(run) >= _LONG and _is_known(run) and not _is_number(run) else self._word(run)
        if run.isupper() or any(map(_is_number, pieces[:-1])):  # a token may end in a word
            return self._word(run)
        kept = [piece if len(piece) >= _LONG and not _is_number(piece) and _is_known(piece) else "" for piece in pieces]
        return "".join(pieces) if all(kept) else self._word(run) + "".join(kept)

    def _word(self, word: str) -> str:
        lower = word.lower()
        return f"x{self._number('name', word)}{''.join(trait for trait in _TRAITS if trait in lower)}"

    def cls(self, text: str) -> str:
        """A class, with the modules it is known by."""
        return self.name(text) if _CLASS.fullmatch(text) else self.of("class", text)

    def path(self, text: str) -> str:
        """A module's or a parameter's path."""
        text = _ADDRESS.sub(lambda found: self.of("module", found[0]), text)
        return ".".join(self._segment(part) for part in text.split("."))

    def _segment(self, part: str) -> str:
        if not part or part in _words("modules.txt") or (_is_number(part) and len(part) <= _LONGEST_NUMBER):
            return part
        return self.of("module", part) + ("_attn" if "att" in part.lower() else "")

    def known(self, kind: str, text: str) -> str:
        """The text where every word of it is known, else a pseudonym for the whole."""
        place = any(pattern.search(text) for pattern in (_ADDRESS, _FILE))
        public = text.isascii() and not place and all(map(_is_known, _RUN.findall(text)))
        return text if public else self.of(kind, text)

    def numbers(self, kind: str, text: str) -> str:
        return (
            text if _NUMBERS.fullmatch(text) else self.known(kind, text) if text[:1].isalpha() else self.of(kind, text)
        )

    def device(self, text: str) -> str:
        """What a driver or the system calls a GPU or a CPU."""

        def piece(found: re.Match[str]) -> str:
            word = found[0]
            known = len(word) <= _LONGEST_NUMBER if _is_number(word) else word.lower() in _DEVICE
            return word if known else self._word(word)

        made = any(len(_CHIP.findall(run)) > _MOST_CHIP for run in _RUN.findall(text))
        hidden = made or _NO_CHIP.search(text) or _ADDRESS.search(text)
        return self.of("device", text) if hidden else _CHIP.sub(piece, text)

    def version(self, text: str) -> str:
        return text if _VERSION.fullmatch(text) else self.of("version", text)

    def platform(self, text: str) -> str:
        first = text.partition("-")[0]
        return first if first in _PLATFORMS else self.of("platform", text)

    def origin(self, text: str) -> str:
        return text if not text or _ORIGIN.fullmatch(text) else self.of("origin", text)

    def place(self, text: str) -> str:
        return text if _DEVICE_INDEX.fullmatch(text) else self.of("device", text)
