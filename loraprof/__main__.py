"""``loraprof``, ``python -m loraprof`` and ``torchrun -m loraprof``."""

import gc

gc.disable()  # while modules load, which leaves nothing to collect; a command collects again

from loraprof.cli.app import main  # noqa: E402

if __name__ == "__main__":
    main()
