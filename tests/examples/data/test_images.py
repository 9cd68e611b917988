"""Images in are images seen: the pixels of training are those that everything else shows."""

import io
import struct
import zlib

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil
from transformers.image_utils import load_image

from examples.data.arguments import DataArguments
from examples.data.images import ImagePixelsDataset, decode_image
from examples.data.loading import load_image_data
from examples.errors import InputError


ORIENTATION = 0x0112


# How each kind of image is made from the same (12, 10, 4) of uint8, and the format that keeps it.
KINDS = {
    "L": (lambda pixels: Image.fromarray(pixels[..., 0]), "png"),
    "LA": (lambda pixels: Image.fromarray(pixels).convert("LA"), "png"),
    "P": (lambda pixels: make_palette_image(pixels), "png"),
    "P with alpha": (lambda pixels: make_palette_image(pixels, bytes(range(0, 160, 10))), "png"),
    "RGBA WebP": (lambda pixels: Image.fromarray(pixels), "webp"),
    "RGBA TIFF": (lambda pixels: Image.fromarray(pixels), "tiff"),
    "CMYK TIFF": (lambda pixels: Image.fromarray(pixels[..., :3]).convert("CMYK"), "tiff"),
    "LAB TIFF": (lambda pixels: Image.fromarray(pixels[..., :3]).convert("LAB"), "tiff"),
    "1 TIFF": (lambda pixels: Image.fromarray(pixels[..., 0]).convert("1"), "tiff"),
    "RGB": (lambda pixels: Image.fromarray(pixels[..., :3]), "png"),
    "RGBA": (lambda pixels: Image.fromarray(pixels), "png"),
    "CMYK": (lambda pixels: Image.fromarray(pixels[..., :3]).convert("CMYK"), "jpeg"),
    "JPEG": (lambda pixels: Image.fromarray(pixels[..., :3]), "jpeg"),
    "TIFF": (lambda pixels: Image.fromarray(pixels[..., :3]), "tiff"),
    "WebP": (lambda pixels: Image.fromarray(pixels[..., :3]), "webp"),
    "1": (lambda pixels: Image.fromarray(pixels[..., 0]).convert("1"), "png"),
}


def make_palette_image(pixels, transparency=3):
    image = Image.fromarray(pixels[..., :3]).quantize(16)
    image.info["transparency"] = transparency
    return image


def make_pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (12, 10, 4), dtype=np.uint8)


def encode(image, image_format, orientation=1, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, image_format, exif=exif, **options)
    return buffer.getvalue()


def make_chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def break_png(how):
    """A PNG that Pillow refuses."""
    png = encode(Image.fromarray(make_pixels()[..., :3]), "png")
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    return {
        "empty": b"",
        "no image": b"a text",
        "truncated": png[:90],
        "too large": png[:8] + header + png[33:],
        "long text": png[:33] + make_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 3_000_000)) + png[33:],
    }[how]


BROKEN = ("empty", "no image", "truncated", "too large", "long text")


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_what_pipelines_and_datasets_show(kind, orientation, tmp_path):
    make, image_format = KINDS[kind]
    path = tmp_path / f"image.{image_format}"
    path.write_bytes(encode(make(make_pixels()), image_format, orientation))
    ours = np.asarray(decode_image({"path": str(path), "bytes": None}, "").convert("RGB"))
    assert ours.shape == ((12, 10, 3) if orientation < 5 else (10, 12, 3))
    np.testing.assert_array_equal(ours, np.asarray(load_image(str(path))))
    shown = datasets.Image().decode_example({"path": None, "bytes": path.read_bytes()})
    np.testing.assert_array_equal(ours, np.asarray(shown.convert("RGB")))


def test_orientation_turns_what_is_trained_on(tmp_path):
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    content = {"path": None, "bytes": encode(Image.fromarray(pixels), "png", 6)}
    data = datasets.Dataset.from_dict({"image": [content]}, features=datasets.Features({"image": datasets.Image()}))
    data = data.cast_column("image", datasets.Image(decode=False))
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    trained_on = ImagePixelsDataset(data, "image", processor)[0]
    # Turned by 90 degrees to the right: what was at the top is on the right.
    assert (trained_on[:, :, :8] == -1).all()
    assert (trained_on[:, :, 8:] == 1).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("image_format", ["png", "tiff", "ppm"])
def test_grey_values_of_16_bits_are_scaled(image_format, orientation):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = Image.fromarray(levels)
    content = (
        encode(image, image_format, orientation)
        if image_format != "ppm"
        else b"P5 16 16 65535\n" + (levels.astype(">u2").tobytes())
    )
    pixels = np.asarray(decode_image({"path": None, "bytes": content}, "").convert("RGB"))[..., 0]
    expected = (levels >> 8).astype(np.uint8)
    np.testing.assert_array_equal(
        pixels, np.rot90(expected, -1) if orientation == 6 and image_format != "ppm" else expected
    )


@pytest.mark.parametrize(
    ("value", "is_refused"), [(200.0, False), (0.0, False), (0.5, True), (300.0, True), (-1.0, True)]
)
def test_grey_values_of_unknown_scale_are_refused(value, is_refused):
    content = encode(Image.fromarray(np.full((4, 4), value, dtype=np.float32)), "tiff")
    encoded = {"path": None, "bytes": content}
    if is_refused:
        with pytest.raises(InputError, match=r"row 5 cannot be read \(32-bit grey values"):
            decode_image(encoded, "row 5")
    else:
        assert decode_image(encoded, "row 5").convert("L").getpixel((0, 0)) == value


