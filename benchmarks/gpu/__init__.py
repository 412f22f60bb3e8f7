"""The parts of ``benchmarks/gpu_suite.py``: each measures one thing on a GPU in a process of its own."""
