"""Time and memory of building a stream: 200 classes in 10 tasks, of a cold and of a warm index, by number of images.

Two kinds of source are generated, with images that differ from each other: trees in TinyImageNet's layout (JPEGs of
64 x 64) and parquet tables with a single row group (the worst case for memory). Every build is a process of its own;
its memory is what the process holds after it beyond what it held before, without pages of files that are mapped.

    python benchmarks/build_stream.py --output benchmarks/results/build_stream.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clrft.runs.provenance import circumstances
from task_streams import STREAMS, Workspace, build_stream

CLASSES, TASKS, SEED = 200, 10, 1993
TREES = ((90, 10), (500, 50))  # training and test images per class: 20,000 and 110,000 images
DRAWS: tuple[tuple[str, int | None], ...] = (("5 shots, all test items", 5), ("every item", None))
TABLES = (500, 4000, 16000)  # rows
IMAGE_BYTES = 20_000  # of an image in a table


def main() -> None:
    """Measure, print, and write the figures; with --one build one stream and print its figures only."""
    options = arguments().parse_args()
    if options.one:
        print(json.dumps(build(json.loads(options.one))))
        return
    with tempfile.TemporaryDirectory(prefix="clrft-build-") as scratch:
        figures = list(measured(Path(scratch), options.repeats))
    if options.output:
        facts = circumstances()
        body = {"command": f"python benchmarks/build_stream.py --repeats {options.repeats}", "figures": figures}
        Path(options.output).write_text(json.dumps({**body, **facts}, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="builds of a warm index; the median is shown")
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def measured(scratch: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Figures of every source and draw, printed as they come."""
    for train, test in TREES:
        root = scratch / f"tree-{train}"
        write_tree(root, train, test)
        for draw, shots in DRAWS:
            settings = {"root": str(root), "tasks": TASKS, "classes_per_task": CLASSES // TASKS, "shots": shots}
            yield report(f"tree of {CLASSES * (train + test)}, {draw}", "tinyimagenet_cil", settings, scratch, repeats)
    for rows in TABLES:
        table = scratch / f"{rows}.parquet"
        write_table(table, rows)
        settings = {"train": str(table), "shots": 5, "test_per_class": 5}
        yield report(f"table of {rows}", "table_cil", settings, scratch, repeats)


def report(title: str, stream: str, settings: dict[str, Any], scratch: Path, repeats: int) -> dict[str, Any]:
    """One cold build and several warm ones, each in a process of its own."""
    cache = scratch / title.replace(" ", "-")
    order = json.dumps({"stream": stream, "settings": settings, "cache": str(cache)})
    command = [sys.executable, __file__, "--one", order]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
        for _ in range(1 + repeats)
    ]
    cold, *warm = runs
    middle = sorted(warm, key=lambda run: run["seconds"])[len(warm) // 2]
    print(
        f"{title:42} {cold['items']:7} items   cold {cold['seconds']:6.2f} s {cold['megabytes']:5.0f} MB"
        f"   warm {middle['seconds']:5.2f} s {middle['megabytes']:5.0f} MB",
        flush=True,
    )
    return {"source": title, "cold": cold, "warm_median": middle, "warm": warm}


def build(order: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one build, the items drawn, and the memory that is held more after it than before."""
    config = STREAMS[order["stream"]].config(**order["settings"])
    before = memory("RssAnon")
    start = time.perf_counter()
    stream = build_stream(order["stream"], config, SEED, Workspace(Path(order["cache"])))
    seconds = time.perf_counter() - start
    items = sum(len(task.train) + len(task.test) for task in stream.tasks)
    return {"seconds": seconds, "items": items, "megabytes": memory("RssAnon") - before}


def memory(kind: str) -> float:
    """Megabytes of this process, by the kernel's account (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[kind].split()[0]) / 1024


def write_tree(root: Path, train: int, test: int) -> None:
    """A tree in TinyImageNet's layout, every image another one."""
    wnids = [f"n{number:08d}" for number in range(CLASSES)]
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text("\n".join(f"{wnid}\tclass {wnid[-3:]}" for wnid in wnids))
    annotations, number = [], 0
    for wnid in wnids:
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for place in range(train + test):
            path = folder / f"{wnid}_{place}.JPEG"
            if place >= train:
                path = root / "val" / "images" / f"val_{number}.JPEG"
                annotations.append(f"{path.name}\t{wnid}\t0\t0\t63\t63")
            path.write_bytes(jpeg(number))
            number += 1
    (root / "val" / "val_annotations.txt").write_text("\n".join(annotations))


PATTERN = Image.effect_noise((64, 64), 60).convert("RGB")


def jpeg(number: int) -> bytes:
    """An image that shows its number as a colour."""
    image, stream = PATTERN.copy(), BytesIO()
    image.paste((number % 256, number // 256 % 256, number // 65536), (0, 0, 32, 32))
    image.save(stream, "JPEG")
    return stream.getvalue()


def write_table(path: Path, rows: int) -> None:
    """A parquet file of ten classes in a single row group; images are followed by noise, so that none is small."""
    noise = np.random.default_rng(0)
    images = [jpeg(row) + noise.bytes(IMAGE_BYTES) for row in range(rows)]
    pq.write_table(pa.table({"image": images, "label": [f"class {row % 10}" for row in range(rows)]}), path)


if __name__ == "__main__":
    main()
