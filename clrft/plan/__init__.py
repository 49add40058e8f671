"""What a sweep will take, told before anything runs: ``clrft plan``.

The way of the data: cells → outlines of their streams → counted work → seconds on a hardware → disk and memory → plan.
"""
