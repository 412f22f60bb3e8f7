"""``loraprof``, ``python -m loraprof`` and ``torchrun -m loraprof``."""

import gc
import sys

gc.disable()  # while modules load, which leaves nothing to collect; a command collects again


def main() -> None:
    """The command line; an interrupt while it loads ends it as one does later."""
    try:
        from loraprof.cli.app import main as command
    except KeyboardInterrupt:
        print("loraprof: interrupted", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
