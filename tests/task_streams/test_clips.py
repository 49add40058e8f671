"""Which frames of a clip are sampled, and what counts as damage; the frames of generated clips tell their number."""

import multiprocessing
import os
import pickle
import time
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from task_streams.errors import UserError
from task_streams.sources import clips
from task_streams.sources.clips import ClipCache, ClipDecoder, display_times, sampled_indices
from task_streams.sources.records import Damaged, FileSource
from task_streams.types import Clip
from tests.shared_data import shared
from tests.task_streams.clips import flat, number_of, turned, write_clip, write_sound


def decoded(path: Path, **settings: object) -> Clip:
    return ClipDecoder(**settings)(FileSource(path))  # type: ignore[arg-type]


def numbers(clip: Clip) -> list[int]:
    return [number_of(frame) for frame in clip.frames]


def test_frames_are_sampled_by_time_and_in_the_order_they_are_shown(tmp_path: Path) -> None:
    # the last gap is 0.9 s, so the clip lasts 2.9 s; on display at 0: 0, 0.5: 2 (from 0.2), 1: 3, 1.5: 4 (from 1.1),
    # 2: 5, 2.5: 5
    path = write_clip(tmp_path / "clip.mkv", 6, stamps=[0, 100, 200, 1000, 1100, 2000])
    assert numbers(decoded(path, fps=2)) == [0, 2, 3, 4, 5, 5]
    for name in ("clip.mp4", "clip.avi"):  # stored out of order
        clip = decoded(write_clip(tmp_path / name, 30, between=2), fps=10, max_frames=40)
        assert numbers(clip) == list(range(30))


def test_a_clip_too_large_to_be_held_gives_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30)
    held = decoded(path)
    monkeypatch.setattr(clips, "HELD_BYTES", 5 * 2 * 32 * 32)  # room for five frames
    assert decoded(path) == held


def test_frames_are_made_smaller_in_proportion_where_they_are_large_and_turned_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [flat(1, (64, 48))] * 3)
    assert decoded(path, max_side=32).frames[0].size == (32, 24)
    assert decoded(path, max_side=100).frames[0].size == (64, 48)
    dark_left = Image.new("RGB", (64, 32), (220, 220, 220))
    dark_left.paste((20, 20, 20), (0, 0, 32, 32))
    frame = decoded(turned(write_clip(tmp_path / "clip.mp4", [dark_left] * 4))).frames[0]
    assert frame.size == (32, 64)  # a quarter turn clockwise: what was left is on top
    brightness = np.asarray(frame).mean(axis=(1, 2))
    assert brightness[:30].max() < 60
    assert brightness[-30:].min() > 180


def damage(path: Path) -> str:
    with pytest.raises(Damaged) as caught:
        decoded(path)
    return str(caught.value)


def test_a_clip_that_breaks_off_says_so(tmp_path: Path) -> None:
    noise = [Image.effect_noise((64, 64), 90).convert("RGB") for _ in range(30)]
    for name, reason in (
        ("clip.mp4", "no readable video: Invalid data"),  # its table of frames comes last
        ("clip.avi", "the file breaks off inside of a frame"),
        ("clip.mkv", r"cut off: \d\.\d\d of 3\.00 declared seconds"),
    ):
        path = write_clip(tmp_path / name, noise)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(Damaged, match=reason):
            decoded(path)


