"""``loraprof schema OUTPUT``: the JSON Schema of what a verb prints with ``--format json``, made from the types."""

from importlib import import_module
from typing import Annotated, Final

import typer

from loraprof.errors import UsageError
from loraprof.report.output import standard_output

OUTPUTS: Final[dict[str, str]] = {
    "report": "loraprof.model.report:Report",
    "compare": "loraprof.model.compare:Comparison",
    "fix": "loraprof.model.fix:Fix",
    "sweep": "loraprof.model.sweep:Sweep",
    "estimate": "loraprof.model.estimate:Estimate",
    "watch": "loraprof.model.watch:Watch",
    "selftest": "loraprof.model.selftest:SelfTest",
}


def schema(output: Annotated[str, typer.Argument(help=f"{', '.join(OUTPUTS)}.")]) -> None:
    """Print the JSON Schema of an output."""
    import msgspec

    if output not in OUTPUTS:
        raise UsageError(f"no output {output!r}", f"choose one of {', '.join(OUTPUTS)}")
    module, name = OUTPUTS[output].split(":")
    body = msgspec.json.schema(getattr(import_module(module), name))
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **body}
    with standard_output() as out:
        out.write(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n")
