"""Task-incremental streams of questions about images: the benchmarks of continual instruction tuning.

Layout: ``root/<questions>/<task>/{train,test}.json`` and images below ``root/<images>`` (``question_files.py``).
CoIN (arXiv 2403.08350) and UCIT (arXiv 2503.12941) are named, each with its published order. What a question
says beyond asking ("Answer the question using a single word or phrase.") stays in its text.
Deliberately absent: captions (BLEU, METEOR, ROUGE-L, CIDEr) and grounding (IoU above 0.5), which no exact match
scores; CoIN's Grounding and UCIT's VizWiz and Flickr30k are therefore left out, and refused when named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from task_streams.config import Count, SourceConfig, listed_twice
from task_streams.errors import UserError, shown, unknown_name
from task_streams.registry import StreamSpec
from task_streams.scenarios.question_tasks import QuestionReader, draw_questions
from task_streams.scenarios.shots import listed_records
from task_streams.scenarios.split import class_order
from task_streams.sources.layout import as_shown, joined, subfolders
from task_streams.sources.library import Library, all_problems
from task_streams.sources.question_files import QuestionFile, read_questions
from task_streams.sources.records import Split, Workspace
from task_streams.types import TaskStream

SPLITS: tuple[Split, ...] = ("train", "test")
DEFAULT_FILES = "train.json:test.json"


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(SourceConfig):
    """Questions about images in several tasks, a new kind of question in each."""

    root: str
    """Path of the folder that holds the questions and, unless ``images`` says otherwise, the images."""
    tasks: tuple[str, ...] = ()
    """Task folders in their learning order: NAME for NAME/{train,test}.json, or NAME=TRAIN:TEST (file names)."""
    task_order: Literal["seeded", "given"] = "given"
    """Order of the tasks: given (as listed) or seeded (from the order seed)."""
    questions: str = ""
    """Folder of the task folders, below the root; empty = the root itself."""
    images: str = ""
    """Folder that image paths start at, below the root or absolute; empty = the root itself."""
    rule: Literal["exact", "relaxed_number", "relaxed_all", "auto"] = "exact"
    """exact; relaxed_number (5 % off is right, whole numbers exact); relaxed_all; auto (relaxed for numeric truths)."""
    repeated_ids: Literal["error", "tell_apart"] = "error"
    """Rows of one file that share an id: error, or tell_apart (by their content; equal rows are one item)."""
    shots: Count | None = 200
    """Training questions per task, >= 1; null = all."""
    test_per_class: Count | None = 200
    """Test questions per task (there are no classes), >= 1; null = all."""

    def problems(self) -> list[str]:
        problems = super().problems()
        if not self.tasks:
            problems.append("tasks is empty; expected the names of the task folders, in their order")
        problems += listed_twice("task", (entry.partition("=")[0] for entry in self.tasks))
        form = "expected the name of a folder, or NAME=TRAIN:TEST with two names of files in it"
        for entry in self.tasks:
            name, equals, files = entry.partition("=")
            train, colon, test = files.partition(":")
            parts = [name, train, test] if equals else [name]
            plain = all(part and PurePosixPath(part).parts == (part,) and part != ".." for part in parts)
            if not plain or bool(equals) != bool(colon):
                problems.append(f"task {entry!r}: {form}")
        return problems


@dataclass(frozen=True, kw_only=True)
class CoinConfig(QuestionsConfig):
    """CoIN: seven kinds of question in their published order (its sixth of eight, Grounding, is left out)."""

    tasks: tuple[str, ...] = (
        "ScienceQA",
        "TextVQA=train.json:val.json",
        "ImageNet",
        "GQA",
        "VizWiz=train.json:val.json",
        "VQAv2=train.json:val.json",
        "OCRVQA",
    )
    questions: str = "Instructions_Original"
    images: str = "cl_dataset"
    repeated_ids: Literal["error", "tell_apart"] = "tell_apart"


@dataclass(frozen=True, kw_only=True)
class UcitConfig(QuestionsConfig):
    """UCIT: four kinds of question in their published order (its captions, VizWiz and Flickr30k, are left out)."""

    tasks: tuple[str, ...] = (
        "ImageNet-R=train.json:test_3000.json",
        "ArxivQA=train_4w.json:test_3000.json",
        "IconQA=train.json:test_3000.json",
        "CLEVR=train_4w.json:test_3000.json",
    )
    questions: str = "instructions"
    images: str = "datasets"
    repeated_ids: Literal["error", "tell_apart"] = "tell_apart"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published series of tasks.

    Attributes:
        name: name of the stream.
        origin: where its data are.
        unscored: tasks that no exact match scores, each with the reason.
    """

    name: str
    origin: str = "your own files"
    unscored: Mapping[str, str] = field(default_factory=dict)