def test_what_is_no_clip_says_why_and_a_playlist_does_not_lead_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("a text\n" * 100)
    assert damage(tmp_path / "empty.mp4") == "an empty file"
    assert damage(tmp_path / "text.mp4") == "no readable video: Invalid data found when processing input"
    assert damage(write_sound(tmp_path / "sound.mp4")) == "no video in the file"
    assert damage(tmp_path / "none.mp4") == "No such file or directory"
    path = write_clip(tmp_path / "secret.mp4", 30)
    for name, text in (
        ("concat.mp4", f"ffconcat version 1.0\nfile '{path}'\n"),
        ("hls.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{path}\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        assert damage(tmp_path / name).startswith("no readable video")


ROOM = 10 * 2**20


def noisy(path: Path) -> Path:
    return write_clip(path, [Image.effect_noise((64, 64), 60).convert("RGB") for _ in range(20)])


def files(cache: ClipCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_a_damaged_entry_is_written_again_and_what_a_killed_writer_left_removed_later(tmp_path: Path) -> None:
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
    old, young = cache.folder / "old.part", cache.folder / "young.part"
    for path in (old, young):
        path.write_bytes(b"half a clip")
    os.utime(old, (time.time() - 7200,) * 2)
    decoder(FileSource(write_clip(tmp_path / "other.mp4", 5)))
    assert not old.exists()
    assert young.exists()  # may be another process's, at work


def _use(paths: list[Path], cache: ClipCache, answers: "multiprocessing.Queue[list[int]]") -> None:
    decoder = ClipDecoder(cache=cache)
    answers.put([hash(tuple(frame.tobytes() for frame in decoder(FileSource(path)).frames)) for path in paths * 5])


def test_several_processes_share_a_cache_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_cache_needs_a_folder_that_can_be_written_and_travels_to_workers(tmp_path: Path) -> None:
    decoder = ClipDecoder(cache=ClipCache(tmp_path, ROOM))
    assert pickle.loads(pickle.dumps(decoder)) == decoder
    (tmp_path / "clips").write_text("a file where the folder should be")
    decoder = ClipDecoder(cache=ClipCache(tmp_path / "clips", ROOM))
    with pytest.raises(UserError, match=r"decoded clips cannot be kept \(.*\); make room or set cache_mb=0"):
        decoder(FileSource(write_clip(tmp_path / "clip.mp4", 10)))


@pytest.mark.parametrize(
    ("name", "count", "settings", "expected"),
    [
        # 30 frames at 10 a second last 3 s: at 2 a second the frames on display at 0, 0.5, 1, 1.5, 2, 2.5 s
        ("clip.mp4", 30, {}, [0, 5, 10, 15, 20, 25]),
        ("clip.avi", 30, {}, [0, 5, 10, 15, 20, 25]),
        ("clip.mkv", 30, {}, [0, 5, 10, 15, 20, 25]),
        # at most 4 frames: one every 0.75 s, at 0, 0.75, 1.5, 2.25 s; frame 7 is on display from 0.7 to 0.8 s
        ("clip.mp4", 30, {"max_frames": 4}, [0, 7, 15, 22]),
        # 0.3 s: two frames are one every 0.15 s, at 0 and 0.15 s
        ("clip.mp4", 3, {}, [0, 1]),
        ("clip.mp4", 1, {}, [0, 0]),
    ],
)
def test_frames_come_at_the_set_rate_over_the_whole_clip_two_at_least_and_no_more_than_asked(
    tmp_path: Path, name: str, count: int, settings: dict[str, int], expected: list[int]
) -> None:
    clip = decoded(write_clip(tmp_path / name, count), fps=2, **settings)
    assert numbers(clip) == expected
    seconds = {30: 3, 3: 0.3, 1: 1}[count]  # a single frame lasts 2 / fps
    assert clip.fps == pytest.approx(len(expected) / seconds)
    assert {(frame.mode, frame.size) for frame in clip.frames} == {("RGB", (32, 32))}


def test_times_are_sorted_and_made_up_from_the_rate_where_there_are_none_and_sampling_has_its_bounds() -> None:
    assert display_times([Fraction(1), Fraction(3), Fraction(2)], None) == [1, 2, 3]
    assert display_times([None, None, Fraction(9)], Fraction(4)) == [0, Fraction(1, 4), Fraction(1, 2)]
    with pytest.raises(Damaged, match="without time stamps in a video without a frame rate"):
        display_times([None], None)
    # 5.0, 5.1, ... 5.9: 1 s long, sampled at 5.0 and 5.5
    assert sampled_indices([5 + Fraction(i, 10) for i in range(10)], Fraction(2), 16) == ([0, 5], Fraction(2))
    for count, fps, most in product((1, 2, 3, 7, 100), (Fraction(1, 7), Fraction(2), Fraction(2997, 100)), (2, 3, 16)):
        indices, _ = sampled_indices([Fraction(i, 24) for i in range(count)], fps, most)
        assert 2 <= len(indices) <= most
        assert indices == sorted(indices)
        assert indices[0] == 0


@pytest.mark.parametrize(
    ("name", "frames", "fps", "size"),
    [
        # 164 frames at 25 a second are 6.56 s: ceil(6.56 * 2) = 14 frames; the file stores them out of order
        ("ucf101_mini/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", 14, 2.0, (320, 240)),
        # 280 frames at 28 a second are 10 s: 16 frames, 1.6 a second
        ("clips_other/kinetics/arm_wrestling/demo.mp4", 16, 1.6, (340, 256)),
    ],
)
def test_real_clips_are_sampled(name: str, frames: int, fps: float, size: tuple[int, int]) -> None:
    clip = decoded(shared(name))
    assert (len(clip.frames), clip.fps, clip.frames[0].size) == (frames, fps, size)


def test_a_real_clip_cut_off_is_damaged_and_one_in_mkv_sampled(tmp_path: Path) -> None:
    whole = (shared("ucf101_mini") / "UCF-101/BaseballPitch/v_BaseballPitch_g01_c01.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: int(0.9 * len(whole))])
    assert damage(tmp_path / "cut.avi") == "the file breaks off inside of a frame"
    assert len(decoded(shared("clips_other") / "kinetics/flipping_pancake/flipping_a_pancake.mkv").frames) == 16


def test_a_cached_clip_equals_a_fresh_one_and_is_decoded_anew_for_another_file_or_settings_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = FileSource(noisy(tmp_path / "clip.mp4")), ClipCache(tmp_path / "clips", ROOM)
    reads, read = Counter[str](), FileSource.read

    def counted(self: FileSource) -> bytes:
        reads[self.name] += 1
        return read(self)

    monkeypatch.setattr(FileSource, "read", counted)
    fresh = ClipDecoder()(source)
    first, second = ClipDecoder(cache=cache)(source), ClipDecoder(cache=cache)(source)
    assert first == second == fresh
    assert [frame.tobytes() for frame in second.frames] == [frame.tobytes() for frame in fresh.frames]
    assert ClipDecoder(feed="video", cache=cache)(source).feed == "video"
    assert reads[source.name] == 2  # without the cache, and the first time with it
    assert len(ClipDecoder(fps=5, cache=cache)(source).frames) == 10
    write_clip(tmp_path / "clip.mp4", 10)
    assert len(ClipDecoder(cache=cache)(source).frames) == 2  # of 1 s
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(Damaged, match="No such file"):
        ClipDecoder(cache=cache)(source)


def test_what_was_used_the_longest_ago_goes_first_and_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    clip = decoded(noisy(tmp_path / "clip.mp4"))
    roomy = ClipCache(tmp_path / "clips", ROOM)
    roomy.store("a", clip.frames, clip.fps)
    roomy.store("b", clip.frames, clip.fps)
    for age, name in ((300, "a"), (200, "b")):
        os.utime(roomy.folder / f"{name}.zip", (time.time() - age,) * 2)
    size = (roomy.folder / "a.zip").stat().st_size
    ClipCache(roomy.folder, size - 1).store("c", clip.frames, clip.fps)
    assert files(roomy) == ["a.zip", "b.zip"]
    tight = ClipCache(roomy.folder, int(2.5 * size))
    assert tight.load("a") is not None  # used just now, so b is the oldest
    tight.store("c", clip.frames, clip.fps)
    assert files(tight) == ["a.zip", "c.zip"]


def with_sound(path: Path, seconds: float, last: int = 100) -> Path:
    """A clip of 3 seconds beside longer sound, whose last frame stays for ``last`` milliseconds."""
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=16000)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        video.codec_context.qmin = video.codec_context.qmax = 1
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        packets: list[Any] = []
        for number in range(30):
            frame = av.VideoFrame.from_image(flat(number))  # type: ignore[no-untyped-call]
            frame.pts, frame.time_base = 100 * number, Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode()
        packets = [packet for packet in packets if packet.size]
        packets[-1].duration = last
        for number in range(int(seconds * 16000 / 1024)):
            quiet = np.zeros((1, 1024), dtype=np.float32)
            heard = av.AudioFrame.from_ndarray(quiet, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 16000, 1024 * number
            packets += sound.encode(heard)
        packets += sound.encode()
        for packet in sorted((one for one in packets if one.size), key=lambda one: one.dts * one.time_base):
            container.mux(packet)
    return path


@pytest.mark.parametrize(("seconds", "last"), [(10, 100), (0, 8000)])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_sound_that_goes_on_and_a_last_frame_that_stays_are_no_cut(
    tmp_path: Path, name: str, seconds: float, last: int
) -> None:
    path = with_sound(tmp_path / name, seconds, last)
    assert numbers(decoded(path, fps=2)) == [0, 5, 10, 15, 20, 25]
    data = path.read_bytes()
    path.write_bytes(data.replace(b"DURATION", b"DURATI0N"))  # a file without lengths of its streams
    assert numbers(decoded(path, fps=2)) == [0, 5, 10, 15, 20, 25]
    path.write_bytes(data[: int(0.4 * len(data))])
    assert damage(path).startswith(("cut off", "no readable video"))


def test_frames_that_an_edit_list_hides_are_no_cut_but_those_that_are_missing_are(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30, fast_start=True)
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12  # version and flags, number of entries; then duration and start of the only one
    length, start = (int.from_bytes(data[place + at : place + at + 4], "big") for at in (0, 4))
    step = Fraction(3) / length  # seconds
    data[place : place + 4] = (length // 3).to_bytes(4, "big")
    scale = int.from_bytes(data[(at := data.index(b"mdhd") + 16) : at + 4], "big")
    data[place + 4 : place + 8] = (start + 2 * scale).to_bytes(4, "big")
    assert step * length == 3
    path.write_bytes(data)
    assert numbers(decoded(path, fps=2)) == [20, 25]  # the last of 3 seconds
    path.write_bytes(data[: data.index(b"mdat") + int(0.75 * (len(data) - data.index(b"mdat")))])
    assert damage(path).startswith(("cut off", "the file breaks off"))
