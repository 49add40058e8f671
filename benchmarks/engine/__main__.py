"""Command line of the harness: measure, print, and write one JSON file."""

import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import boundary, evaluate, logprobs, rollout, scaling, short, step
from benchmarks.engine.figures import case_figures
from benchmarks.engine.floor import FORMULA
from benchmarks.engine.models import model_config
from benchmarks.engine.options import Options, options_of
from benchmarks.engine.pairs import Case
from benchmarks.engine.peak import Peak, peak_of
from benchmarks.engine.table import case_table, sweep_table, worst
from clrft.runs.provenance import code_identity, hardware, versions
from clrft.utils.files import write_json_atomic
from clrft.utils.quiet import quiet_environment, quiet_libraries
from methods.model.config import choose_device, choose_dtype

Cases = Callable[[Options, Path], Iterator[Case]]

BENCHES: dict[str, Cases] = {
    "rollout": rollout.cases,
    "logprobs": logprobs.cases,
    "step": step.cases,
    "evaluate": evaluate.cases,
    "boundary": boundary.cases,
    "scaling": scaling.cases,
    "short": short.cases,
}


def main(words: list[str] | None = None) -> int:
    """Measure what the command line asks for."""
    options = options_of(words)
    quiet_environment()
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(model_config(options))
    dtype = choose_dtype(model_config(options), device)
    peak = peak_of(device, dtype)
    print(f"peak: {peak.flops / 1e9:.0f} GFLOP/s in {dtype}, {peak.bandwidth / 1e9:.1f} GB/s", flush=True)
    asked = BENCHES if options.bench == "all" else {options.bench: BENCHES[options.bench]}
    results = {name: bench(cases, options, peak, device) for name, cases in asked.items()}
    if options.output:
        write_json_atomic(options.output, body(options, peak, dtype, results))
    return 0


def bench(cases: Cases, options: Options, peak: Peak, device: torch.device) -> dict[str, Any]:
    """Every case of a bench, printed as it is measured; one case's contenders go before the next one's come."""
    found = []
    with tempfile.TemporaryDirectory(prefix="clrft-engine-") as scratch:
        for case in cases(options, Path(scratch)):
            found.append(case_figures(case, options, peak, device))
            print(case_table(found[-1]), flush=True)
            del case
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    least = worst(found)
    if len(found) > 2:
        print(f"{sweep_table(found)}\nworst: {least}", flush=True)
    return {"cases": found, "worst": least}


def body(options: Options, peak: Peak, dtype: torch.dtype, results: dict[str, Any]) -> dict[str, Any]:
    """The JSON file."""
    return {
        "schema": 1,
        "command": " ".join(["python -m benchmarks.engine", *sys.argv[1:]]),
        "options": options.to_json(),
        "dtype": str(dtype).removeprefix("torch."),
        "peak": asdict(peak),
        "floor": FORMULA,
        "results": results,
        "versions": versions(),
        "hardware": hardware(),
        "code": code_identity(),
    }


if __name__ == "__main__":
    sys.exit(main())
