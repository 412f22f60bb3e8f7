"""``python -m loraprof`` and ``torchrun -m loraprof``."""

from loraprof.cli.app import main

main()
