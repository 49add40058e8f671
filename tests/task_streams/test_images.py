import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from task_streams.sources.images import IMAGES, decode_image
from task_streams.sources.records import Damaged, FileSource

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(side: int = 64) -> Image.Image:
    return Image.effect_noise((side, side), 90).convert("RGB")


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "BMP"])
def test_images_of_any_mode_and_format_come_out_as_rgb(form: str) -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA", *(["LA"] if form != "BMP" else [])):  # BMP has no LA
        image = decode_image(encoded(Image.new(mode, (5, 3)), form))
        assert (image.mode, image.size) == ("RGB", (5, 3))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_image_is_turned_upright_by_its_exif_orientation_unless_that_is_damaged() -> None:
    # Orientation 6: the stored rows run from right to left, the stored left column is the top.
    stored = Image.new("RGB", (4, 2))
    stored.paste(WHITE, (0, 0, 1, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = np.asarray(decode_image(encoded(stored, "PNG", exif=exif)))
    assert shown.shape == (4, 2, 3)
    assert shown[:, :, 0].tolist() == [[255, 255], [0, 0], [0, 0], [0, 0]]
    for damaged in (b"Exif\0\0no such thing", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3"):
        assert decode_image(encoded(stored, "JPEG", exif=damaged)).size == (4, 2)


def test_colours_of_inverted_cmyk_and_the_high_byte_of_grey_of_16_bits_are_kept() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")  # no cyan, all magenta and yellow: red
    with Image.open(BytesIO(data)) as image:
        assert (image.mode, "adobe" in image.info) == ("CMYK", True)
    assert decode_image(data).getpixel((8, 8)) == RED
    values = np.array([[0, 255, 256], [0x8000, 0xFEFF, 0xFFFF]], np.uint16)
    shown = np.asarray(decode_image(encoded(Image.fromarray(values), "PNG")))
    assert shown[:, :, 0].tolist() == [[0, 0, 1], [0x80, 0xFE, 0xFF]]
    assert (shown[:, :, 1] == shown[:, :, 0]).all()


def test_an_animation_is_refused_with_its_number_of_frames_and_a_photo_with_a_second_view_is_one_image() -> None:
    red, *more = (Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue"))
    for form in ("GIF", "WEBP", "PNG"):
        with pytest.raises(Damaged, match=r"^an animation of 3 frames; expected one image$"):
            decode_image(encoded(red, form, save_all=True, append_images=more))
    data = encoded(red, "MPO", save_all=True, append_images=more[1:])
    with Image.open(BytesIO(data)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    r, _, b = decode_image(data).getpixel((8, 8))  # type: ignore[misc]
    assert r > 250 and b < 5


def test_a_file_that_ends_too_early_is_damaged_and_damaged_bytes_raise_nothing_else() -> None:
    for data in (encoded(noise(), form) for form in ("JPEG", "PNG", "WEBP", "BMP")):
        with pytest.raises(Damaged):
            decode_image(data[: len(data) * 3 // 4])
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 3
    wholes = [encoded(noise(24), form, exif=exif) for form in ("JPEG", "PNG", "WEBP")] + [encoded(noise(24), "GIF")]
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(400):
            data = np.frombuffer(wholes[turn % len(wholes)], np.uint8).copy()
            data[rng.integers(0, min(len(data), 300), size=4)] = rng.integers(0, 256, size=4)
            try:
                assert decode_image(data.tobytes()).mode == "RGB"
            except Damaged:
                refused += 1
    assert 0 < refused < 400


@pytest.mark.parametrize(
    ("mode", "background", "red", "options"),
    [
        ("P", 0, 1, {"transparency": 0}),
        ("RGBA", (0, 0, 0, 0), (*RED, 255), {}),
        ("RGB", (0, 0, 0), RED, {"transparency": (0, 0, 0)}),
    ],
)
def test_what_is_transparent_is_laid_on_white(mode: str, background: Any, red: Any, options: dict[str, Any]) -> None:
    given = Image.new(mode, (2, 1), background)
    if mode == "P":
        given.putpalette([0, 0, 0, *RED])
    given.putpixel((1, 0), red)
    image = decode_image(encoded(given, "PNG", **options))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]
    half = decode_image(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG"))
    assert half.getpixel((0, 0)) == (204, 204, 204)  # 51/255 = 0.2 of black, 0.8 * 255 = 204


def test_what_is_no_image_a_decompression_bomb_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    side = int((2.1 * (Image.MAX_IMAGE_PIXELS or 0)) ** 0.5)  # Pillow refuses what exceeds its limit twice
    for data, said in (
        (b"", r"^the file is empty$"),
        (b"<html>404</html>", r"^no BMP, GIF, JPEG, PNG or WEBP image in its 16 bytes$"),
        # a format that starts another program is not tried
        (encoded(noise(8), "EPS"), "no BMP, GIF, JPEG, PNG or WEBP image"),
        (encoded(Image.new("1", (side, side)), "PNG"), "decompression bomb"),
    ):
        with pytest.raises(Damaged, match=said):
            decode_image(data)
    (tmp_path / "x.png").write_bytes(encoded(Image.new("RGB", (3, 2), RED), "PNG"))
    assert IMAGES(FileSource(tmp_path / "x.png")).getpixel((0, 0)) == RED
    with pytest.raises(Damaged, match="No such file"):
        IMAGES(FileSource(tmp_path / "y.png"))


def png16(values: np.ndarray[Any, Any], colour: int, significant: bytes = b"") -> bytes:
    """A PNG file of 16 bits a channel, [height, width, channels]."""

    def chunk(kind: bytes, held: bytes) -> bytes:
        return len(held).to_bytes(4, "big") + kind + held + zlib.crc32(kind + held).to_bytes(4, "big")

    height, width = values.shape[:2]
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    extra = chunk(b"sBIT", significant) if significant else b""
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + pixels


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_values_of_fewer_bits_in_a_16_bit_file_are_scaled_by_what_it_declares_or_holds(
    colour: int, channels: int
) -> None:
    for largest, declared, bits, left, right in (
        (4095, 0, 12, 255, 128),  # 2048 >> 4
        (1000, 0, 10, 250, 125),  # 500 >> 2
        (1000, 12, 12, 62, 31),  # 1000 >> 4
        (4095, 10, 12, 255, 128),  # values larger than declared
        (65535, 12, None, 255, 128),
        (0, 0, None, 0, 0),
    ):
        values = np.zeros((1, 2, channels), dtype=int)
        values[0, :, :] = [[largest], [(largest + 1) // 2]]
        if channels in (2, 4):
            values[..., -1] = 65535
        image = decode_image(png16(values, colour, bytes([declared] * channels) if declared else b""))
        assert (image.getpixel((0, 0)), image.getpixel((1, 0))) == ((left,) * 3, (right,) * 3)
        assert image.info.get("bits") == bits
