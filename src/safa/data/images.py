"""One image file, of whatever kind, to RGB bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from os import cpu_count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from safa.data.types import ByteArray
from safa.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_TRANSPARENT_MODES = ("RGBA", "LA", "PA")
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # PGM and some TIFF files come as I, of 32 bits
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_RESIZE_RATIO = 8 / 7

# Large images are read as they are. Pillow's warning of them is of an attack; its error is told in our words below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class CorruptImageError(UserError):
    """A file that cannot be read as an image.

    Attributes:
        file: its name, as it was asked for.
        reason: what went wrong, in a few words.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file = file
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read {self.file} as an image: {self.reason}"


def decode(path: str | Path, image_size: int | None = None) -> ByteArray:
    """Read one image file.

    Grayscale and palette images become RGB, transparency is laid over white, CMYK is converted, an EXIF
    orientation is applied, and of an animation the first frame is taken. Gray values of more than 8 bits are
    divided by 257, so that 65535 is white; floats are multiplied by 255, so that 1 is; NaN is black. A TIFF that
    counts from white is turned round.

    Args:
        path: the file.
        image_size: side s of the result: the short side is resized to ``s * 8 / 7`` and the centre square is
            cropped, as in the usual 256 -> 224 of ImageNet evaluation; an image that is s × s already stays
            as it is. None keeps all sizes.

    Returns:
        Shape (3, s, s), or (3, h, w) without ``image_size``; uint8, RGB.

    Raises:
        CorruptImageError: if the file is missing, empty, truncated or no image, or has values outside
            [0, 65535], or [0, 1] for floats; it carries the file's name.
    """
    return _guarded(str(path), lambda: _decode_file(Path(path), image_size))


def decode_bytes(data: bytes, name: str) -> ByteArray:
    """Decode an encoded image in memory, which errors call ``name``. Returns shape (3, h, w), uint8."""

    def read() -> ByteArray:
        _require_content(len(data))
        with Image.open(io.BytesIO(data)) as image:
            return _channels_first(_to_rgb(image))

    return _guarded(name, read)


def check_header(path: str | Path) -> None:
    """See that a file is an image without decoding it: its header opens, and a JPEG or PNG has its end mark.

    Images of 32-bit integers and floats are decoded, for only their values tell whether they can be used.

    Raises:
        CorruptImageError: if it is missing, empty, no image or out of range, or a JPEG or PNG that is cut short; it
            carries the file's name.
    """

    def read() -> None:
        _require_content(Path(path).stat().st_size)
        with _opened(Path(path)) as image:
            # Some cameras write past the end mark, so a missing mark is a suspicion that decoding settles.
            if not _has_end_mark(Path(path), image.format):
                image.load()
            if image.mode in ("I", "F"):
                _to_rgb(image)

    _guarded(str(path), read)


def content_hash(path: str | Path) -> bytes:
    """SHA-256 of a file's content, decoded or not.

    Raises:
        CorruptImageError: if the file cannot be read; it carries the file's name.
    """
    return _guarded(str(path), lambda: hashlib.sha256(Path(path).read_bytes()).digest())


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R | CorruptImageError]:
    """Apply ``function`` to every item, on all processors; a corrupt image becomes its error in the list."""

    def attempt(item: T) -> R | CorruptImageError:
        try:
            return function(item)
        except CorruptImageError as error:
            return error

    # Pillow releases the interpreter lock while it decodes, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(16, cpu_count() or 1)) as pool:
        return list(pool.map(attempt, items))


def _guarded(name: str, read: Callable[[], R]) -> R:
    try:
        return read()
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise CorruptImageError(name, "there is no such file") from error
    except Image.DecompressionBombError as error:  # whose own words are of an attack
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise CorruptImageError(
            name, f"it has more than {limit:,} pixels; scale it down or cut it into tiles"
        ) from error
    # Pillow's decoders raise whatever their parser tripped over: OSError, SyntaxError, struct.error, …
    except Exception as error:
        reason = "not a known image format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise CorruptImageError(name, reason or type(error).__name__) from error


def _decode_file(path: Path, image_size: int | None) -> ByteArray:
    _require_content(path.stat().st_size)
    with _opened(path) as image:
        if image_size is None:
            return _channels_first(_to_rgb(image))
        _decode_smaller(image, least=2 * round(image_size * _RESIZE_RATIO))
        return _channels_first(_centre_square(_to_rgb(image), image_size))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """By its file, not its name: Pillow maps a named file into memory, and turned TIFFs come out scrambled."""
    with path.open("rb") as file, Image.open(file) as image:
        yield image


def _has_end_mark(path: Path, image_format: str | None) -> bool:
    mark = _END_MARKS.get(image_format or "")
    if mark is None:
        return True
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), io.SEEK_END)
        return mark in file.read()


def _require_content(size: int) -> None:
    if size == 0:
        raise ValueError("the file is empty")


def _decode_smaller(image: Image.Image, least: int) -> None:
    """Ask for a half, a quarter or an eighth, which JPEG files can be decoded at, of no side below ``least``.

    Only where both sides come out whole: else the last row or column is part padding, and the centre moves.
    """
    width, height = image.size
    for part in (8, 4, 2):
        if width % part == height % part == 0 and min(width, height) // part >= least:
            image.draft(None, (width // part, height // part))
            return


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    _turn_upright(image)
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "F":
        image = Image.fromarray(_gray(image))
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _turn_upright(image: Image.Image) -> None:
    # The pixels of a photograph with a damaged EXIF block are fine, whatever Pillow raises over the block.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _gray(image: Image.Image) -> ByteArray:
    """Gray values of more than 8 bits as bytes, with white for the one that a PNG calls transparent."""
    values = np.asarray(image)
    gray = _eight_bit(values, 1 if image.mode == "F" else 65535)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    # A TIFF may count from white. Pillow turns such values of 8 bits round, but not those of more.
    white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    return 255 - gray if white_is_zero else gray


def _eight_bit(values: NDArray[Any], white: int) -> ByteArray:
    """Gray values from 0 to ``white`` as bytes. Each image by the same rule, whatever its own largest value is."""
    if values.dtype == np.uint16:  # in every byte order; most files of 16 bits, so quick and with little memory
        gray: ByteArray = _of_sixteen_bits()[values]
        return gray
    values = values.astype(np.float64)
    values[np.isnan(values)] = 0  # a missing value
    low, high = values.min(), values.max()
    if low < 0 or high > white:
        raise ValueError(
            f"its gray values go from {low:.9g} to {high:.9g}, outside [0, {white}]; divide all images of the set "
            f"by the same number"
        )
    rounded: ByteArray = np.rint(values / white * 255).astype(np.uint8)
    return rounded


@cache
def _of_sixteen_bits() -> ByteArray:
    """The byte for every value of 16 bits."""
    return _eight_bit(np.arange(65536), 65535)


def _centre_square(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    if width == height == side:
        return image
    # Cutting while resizing gives the same pixels as resizing first, and a 1 × 100,000 image costs nothing.
    reach = min(width, height) / _RESIZE_RATIO / 2
    box = (width / 2 - reach, height / 2 - reach, width / 2 + reach, height / 2 + reach)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _channels_first(image: Image.Image) -> ByteArray:
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