@pytest.mark.parametrize("image_format", ["gif", "webp", "png"])
def test_first_frame_of_an_animation_is_opened(image_format):
    frames = [Image.new("RGB", (6, 6), color) for color in ("red", "blue")]
    content = encode(
        frames[0],
        image_format,
        save_all=True,
        append_images=frames[1:],
        **({} if image_format == "gif" else {"lossless": True}),
    )
    image = decode_image({"path": None, "bytes": content}, "").convert("RGB")
    assert image.getpixel((0, 0)) == pytest.approx((255, 0, 0), abs=1)


@pytest.mark.parametrize("how", BROKEN)
def test_image_that_cannot_be_read_is_named(how, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(break_png(how))
    with pytest.raises(InputError, match=r"photo\.png cannot be read") as caught:
        decode_image({"path": str(path), "bytes": None}, "row 3")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"name\.png \(row 3\) cannot be read"):
        decode_image({"path": "name.png", "bytes": break_png(how)}, "row 3")


def test_worker_names_the_image_in_one_line(image_folder):
    (image_folder / "train" / "cat" / "0.png").write_bytes(b"")
    data = load_image_data(DataArguments(str(image_folder))).train
    pixels = ImagePixelsDataset(data, "image", ViTImageProcessorPil(size={"height": 8, "width": 8}))
    with pytest.raises(InputError) as caught:
        list(torch.utils.data.DataLoader(pixels, batch_size=4, num_workers=1))
    assert str(caught.value).startswith("The image ")
    assert "train/cat/0.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def break_images(folder):
    """Break three images of a folder, in both splits."""
    broken = [folder / "train/cat/1.png", folder / "train/dog/2.png", folder / "test/dog/0.png"]
    for path, how in zip(broken, ("empty", "truncated", "too large")):
        path.write_bytes(break_png(how))
    return broken


def test_check_lists_all_bad_images(image_folder, capsys):
    broken = break_images(image_folder)
    with pytest.raises(InputError, match=r"^3 of 18 images cannot be read \(listed above\).*skip_bad_images"):
        load_image_data(DataArguments(str(image_folder), check_images=True))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert all(str(path) in line for path, line in zip(broken, printed))


def test_check_says_that_all_images_are_good(image_folder, capsys):
    data = load_image_data(DataArguments(str(image_folder), check_images=True))
    assert (len(data.train), len(data.evaluation)) == (12, 6)
    assert capsys.readouterr().out == "All 18 images can be read.\n"


def test_bad_images_are_left_out_and_named(image_folder, capsys):
    broken = break_images(image_folder)
    data = load_image_data(DataArguments(str(image_folder), skip_bad_images=True))
    assert (len(data.train), len(data.evaluation)) == (10, 5)
    kept = {row["path"] for part in (data.train, data.evaluation) for row in part["image"]}
    assert kept.isdisjoint(map(str, broken))
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in broken)
    assert "training split: 2 of 12 images, which cannot be read." in printed
    assert "evaluation split: 1 of 6 images, which cannot be read." in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_std": [0.5, 0.0, 0.5]}, r"--image_std` takes numbers above 0"),
        ({"image_std": [0.5, -1.0, 0.5]}, r"--image_std` takes numbers above 0"),
        ({"image_std": [float("nan")] * 3}, r"--image_std` takes finite numbers"),
        ({"image_mean": [float("nan")] * 3}, r"--image_mean` takes finite numbers"),
        ({"image_mean": [float("inf")] * 3}, r"--image_mean` takes finite numbers"),
        ({"check_images": True, "skip_bad_images": True}, r"one of `--check_images`"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        DataArguments("digits", **arguments)


def test_augmentation_depends_on_seed_epoch_and_index_alone(processor):
    data = load_image_data(DataArguments("digits", max_train_samples=20))

    def draw(seed=0, epoch=0, cache=False):
        pixels = ImagePixelsDataset(data.train, "image", processor, 2, True, seed, cache)
        pixels.set_epoch(epoch)
        torch.rand(3)  # the global random stream does not matter
        return torch.stack([pixels[index] for index in range(20)])

    assert torch.equal(draw(), draw())
    assert torch.equal(draw(), draw(cache=True))
    assert not torch.equal(draw(), draw(epoch=1))
    assert not torch.equal(draw(), draw(seed=1))
    plain = ImagePixelsDataset(data.train, "image", processor)
    assert torch.equal(plain[3], plain[3])


@pytest.mark.parametrize("cache", [False, True])
def test_pixels_are_those_of_the_processor(image_folder, cache):
    """Several modes and sizes, resized: equal to the last bit."""
    processor = ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.49, 0.48, 0.45], image_std=[0.2, 0.3, 0.4], do_convert_rgb=True
    )
    data = load_image_data(DataArguments(str(image_folder))).train
    pixels = ImagePixelsDataset(data, "image", processor, cache=cache)
    for index in range(len(data)):
        image = decode_image(data[index]["image"], "")
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(pixels[index], expected)


def test_truncated_image_is_named(image_folder, processor):
    path = image_folder / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    data = load_image_data(DataArguments(str(image_folder)))
    dataset = ImagePixelsDataset(data.train, "image", processor)
    with pytest.raises(InputError, match=r"train/dog/2\.png cannot be read"):
        [dataset[index] for index in range(len(dataset))]
