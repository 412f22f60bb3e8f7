"""Bytes a step exchanges, and the idle share of a pipeline.

DDP's ring all-reduce of N gradient bytes sends 2 (W - 1) / W x N per rank; full sharding gathers the weights for
forward and backward and scatters the gradients, (W - 1) / W x N each (arXiv 1910.02054).
"""


def ddp_bytes(gradient_bytes: int, ranks: int) -> float:
    """Sent per rank and step. LoRA's gradients are those of the adapters: about nothing."""
    return 2 * (ranks - 1) / ranks * gradient_bytes


def sharded_bytes(weight_bytes: int, gradient_bytes: int, ranks: int) -> float:
    """ZeRO-3 or FSDP: two weight gathers and one gradient reduce-scatter. Full : LoRA is 3 : 2."""
    return (ranks - 1) / ranks * (2 * weight_bytes + gradient_bytes)


def bubble_share(stages: int, micro_batches: int) -> float:
    """Idle share of a pipeline step: (p - 1) / (p - 1 + m) (GPipe, arXiv 1811.06965)."""
    return (stages - 1) / (stages - 1 + micro_batches)
