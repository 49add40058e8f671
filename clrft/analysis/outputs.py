"""What a command leaves in a folder: tables as text, pictures as PNG or PDF, each whole or not at all.

The same runs give the same files: no picture holds a date.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clrft.analysis.compare import Comparison
from clrft.utils.files import whole_file, write_text_atomic

_METADATA: Mapping[str, Mapping[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}}
ENDINGS = tuple(_METADATA)


def write_outputs(
    out_dir: Path,
    texts: Mapping[str, str],
    pictures: Iterable[tuple[str, Figure]] = (),
    endings: Sequence[str] = ("png",),
) -> list[Path]:
    """Write texts by file name, then pictures with their names without ending; returns the files in that order.

    The folder is made if absent; older files of the same names are replaced, links not followed. Pictures are drawn
    one at a time if they come from a generator.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        write_text_atomic(out_dir / name, text)
        paths.append(out_dir / name)
    for name, figure in pictures:
        for ending in endings:
            paths.append(out_dir / f"{name}.{ending}")
            save_picture(figure, paths[-1], bbox_inches="tight")
    return paths


def pictures_of(
    comparison: Comparison, streams: Iterable[str], draw: Callable[[str], Mapping[str, Figure]]
) -> Iterator[tuple[str, Figure]]:
    """The pictures of streams with their file names without ending; each says below what was mixed.

    The name holds the stream's where the comparison has several.
    """
    for stream in streams:
        for name, figure in draw(stream).items():
            if mixed := [one.name for one in comparison.mixed if one.stream == stream]:
                figure.text(0.01, -0.02, f"the runs differ: {', '.join(mixed)}", color="#666666", va="top")
            yield f"{name}-{stream}" if len(comparison.streams) > 1 else name, figure


def save_picture(figure: Figure, path: Path, **options: Any) -> None:
    """Write one picture in the format of its file's ending, with further ``options`` of ``savefig``."""
    ending = path.suffix[1:]
    with whole_file(path) as beside:
        figure.savefig(beside, format=ending, facecolor="white", metadata=dict(_METADATA[ending]), **options)
