"""Failures of the machine while a run works, in sentences with what to do: a disk, or memory that is not granted.

The command line and the workers of a sweep use it alike, with exit code 1. Whatever else goes wrong is unknown here and
shows as it is. What was finished before a failure is on disk, whole, in every case.

Deliberately absent: values that are not finite, which are told where they arise (``methods/guard.py``,
``methods/training/fit.py``), and trying again with less: a run with other settings is another run.
"""

import errno
import os
import re

from safetensors import SafetensorError

GO_ON = "What was finished is kept; given again, the same command goes on from there."
DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk's quota is used up",
    errno.EROFS: "the disk can only be read by now",
    errno.EIO: "the disk failed",
    errno.ESTALE: "the disk of another machine is gone",
}
DISK_REMEDY = {
    errno.ENOSPC: "Make room, or set run.checkpoint_every=0.",
    errno.EDQUOT: "Make room, or set run.checkpoint_every=0.",
    errno.EROFS: "Mount it for writing; the system's log tells why it is not.",
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
LONGEST = 200  # characters of a library's own words
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "can't start new thread")
NO_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
MEMORY_REMEDY = (
    "Free some, or use less in a new run: lower train.prompts_per_update, method.group_size, "
    "train.max_completion_tokens or evaluate.batch_size, raise train.accumulation, or set "
    "model.gradient_checkpointing=true or model.adapter=lora."
)


def explained(error: BaseException) -> str | None:
    """A failure in a sentence with what to do; None for one that is not known here."""
    at: BaseException | None = error
    while at is not None:
        said = " ".join(str(at).split())
        # libraries that are not written in Python tell a disk's error in their words, and torch all of its own
        told = _OS_ERROR.search(said)
        number = int(told[1]) if told else getattr(at, "errno", None)
        words = said if isinstance(at, RuntimeError) else ""
        if isinstance(at, OSError | SafetensorError) and number in DISK:
            place = getattr(at, "filename", None)
            where = f", {place}" if place else ""
            remedy = DISK_REMEDY.get(number, "See the system's log.")
            return f"{DISK[number]} ({os.strerror(number)}{where}). {remedy} {GO_ON}"
        if (
            isinstance(at, MemoryError)
            or getattr(at, "errno", None) == errno.ENOMEM
            or any(word in words for word in NO_MEMORY)
        ):
            reason = said[:LONGEST] + ("…" if len(said) > LONGEST else "") or type(at).__name__
            return f"the memory is used up ({reason}). {MEMORY_REMEDY} {GO_ON}"
        if any(word in words for word in NO_PEER):
            return f"another process of the run has ended. {GO_ON}"
        at = at.__cause__
    return None
