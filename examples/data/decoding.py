"""From an encoded image to its pixels, as everything else that opens it shows them."""

import io
import os
import re
from collections.abc import Iterator

import datasets
import numpy as np
from PIL import Image, ImageOps

from examples.errors import InputError, flatten_message
from examples.sharing import show


def decode_image(encoded: dict | None, where: str) -> Image.Image:
    """
    Open an image as `datasets` stores it when decoding is off, turned as its EXIF orientation says.

    Of an animation the first frame is opened. Grey values of 16 bits are scaled to 8.

    Raises:
        InputError: if it is truncated, too large or no image; the message names its path, or the row that holds it.
    """
    path, content = (encoded or {}).get("path"), (encoded or {}).get("bytes")
    if path:
        where = show(path) if content is None else f"{show(path)} ({where})"
    try:
        image = Image.open(find_file(path) if content is None else io.BytesIO(content))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return scale_grey_levels(image)
    # What Pillow raises for a broken file has no common base: OSError, SyntaxError, ValueError, a decompression bomb.
    except Exception as error:
        # Of an image in memory Pillow names the address.
        reason = re.sub(r" <_io\.BytesIO.*>", "", flatten_message(error))
        raise InputError(
            f"The image {where} cannot be read ({reason}). Repair or remove it; `--check_images` lists all such "
            "images."
        ) from error


def find_file(path: str | None) -> str:
    """The path of an image that is a file: a pipe or a device would be waited for without end."""
    if path is None:
        raise ValueError("there is none")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no file")
    return path


def scale_grey_levels(image: Image.Image) -> Image.Image:
    """Scale grey values of 16 bits to 8, which `convert` would clip; other images are returned as they are."""
    is_wide_integer = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode.startswith("I;16") or is_wide_integer:
        # The high byte, as Pillow itself reads colours of 16 bits.
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        low, high = np.asarray(image).min(), np.asarray(image).max()
        # Fractions would all become black.
        if not (low >= 0 and high <= 255) or (image.mode == "F" and 0 < high <= 1):
            raise ValueError(f"32-bit grey values from {low} to {high}: save it with 8 or 16 bits")
    return image


def find_bad_images(data: datasets.Dataset, image_column: str, split: str) -> Iterator[tuple[int, InputError]]:
    """Decode every image; yield the row and the error of each that cannot be read."""
    images = data.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    for row, sample in enumerate(images):
        try:
            decode_image(sample[image_column], f"row {row} of the {split} split").convert("RGB")
        except InputError as error:
            yield row, error


def check_images(splits: dict[str, datasets.Dataset], image_column: str) -> None:
    """
    Decode every image and say that all can be read.

    Raises:
        InputError: if some cannot be read, after each has been named in a printed line.
    """
    num_bad, num_images = 0, sum(map(len, splits.values()))
    for split, data in splits.items():
        for _, error in find_bad_images(data, image_column, split):
            num_bad += 1
            print(error)
    if num_bad:
        raise InputError(
            f"{num_bad} of {num_images} images cannot be read (listed above): repair or remove them, or leave them "
            "out with `--skip_bad_images True`."
        )
    print(f"All {num_images} images can be read.")


def leave_out_bad_images(data: datasets.Dataset, image_column: str, split: str) -> datasets.Dataset:
    """Leave out the images that cannot be read, and say how many and which."""
    bad = dict(find_bad_images(data, image_column, split))
    for error in bad.values():
        print(f"Left out: {error}")
    print(f"Left out of the {split} split: {len(bad)} of {len(data)} images, which cannot be read.")
    return data.select([row for row in range(len(data)) if row not in bad]) if bad else data
