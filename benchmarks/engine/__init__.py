"""The benchmark harness of the engine: sampling, log-probabilities, updates, evaluation, task boundaries.

Ours against stock TRL and against the plain path, in one process, in turn. ``python -m benchmarks.engine --help``;
what is measured and how to read it: ``docs/speed.md``.
Deliberately absent: several GPUs, vLLM, quality (two contenders of a case compute the same, by test).
"""
