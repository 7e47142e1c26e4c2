"""A second implementation of the numeric contract, written from NUMERICS.md alone.

It is slow and plain on purpose: Python and numpy, nothing of JetBlock. Section numbers in these files are those of NUMERICS.md.
Run it from the root of the repository: ``python -m tests.second_implementation``.
"""
