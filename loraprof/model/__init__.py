"""Frozen types shared by every room; no I/O, no torch."""
