"""The cache of decoded clips: nothing lost, nothing above its limit, whatever other processes do."""

import multiprocessing
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from task_streams.errors import UserError
from task_streams.sources.clips import ClipCache, ClipDecoder
from task_streams.sources.records import Damaged, FileSource
from tests.task_streams.clips import write_clip

ROOM = 10 * 2**20


@dataclass(frozen=True)
class Watched(FileSource):
    """A file that tells how often it was read."""

    def read(self) -> bytes:
        with open(f"{self.path}.reads", "a") as file:
            file.write("x")
        return super().read()

    @property
    def reads(self) -> int:
        tally = Path(f"{self.path}.reads")
        return len(tally.read_text()) if tally.exists() else 0


def noisy(path: Path) -> Path:
    return write_clip(path, [Image.effect_noise((64, 64), 60).convert("RGB") for _ in range(20)])


def files(cache: ClipCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_a_cached_clip_equals_a_fresh_one_and_is_not_decoded_again(tmp_path: Path) -> None:
    source = Watched(noisy(tmp_path / "clip.mp4"))
    fresh = ClipDecoder(fps=3)(source)
    decoder = ClipDecoder(fps=3, cache=ClipCache(tmp_path / "clips", ROOM))
    first, second = decoder(source), decoder(source)
    assert first == second == fresh
    assert [frame.tobytes() for frame in second.frames] == [frame.tobytes() for frame in fresh.frames]
    assert source.reads == 2  # without the cache, and the first time with it


def test_the_feed_of_a_cached_clip_is_that_of_the_decoder(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "clip.mp4", 10))
    cache = ClipCache(tmp_path / "clips", ROOM)
    assert ClipDecoder(feed="images", cache=cache)(source).feed == "images"
    assert ClipDecoder(feed="video", cache=cache)(source).feed == "video"
    assert len(files(cache)) == 1


def test_another_file_or_other_settings_are_decoded_anew(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "clip.mp4", 10))
    cache = ClipCache(tmp_path / "clips", ROOM)
    before = ClipDecoder(cache=cache)(source)
    assert len(ClipDecoder(fps=5, cache=cache)(source).frames) == 5
    write_clip(tmp_path / "clip.mp4", 20)
    assert len(ClipDecoder(cache=cache)(source).frames) == 2 * len(before.frames)
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(Damaged, match="No such file"):
        ClipDecoder(cache=cache)(source)


def test_what_was_used_the_longest_ago_goes_first(tmp_path: Path) -> None:
    roomy = ClipCache(tmp_path / "clips", ROOM)
    frames, fps = ClipDecoder()._decoded(FileSource(noisy(tmp_path / "clip.mp4")))
    roomy.store("a", frames, fps)
    roomy.store("b", frames, fps)
    for age, name in ((300, "a"), (200, "b")):
        os.utime(roomy.folder / f"{name}.zip", (time.time() - age,) * 2)
    size = (roomy.folder / "a.zip").stat().st_size
    tight = ClipCache(roomy.folder, int(2.5 * size))
    assert tight.load("a") is not None  # used just now, so b is the oldest
    tight.store("c", frames, fps)
    assert files(tight) == ["a.zip", "c.zip"]


def test_a_clip_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "clips", 1000)
    clip = ClipDecoder(cache=cache)(FileSource(noisy(tmp_path / "clip.mp4")))
    assert len(clip.frames) == 4
    assert not cache.folder.exists()


def test_a_damaged_entry_is_written_again(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "clip.mp4", 10))
    cache = ClipCache(tmp_path / "clips", ROOM)
    decoder = ClipDecoder(cache=cache)
    clip = decoder(source)
    entry = next(cache.folder.iterdir())
    whole = entry.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], whole.replace(b"RIFF", b"RIFX"), b"not a zip"):
        entry.write_bytes(broken)
        assert decoder(source) == clip
        assert entry.read_bytes() == whole


def test_what_a_killed_writer_left_is_removed_later_and_never_read(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "clips", ROOM)
    cache.folder.mkdir()
    old, young = cache.folder / "old.part", cache.folder / "young.part"
    for path in (old, young):
        path.write_bytes(b"half a clip")
    os.utime(old, (time.time() - 7200,) * 2)
    ClipDecoder(cache=cache)(FileSource(write_clip(tmp_path / "clip.mp4", 10)))
    assert not old.exists()
    assert young.exists()  # may be another process's, at work


def _use(paths: list[Path], cache: ClipCache, answers: "multiprocessing.Queue[list[int]]") -> None:
    decoder = ClipDecoder(cache=cache)
    answers.put([hash(tuple(frame.tobytes() for frame in decoder(FileSource(path)).frames)) for path in paths * 5])


def test_several_processes_share_a_cache_that_is_too_small_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    paths = [noisy(tmp_path / f"{i}.mp4") for i in range(4)]
    cache = ClipCache(tmp_path / "clips", 100_000)  # about two of them
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=_use, args=(paths[::way], cache, answers)) for way in (1, -1)]
    for worker in workers:
        worker.start()
    one, other = answers.get(timeout=120), answers.get(timeout=120)
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert sorted(one) == sorted(other)
    assert len(set(one)) == 4
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= cache.limit
    assert all(name.endswith(".zip") for name in files(cache))


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "clips").write_text("a file where the folder should be")
    decoder = ClipDecoder(cache=ClipCache(tmp_path / "clips", ROOM))
    with pytest.raises(UserError, match=r"decoded clips cannot be kept \(.*\); make room or set cache_mb=0"):
        decoder(FileSource(write_clip(tmp_path / "clip.mp4", 10)))


def test_without_a_folder_or_without_room_there_is_no_cache(tmp_path: Path) -> None:
    assert ClipCache.below(None, 4096) is None
    assert ClipCache.below(tmp_path, 0) is None
    assert ClipCache.below(tmp_path, 2) == ClipCache(tmp_path / "clips", 2 * 2**20)


def test_a_decoder_with_a_cache_travels_to_workers(tmp_path: Path) -> None:
    decoder = ClipDecoder(cache=ClipCache(tmp_path, ROOM))
    assert pickle.loads(pickle.dumps(decoder)) == decoder
