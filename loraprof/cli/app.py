"""The command line: one module per verb, errors printed once, what its exit codes mean.

0 done, 1 internal error, 2 usage, 3 threshold missed, 4 cannot be measured here, 5 unreadable input, a profiled
script's own code, 130 interrupted.
"""

import gc
import os
import sys
from contextlib import suppress
from typing import Final

import click

from loraprof import __version__, text
from loraprof.cli.verbs import Group
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.report.output import let_go, standard_output, tell

INTERRUPTED = 130
COMPLETION: Final = "_LORAPROF_COMPLETE"  # set by the code that a shell completes with


def _completion(ctx: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    """Prints that code."""
    from click.shell_completion import get_completion_class

    if shell is not None and (made := get_completion_class(shell)) is not None:
        click.echo(made(app, {}, "loraprof", COMPLETION).source())
        ctx.exit()


@click.group(cls=Group, help="Why LoRA is, or is not, faster than full fine-tuning on your hardware.")
@click.version_option(__version__, message="loraprof %(version)s", help="Show it and exit.")
@click.option(
    "--show-completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    callback=_completion,
    is_eager=True,
    expose_value=False,
    help="Show the completion for this shell: the end of its ~/.bashrc, ~/.zshrc or config.fish.",
)
def app() -> None:
    gc.enable()  # off since the start (``__main__``): a profiled script finds the collector on


def main() -> None:
    """Runs the command line and exits with its code."""
    if (asked := os.environ.get(COMPLETION)) is not None:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(app, {}, "loraprof", COMPLETION, asked))
    with suppress(OSError):
        while os.open(os.devnull, os.O_RDWR) <= 2:  # a closed stdout's number must not become a recording's
            pass
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Runs one command line and returns its exit code; prints errors as one line and a hint on stderr."""
    try:
        with app.make_context("loraprof", argv) as context:
            code = app.invoke(context)
        return _flushed(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as ended:
        return _flushed(ended.exit_code)
    except LoraprofError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except click.ClickException as error:
        return _usage(error)
    except KeyboardInterrupt:
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


def _usage(error: click.ClickException) -> int:
    """What click has to say about the command line, in the form of every other usage error."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # without a verb
        tell(error.format_message())
        return 2
    said = error.format_message().removesuffix(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "loraprof"
    return _fail(f"{said[:1].lower()}{said[1:]}", f"`{command} --help` lists what there is", 2)


def _fail(message: str, hint: str | None, code: int) -> int:
    tell(f"loraprof: {text.message(message)}")
    if hint:
        tell(f"          {text.message(hint)}")
    return code
