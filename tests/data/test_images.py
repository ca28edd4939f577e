"""Every kind of image file becomes RGB bytes, and what is no image is named."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from safa.data.images import CorruptImageError, check_header, decode, decode_bytes, in_threads
from safa.errors import UserError


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def colours(path: Path) -> list[list[int]]:
    """The pixels of the first row, as RGB triples."""
    return decode(path)[:, 0].T.tolist()


def test_rgb_is_channels_first_and_unchanged(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)
    image = decode(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image.dtype == np.uint8
    assert np.array_equal(image, pixels.transpose(2, 0, 1))
    assert image.flags.c_contiguous


def test_grayscale_is_repeated(tmp_path):
    assert colours(save(Image.new("L", (1, 1), 77), tmp_path / "a.png")) == [[77, 77, 77]]


def test_one_bit_is_black_and_white(tmp_path):
    assert colours(save(Image.new("1", (1, 1), 1), tmp_path / "a.png")) == [[255, 255, 255]]


@pytest.mark.parametrize(("mode", "clear", "half"), [("RGBA", (9, 9, 9, 0), (0, 0, 200, 51)), ("LA", (9, 0), (0, 51))])
def test_transparency_is_laid_over_white(tmp_path, mode, clear, half):
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), half)
    blue = 244 if mode == "RGBA" else 204
    assert colours(save(image, tmp_path / "a.png")) == [[255, 255, 255], [204, 204, blue]]


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 128, 0])
    image.putpixel((1, 0), 1)
    assert colours(save(image, tmp_path / "plain.png")) == [[255, 0, 0], [0, 128, 0]]
    assert colours(save(image, tmp_path / "clear.png", transparency=0)) == [[255, 255, 255], [0, 128, 0]]
    assert colours(save(image, tmp_path / "clear.gif", transparency=0)) == [[255, 255, 255], [0, 128, 0]]


def test_a_transparent_colour_of_an_rgb_png_becomes_white(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 8, 7))
    assert colours(save(image, tmp_path / "a.png", transparency=(1, 2, 3))) == [[255, 255, 255], [9, 8, 7]]


def test_a_transparent_gray_value_of_16_bits_becomes_white(tmp_path):
    image = Image.fromarray(np.array([[0, 257 * 100]], dtype=np.uint16))
    assert colours(save(image, tmp_path / "a.png", transparency=0)) == [[255, 255, 255], [100, 100, 100]]


def test_cmyk_is_converted(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = colours(save(image, tmp_path / "a.jpg", quality=100))[0]
    assert red > 250
    assert green < 5
    assert blue < 5


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_values_are_scaled_not_clipped(tmp_path, name):
    values = np.array([[0, 255, 257 * 100, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(values), tmp_path / name)
    assert [red for red, _, _ in colours(path)] == [0, 1, 100, 255]


def test_sixteen_bit_big_endian_tiff_is_scaled(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    path = save(image, tmp_path / "a.tif")
    assert [red for red, _, _ in colours(path)] == [0, 100, 255]


@pytest.mark.parametrize(
    "values", [np.uint8([0, 100, 255]), np.uint16([0, 25700, 65535]), np.float32([0, 100 / 255, 1])]
)
def test_a_tiff_that_counts_from_white_is_turned_round_whatever_its_bits(tmp_path, values):
    path = save(Image.fromarray(values[None]), tmp_path / "a.tif")
    photometric = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    before, black_is_zero, after = path.read_bytes().partition(photometric + b"\1")
    assert black_is_zero
    path.write_bytes(before + photometric + b"\0" + after)
    assert [red for red, _, _ in colours(path)] == [255, 155, 0]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 0.2, float("nan")], [0, 51, 0])]
)
def test_floats_go_from_0_to_1_and_missing_values_are_black(tmp_path, values, expected):
    path = save(Image.fromarray(np.array([values], dtype=np.float32)), tmp_path / "a.tif")
    assert [red for red, _, _ in colours(path)] == expected


@pytest.mark.parametrize(("kind", "ending"), [("<u2", "png"), (">u2", "tif")])
def test_every_value_of_16_bits_is_divided_by_257_and_rounded(tmp_path, kind, ending):
    values = np.arange(65536).reshape(256, 256)
    path = save(Image.fromarray(values.astype(kind)), tmp_path / f"a.{ending}")
    assert np.array_equal(decode(path)[0], np.rint(values / 257))


def test_integers_of_32_bits_are_scaled_as_those_of_16(tmp_path):
    path = save(Image.fromarray(np.array([[0, 200, 257 * 100, 65535]], dtype=np.int32)), tmp_path / "a.tif")
    assert [red for red, _, _ in colours(path)] == [0, 1, 100, 255]


@pytest.mark.parametrize("values", [[0, 131], [0, 131, 256]])
def test_a_bright_pixel_does_not_change_how_the_others_are_read(tmp_path, values):
    path = save(Image.fromarray(np.array([values], dtype=np.int32)), tmp_path / "a.tif")
    assert colours(path)[1] == [1, 1, 1]  # 131 / 257 = 0.51


OUT_OF_RANGE = [
    (np.float32, [0.0, 1.5], "from 0 to 1.5, outside [0, 1]"),
    (np.float32, [-0.25, 1.0], "from -0.25 to 1, outside [0, 1]"),
    (np.float32, [0.0, float("inf")], "from 0 to inf, outside [0, 1]"),
    (np.int32, [0, 65536], "from 0 to 65536, outside [0, 65535]"),
    (np.int32, [-1, 100], "from -1 to 100, outside [0, 65535]"),
]


@pytest.mark.parametrize(("kind", "values", "reason"), OUT_OF_RANGE)
@pytest.mark.parametrize("read", [decode, check_header])
def test_gray_values_out_of_range_are_named_and_not_guessed_at(tmp_path, kind, values, reason, read):
    path = save(Image.fromarray(np.array([values], dtype=kind)), tmp_path / "a.tif")
    with pytest.raises(CorruptImageError, match=r"a\.tif as an image: its gray values go .*; divide all") as caught:
        read(path)
    assert reason in caught.value.reason


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
def test_exif_rotation_is_applied(tmp_path, orientation, corner):
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(save(image, tmp_path / "a.jpg", exif=exif))[0] > 127
    row, column = corner
    assert upright[16 * row + 8, 16 * column + 8]
    assert upright.sum() == 16 * 16


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_tiff_is_what_a_turned_png_is(tmp_path, mode, orientation):
    values = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
    image, exif = Image.fromarray(values).convert(mode), Image.Exif()
    exif[0x0112] = orientation
    turned = ImageOps.exif_transpose(Image.open(save(image.convert("RGB"), tmp_path / "b.png", exif=exif)))
    found = decode(save(image, tmp_path / "a.tif", exif=exif))
    assert found.shape == (3, 60, 40)
    assert np.array_equal(found, np.asarray(turned.convert("RGB")).transpose(2, 0, 1))


def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path):
    path = save(Image.new("RGB", (8, 8), "red"), tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with pytest.warns(UserWarning, match="EXIF"):
        assert decode(path).shape == (3, 8, 8)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert colours(path)[0] == [255, 0, 0]


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (90, 90), (56, 900)])
def test_image_size_gives_the_centre_square(tmp_path, size):
    width, height = size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)[None]
    ramp[..., 1] = np.linspace(0, 255, height)[:, None]
    image = decode(save(Image.fromarray(ramp), tmp_path / "a.png"), 28)
    assert image.shape == (3, 28, 28)
    assert abs(image[0].mean() - 127.5) < 2
    assert abs(image[1].mean() - 127.5) < 2
    # The crop keeps 7/8 of the short side.
    short = image[0].astype(float) if width <= height else image[1].astype(float).T
    assert short[:, -1].mean() - short[:, 0].mean() == pytest.approx(255 * 7 / 8 * 27 / 28, abs=8)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3, 2)])
def test_a_tiny_or_endless_image_is_enlarged(tmp_path, size):
    assert decode(save(Image.new("RGB", size, "red"), tmp_path / "a.png"), 28).mean(axis=(1, 2)).tolist() == [
        255,
        0,
        0,
    ]


def test_cropping_while_resizing_matches_resizing_then_cropping(tmp_path):
    pixels = np.random.RandomState(1).randint(0, 256, (90, 120, 3), dtype=np.uint8)
    whole = Image.fromarray(pixels).resize((128, 96), Image.Resampling.BILINEAR)  # 84 * 8 / 7 = 96
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    literal = np.asarray(whole.crop((22, 6, 106, 90))).transpose(2, 0, 1).astype(int)
    assert np.abs(decode(path, 84) - literal).max() <= 2


def test_an_image_of_the_wanted_size_is_left_alone(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (28, 28, 3), dtype=np.uint8)
    assert np.array_equal(decode(save(Image.fromarray(pixels), tmp_path / "a.png"), 28), pixels.transpose(2, 0, 1))


def test_a_large_jpeg_decoded_at_reduced_size_looks_the_same(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 800).astype(np.uint8)[None, :, None], (800, 1, 3))
    path = save(Image.fromarray(ramp), tmp_path / "a.jpg", quality=95)
    full = save(Image.fromarray(ramp), tmp_path / "a.png")
    assert np.abs(decode(path, 56).astype(int) - decode(full, 56)).max() <= 4


def smooth(width: int, height: int) -> Image.Image:
    """Blotches some fifteenth of the picture wide: moved by a pixel of the result, they are another picture."""
    coarse = np.random.RandomState(2).randint(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize(("size", "most"), [((601, 403), 0), ((600, 403), 0), ((601, 400), 0), ((640, 480), 6)])
def test_a_jpeg_is_cut_where_its_own_pixels_are(tmp_path, size, most, turned):
    """Beside the same pixels in a PNG. At an eighth, 601 pixels would be 76, the last mostly padding."""
    exif = Image.Exif()
    exif[0x0112] = turned
    path = save(smooth(*size), tmp_path / "a.jpg", quality=95, exif=exif)
    with Image.open(path) as image:
        full = save(ImageOps.exif_transpose(image), tmp_path / "a.png")
    assert np.abs(decode(path, 28).astype(int) - decode(full, 28)).max() <= most


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.fixture
def broken(tmp_path):
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8))
    for name in ("cut.jpg", "cut.png"):
        truncated(save(noise, tmp_path / name))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is not an image")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    return tmp_path


NAMES = {
    "cut.jpg": "truncated",
    "cut.png": "",
    "empty.jpg": "the file is empty",
    "text.jpg": "not a known image format",
    "missing.jpg": "there is no such file",
    "folder.jpg": "directory",
    "dangling.jpg": "there is no such file",
    "loop.jpg": "symbolic links",
}


@pytest.mark.parametrize(("name", "reason"), NAMES.items())
@pytest.mark.parametrize("read", [decode, check_header, lambda path: decode(path, 32)])
def test_what_is_no_image_is_named_with_the_reason(broken, name, reason, read):
    with pytest.raises(CorruptImageError) as caught:
        read(broken / name)
    assert caught.value.file == str(broken / name)
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"cannot read {broken / name} as an image: ")
    assert isinstance(caught.value, UserError)


def test_bytes_after_the_end_of_a_jpeg_are_no_reason_to_refuse_it(tmp_path):
    path = save(Image.new("RGB", (16, 16), "red"), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 1000)
    check_header(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tif"])
def test_a_whole_image_passes_the_check(tmp_path, name):
    check_header(save(Image.new("RGB", (16, 16), "red"), tmp_path / name))


def test_a_decompression_bomb_is_an_error_with_a_name(tmp_path):
    path = save(Image.new("1", (20000, 20000)), tmp_path / "bomb.png")
    with pytest.raises(CorruptImageError, match=r"more than 178,956,970 pixels; scale it down or cut it"):
        decode(path, 32)


def test_large_images_are_read_without_pillows_warning_of_an_attack(tmp_path):
    path = save(Image.new("RGB", (15, 10)), tmp_path / "large.png")
    code = (
        "import sys; from pathlib import Path; from PIL import Image; from safa.data.images import decode; "
        "Image.MAX_IMAGE_PIXELS = 100; print(decode(Path(sys.argv[1])).shape)"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code, str(path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(3, 10, 15)\n", "")


def test_an_unreadable_file_is_reported(tmp_path, monkeypatch):
    path = save(Image.new("RGB", (2, 2)), tmp_path / "a.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(CorruptImageError, match="Permission denied"):
        decode(path)


def test_encoded_bytes_are_decoded_and_named_on_error():
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(stream, "PNG")
    assert decode_bytes(stream.getvalue(), "row 0").shape == (3, 2, 3)
    with pytest.raises(CorruptImageError, match="row 1"):
        decode_bytes(b"", "row 1")


def test_in_threads_keeps_the_order_and_collects_the_errors():
    def read(number: int) -> int:
        if number % 3 == 0:
            raise CorruptImageError(str(number), "divisible by three")
        return number

    outcomes = in_threads(read, range(100))
    assert [o if isinstance(o, int) else int(o.file) for o in outcomes] == list(range(100))
    assert sum(isinstance(o, CorruptImageError) for o in outcomes) == 34


def test_an_error_in_a_thread_that_is_not_about_an_image_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda number: 1 // number, [0])


def test_corrupt_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(CorruptImageError("a.jpg", "cut short")))
    assert (error.file, error.reason) == ("a.jpg", "cut short")
