"""Mutation testing: what benchmarks/mutants.py is made of."""