CAPTION = "captions are scored by BLEU, METEOR, ROUGE-L and CIDEr, not by an exact match"
OWN = Benchmark("questions_til")
COIN = Benchmark(
    "coin_til",
    "huggingface.co/datasets/Zacks-Chen/CoIN, with the images that github.com/zackschen/CoIN lists",
    {"Grounding": "boxes are scored by IoU above 0.5, not by an exact match"},
)
UCIT = Benchmark(
    "ucit_til",
    "huggingface.co/datasets/HaiyangGuo/UCIT, with the images that github.com/Ghy0501/HiDe-LLaVA lists",
    {"VizWiz": CAPTION, "Flickr30k": CAPTION},
)


def til_stream(benchmark: Benchmark, config: QuestionsConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Task-incremental stream of a benchmark's files, one task for each entry of ``tasks``.

    Raises:
        UserError: folders, files, rows or images that are not as expected, all at once; a list that does not resolve.
    """
    files = question_files(benchmark, config)
    read = {name: [read_questions(file) for file in pair] for name, pair in files.items()}
    found = as_shown(joined(part for parts in read.values() for part in parts))
    reader = QuestionReader(Library(workspace, config.on_damaged), next(iter(files.values()))[0].images)
    order = class_order(tuple(files), order_seed) if config.task_order == "seeded" else tuple(files)
    with all_problems(found, reader.library):
        records, shots = found.records, config.shots
        if config.shots_list is not None:
            records, shots = listed_records(config.shots_list, records), None
        sound = [name for name in order if not any(part.problems for part in read[name])]
        tasks, notes = draw_questions(sound, records, config, shots, reader)
    left_out = [f"{name} is left out: {reason}" for name, reason in benchmark.unscored.items()]
    shared = reader.shared_images(tasks)
    notes = [*found.notes, *left_out, *notes, *shared, *reader.library.report()[1]]
    return TaskStream(benchmark.name, "til", order_seed, tasks, tuple(notes))


def question_files(benchmark: Benchmark, config: QuestionsConfig) -> dict[str, list[QuestionFile]]:
    """Training and test file of each task.

    Raises:
        UserError: the root, its folders, a task or a file is missing, or a task has no score here; all of them.
    """
    root = Path(config.root).expanduser()
    base, images = root / config.questions, root / Path(config.images).expanduser()
    expected = f"{benchmark.name} expects {config.questions or '.'}/<task>/*.json and images in {config.images or '.'}/"
    wanted = dict.fromkeys((root, base, images)) if root.is_dir() else [root]
    if missing := [folder for folder in wanted if not folder.is_dir()]:
        there = shown([entry.name for entry in subfolders(root)], 8) or "no folders" if root.is_dir() else "nothing"
        folders = shown([str(folder) for folder in missing])
        raise UserError(f"no folder {folders}: {expected}; found {there} in {root}. Data: {benchmark.origin}")
    images = images.resolve()
    problems: list[str] = []
    files: dict[str, list[QuestionFile]] = {}
    for entry in config.tasks:
        name, _, chosen = entry.partition("=")
        folder = base / name
        if name in benchmark.unscored:
            problems.append(f"task {name!r} has no score in {benchmark.name}: {benchmark.unscored[name]}; leave it out")
        elif not folder.is_dir():
            beside = [entry.name for entry in subfolders(base)]
            known = unknown_name("task folder", name, beside) if beside else f"no task folder {name!r}, nor any other."
            problems.append(f"{base}: {known}")
        else:
            files[name] = []
            for split, file in zip(SPLITS, (chosen or DEFAULT_FILES).split(":"), strict=True):
                path = folder / file
                if not path.is_file():
                    there = shown(sorted(path.name for path in folder.glob("*.json")), 8) or "no JSON files"
                    remedy = f"Name others as {name}=TRAIN:TEST"
                    problems.append(f"task {name}: no file {path}; found {there}. {remedy}")
                apart = config.repeated_ids == "tell_apart"
                files[name].append(QuestionFile(name, split, path, images, config.rule, apart))
    if problems:
        raise UserError(*problems)
    return files


MIXED = "that of each dataset"
TIL = StreamSpec(
    QuestionsConfig,
    partial(til_stream, OWN),
    "your own questions about images, a task per folder",
    MIXED,
    "none: your own files",
)
COIN_TIL = StreamSpec(
    CoinConfig,
    partial(til_stream, COIN),
    "CoIN: instruction tuning on seven question sets, in the published order",
    MIXED,
    "Chen et al., CoIN: A Benchmark of Continual Instruction Tuning for Multimodal Large Language Models, 2024, "
    "arXiv:2403.08350",
)
UCIT_TIL = StreamSpec(
    UcitConfig,
    partial(til_stream, UCIT),
    "UCIT: instruction tuning on four question sets, in the published order",
    "CC BY 4.0 (questions); images: that of each dataset",
    "Guo et al., HiDe-LLaVA: Hierarchical Decoupling for Continual Instruction Tuning, 2025, arXiv:2503.12941",
)
