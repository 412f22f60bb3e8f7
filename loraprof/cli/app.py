"""The command line: one module per verb, errors printed once, what its exit codes mean.

0 done, 1 internal error, 2 usage, 3 threshold missed, 4 cannot be measured here, 5 unreadable input, a profiled
script's own code, 130 interrupted.
"""

import gc
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from loraprof import __version__, text
from loraprof.cli.verbs import Group
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.report.output import let_go, standard_output, tell

app = typer.Typer(
    name="loraprof",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Why LoRA is, or is not, faster than full fine-tuning on your hardware.",
)

# typer carries its own copy of click, so its base error is found through an exported subclass.
ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loraprof {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    gc.enable()  # off since the start (``__main__``): a profiled script finds the collector on


def main() -> None:
    """Runs the command line and exits with its code."""
    with suppress(OSError):
        while os.open(os.devnull, os.O_RDWR) <= 2:  # a closed stdout's number must not become a recording's
            pass
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Runs one command line and returns its exit code; prints errors as one line and a hint on stderr."""
    try:
        code = app(argv, prog_name="loraprof", standalone_mode=False)
        if code == INTERRUPTED:  # typer turns a KeyboardInterrupt into this code and says nothing
            return _fail("interrupted", None, INTERRUPTED)
        return _flushed(code if isinstance(code, int) else 0)
    except LoraprofError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", None, INTERRUPTED)
    except BrokenPipeError:
        let_go()
        return 0


def _flushed(code: int) -> int:
    """The code, once all is on stdout; a script's own failure stands above one to print."""
    if sys.stdout is None:
        return code
    try:
        with standard_output():
            return code
    except MeasurementError as error:
        return code or _fail(error.message, error.hint, error.exit_code)


def _usage(error: Any) -> int:
    """What typer has to say about the command line, in the form of every other usage error."""
    if type(error).__name__ == "NoArgsIsHelpError":  # without a verb
        tell(error.format_message())
        return 2
    message = error.format_message().removesuffix(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "loraprof"
    return _fail(f"{message[:1].lower()}{message[1:]}", f"`{command} --help` lists what there is", 2)


def _fail(message: str, hint: str | None, code: int) -> int:
    tell(f"loraprof: {text.message(message)}")
    if hint:
        tell(f"          {text.message(hint)}")
    return code
