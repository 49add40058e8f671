"""Probe sets of a run: read and checked before any work, asked of the base and after every stage that trained."""

from collections.abc import Sequence
from pathlib import Path

from clrft.runner.checkpoint import StageRecord
from clrft.runner.state import Run
from clrft.utils.files import safe_name
from eval.probe import ask, share_right
from methods.distributed import ranks
from methods.inputs.fit_image import image_fit
from methods.model.config import Decoding
from task_streams.errors import UserError
from task_streams.probes.sets import Probe, ProbeSet, probe_request, read_probe_set

BUILT_IN = "printed_glyphs"  # the probe that the suite makes itself
LOOKED_AT = 4  # prompts of each set, before any work


def read_probes(files: Sequence[str]) -> tuple[ProbeSet, ...]:
    """The probe sets of some files.

    Raises:
        UserError: everything that is wrong with any of them; two of one name, or one of the built-in probe's.
    """
    problems: list[str] = []
    sets: dict[str, ProbeSet] = {}
    for file in files:
        try:
            one = read_probe_set(Path(file).expanduser())
            safe_name(one.name)
        except UserError as error:
            problems += error.problems
            continue
        if one.name in {*sets, BUILT_IN}:
            problems.append(f"evaluate.probes: another probe is named {one.name!r} already; rename {file}.")
        sets[one.name] = one
    if problems:
        raise UserError(*problems)
    return tuple(sets.values())


def check_probe_prompts(state: Run) -> None:
    """Refuse a probe set with a prompt that exceeds the limit: each set's longest texts are looked at.

    Raises:
        UserError: by ``Policy.encode``.
    """
    for one in state.probes:
        for probe in sorted(one.probes, key=prompt_length, reverse=True)[:LOOKED_AT]:
            state.policy.encode([probe_request(probe)])


def prompt_length(probe: Probe) -> tuple[int, int]:
    """Images and characters of a question."""
    return len(probe.paths), len(probe.row.text) + sum(map(len, probe.row.options))


def ask_probes(state: Run, stage: int, record: StageRecord, decoding: Decoding) -> None:
    """Ask every probe set; shares of right answers and the answers go to the record."""
    for one in state.probes:
        answers = ask(
            lambda requests: state.policy.generate(requests, decoding),
            one,
            stage=stage,
            batch_size=state.config.evaluate.batch_size,
            fit=image_fit(state.policy.processor),
            on_batch=lambda items: state.reporter.advance(state.config.cell, items),
            spread=ranks.Batches() if ranks.world_size() > 1 else None,
        )
        record.probe[one.name] = share_right(answers)
        record.probe_answers[one.name] = answers
