"""Images of test items, from the data that a run's own settings name, as small data URIs.

The stream is built again; only if its fingerprints are still those of the run's manifest are images shown.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from clrft.config.typed import typed_section
from clrft.runs.read import RunRecord
from clrft.utils.plain import section_of
from task_streams import STREAMS, Workspace, build_stream
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import fingerprints
from task_streams.sources.records import Damaged
from task_streams.types import Clip, Media, TaskStream

LARGEST, SMALL = 144, 48  # pixels of the longer side; smaller images are enlarged in whole steps
MOST_BYTES = 600_000  # of all images of a stream

Place = tuple[int, str]  # task, key of the item


@dataclass(frozen=True, slots=True)
class Images:
    """Data URIs with width and height by item; ``problem`` says why some or all are missing."""

    images: Mapping[Place, tuple[str, int, int]] = field(default_factory=dict)
    problem: str = ""


def images_of(run: RunRecord, places: Sequence[Place]) -> Images:
    """Images of test items of a run, by task and key."""
    try:
        stream = stream_of(run)
    except (UserError, OSError) as error:
        problems = " ".join(error.problems) if isinstance(error, UserError) else str(error)
        return Images(problem=f"The images cannot be shown, as the data cannot be read any more: {problems}")
    if fingerprints(stream) != run.manifest.get("data"):
        return Images(problem="No images are shown, as the data are not those any more that the run was tested on.")
    examples = {(task.index, item.key): item for task in stream.tasks for item in task.test}
    shown: dict[Place, tuple[str, int, int]] = {}
    missing = []
    size = 0
    for place in places:
        try:
            uri = data_uri(picture(examples[place].media()))
        except (Damaged, UserError, OSError) as error:
            missing.append(f"{place[1]} ({error})")
            continue
        size += len(uri[0])
        if size > MOST_BYTES:
            return Images(shown, f"More than {MOST_BYTES // 1000} kB of images; the others are left out.")
        shown[place] = uri
    return Images(shown, f"Images that cannot be read any more: {', '.join(missing)}." if missing else "")


def stream_of(run: RunRecord) -> TaskStream:
    """The stream of a run, built by its saved settings.

    Raises:
        UserError: the settings are damaged, or the data are not there.
    """
    values = dict(section_of(run.config, "stream"))
    name = str(values.pop("name", ""))
    values.pop("label", None)
    if name not in STREAMS:
        raise UserError(f"{run.folder}: no stream is called {name!r}.")
    config = typed_section("stream", STREAMS[name].config, values)
    kept = run.folder.resolve().parent.parent / ".cache"
    return build_stream(name, config, run.seed, Workspace(kept) if kept.is_dir() else Workspace())


def picture(media: Media) -> Image.Image:
    """A small image; of a clip the frame in its middle."""
    image = media.frames[len(media.frames) // 2] if isinstance(media, Clip) else media
    longer = max(image.size)
    if longer <= SMALL:
        times = LARGEST // (2 * longer) or 1
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return small


def data_uri(image: Image.Image) -> tuple[str, int, int]:
    """An image in WebP as text for ``src``, its width and its height."""
    file = io.BytesIO()
    image.convert("RGB").save(file, format="webp", quality=82, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}", image.width, image.height
