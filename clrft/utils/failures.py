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
        if text := of_disk(at) or of_memory(at) or of_peer(at):
            return text
        at = at.__cause__
    return None


def of_disk(error: BaseException) -> str | None:
    """A failure of the disk; libraries that are not written in Python tell its number in their words."""
    told = _OS_ERROR.search(str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    if not isinstance(error, OSError | SafetensorError) or number not in DISK:
        return None
    place = getattr(error, "filename", None)
    where = f", {place}" if place else ""
    remedy = DISK_REMEDY.get(number, "See the system's log.")
    return f"{DISK[number]} ({os.strerror(number)}{where}). {remedy} {GO_ON}"


def of_peer(error: BaseException) -> str | None:
    """Another process of the run that is gone; torch tells it by its words, or by errors of its own for it."""
    told = isinstance(error, RuntimeError) and any(word in str(error) for word in NO_PEER)
    return f"another process of the run has ended. {GO_ON}" if told else None


def of_memory(error: BaseException) -> str | None:
    """Memory of the machine or of a GPU that was not granted; torch tells it by its words alone."""
    granted = not isinstance(error, MemoryError) and getattr(error, "errno", None) != errno.ENOMEM
    if granted and not (isinstance(error, RuntimeError) and any(word in str(error) for word in NO_MEMORY)):
        return None
    said = " ".join(str(error).split())
    reason = said[:LONGEST] + ("…" if len(said) > LONGEST else "") or type(error).__name__
    return f"the memory is used up ({reason}). {MEMORY_REMEDY} {GO_ON}"
