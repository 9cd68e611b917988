"""Batches that are made ready on the model's device: the same samples, and no answer of the device is needed."""

import types

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from examples import image_classification
from examples.data.arguments import DataArguments
from examples.data.augmentation import AUTO_AUGMENTS, NUM_LEVELS, OPERATIONS, crop_and_flip
from examples.data.images import CPU, collate_batch, is_made_ready_on, make_datasets
from examples.data.loading import load_image_data
from examples.data.pillow_operations import (
    autocontrast,
    blend,
    equalize,
    posterize,
    send,
    smooth,
    solarize,
    take_grey_levels,
    take_mean_grey,
    warp,
)
from examples.errors import InputError
from examples.training.arguments import parse_arguments
from examples.training.workers import choose_workers


PLAIN = {"crop_padding": 2, "horizontal_flip": True}
EVERYTHING = {
    **PLAIN,
    "quarter_turns": True,
    "auto_augment": "trivialaugment",
    "random_erasing": 0.5,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
}
OPTIONS = pytest.mark.parametrize(
    "options",
    [{}, PLAIN, EVERYTHING, {"auto_augment": "randaugment"}, {"cutmix_alpha": 1.0}],
    ids=["none", "crop", "everything", "randaugment", "cutmix"],
)


@pytest.fixture
def make(image_folder, processor):
    data = load_image_data(DataArguments(str(image_folder)))

    def make(epoch=3, seed=7, **options):
        training, _ = make_datasets(data, DataArguments("", **options), processor, seed)
        training.set_epoch(epoch)
        return training

    return make


def collect(dataset, num_workers=0):
    """What a training sees, in the order of the indices."""
    loader = DataLoader(dataset, batch_size=5, collate_fn=collate_batch, num_workers=num_workers)
    batches = list(prepare_data_loader(loader, device=CPU, num_processes=1, process_index=0, put_on_device=True))
    return {name: torch.cat([batch[name] for batch in batches]) for name in ("pixel_values", "labels")}


@OPTIONS
def test_samples_are_the_same_wherever_they_are_made_ready(options, make):
    expected = collect(make(augment_on_device=False, **options))
    for num_workers in (0, 2):
        samples = collect(make(augment_on_device=True, **options), num_workers)
        for name, values in expected.items():
            assert torch.equal(samples[name], values), name
    # The loader is in its first epoch.
    one = make(0, augment_on_device=True, **options)[4]
    assert all(torch.equal(one[name], values[4]) for name, values in expected.items())


@OPTIONS
def test_loader_hands_over_bytes(options, make):
    batch = next(iter(DataLoader(make(augment_on_device=True, **options), batch_size=4, collate_fn=collate_batch)))
    assert batch.images.pixels.dtype == torch.uint8 and batch.images.pixels.shape == (4, 3, 8, 8)


@OPTIONS
def test_device_is_asked_nothing(options, make):
    """The device "meta" computes nothing: what asked it would fail, as would a computation across two devices."""
    batch = make(augment_on_device=True, **options).__getitems__(range(12))
    with pytest.raises(RuntimeError):
        batch.images.pixels.to("meta").sum().item()
    samples = batch.to("meta", non_blocking=False)
    assert all(values.is_meta for values in samples.values())
    assert samples["pixel_values"].shape == (12, 3, 8, 8) and samples["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("name", list(AUTO_AUGMENTS))
def test_no_operation_asks_the_device(name):
    pixels = torch.zeros(6, 3, 12, 17, dtype=torch.uint8, device="meta")
    for operation in OPERATIONS:
        strengths = torch.linspace(-1, 1, 6, dtype=torch.float64)
        assert operation(pixels, strengths, AUTO_AUGMENTS[name].largest).is_meta


def test_loader_pins_all_that_is_moved(make, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = make(augment_on_device=True, **EVERYTHING).__getitems__(range(5))
    assert pin_memory(batch).labels is batch.labels
    assert {id(tensor) for tensor in pinned} == {
        id(tensor) for tensor in (batch.images.pixels, batch.others.pixels, batch.labels)
    }


@pytest.mark.parametrize("is_pinned", [False, True])
def test_copies_to_a_gpu_are_from_pinned_memory_and_not_waited_for(is_pinned, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: is_pinned)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pin") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *place, **options: calls.append((place, options)))
    device = torch.device("cuda", 0)
    send(torch.zeros(2), device)
    assert calls == ["pin"] * (not is_pinned) + [((device,), {"non_blocking": True})]


def test_gpu_makes_batches_ready_unless_it_streams():
    for device, flags, expected in (
        ("cuda", {}, True),
        ("cuda", {"streaming": True}, False),
        ("cuda", {"augment_on_device": False}, False),
        ("cpu", {}, False),
        ("cpu", {"augment_on_device": True}, True),
        ("mps", {}, False),
    ):
        assert is_made_ready_on(torch.device(device), DataArguments("digits", **flags)) == expected, (device, flags)
    with pytest.raises(InputError, match=r"is for CUDA .*, but the model is on 'mps': leave it out"):
        is_made_ready_on(torch.device("mps"), DataArguments("digits", augment_on_device=True))
    with pytest.raises(InputError, match="no effect with `--streaming`, whose workers augment what they decode"):
        DataArguments("digits", streaming=True, augment_on_device=True)


def test_evaluation_is_made_ready_there_too_and_never_augmented(image_folder, processor):
    data = load_image_data(DataArguments(str(image_folder)))
    arguments = DataArguments("", augment_on_device=True, **EVERYTHING)
    _, evaluation = make_datasets(data, arguments, processor, seed=0)
    _, plain = make_datasets(data, DataArguments(""), processor, seed=0)
    assert torch.equal(collect(evaluation)["pixel_values"], collect(plain)["pixel_values"])
    assert evaluation.on_device


def test_gpu_has_workers_that_draw(monkeypatch):
    monkeypatch.setattr("examples.training.workers.count_processors", lambda: 4)
    dataset = types.SimpleNamespace(pixels=types.SimpleNamespace(cached=torch.zeros(1)))
    for device, num_workers in (("cuda", 3), ("cpu", 0)):
        training = types.SimpleNamespace(dataloader_num_workers=None, device=torch.device(device))
        choose_workers(training, [dataset])
        assert training.dataloader_num_workers == num_workers


def test_division_of_finished_batches_is_refused(make_flags, tmp_path):
    flags = make_flags(tmp_path / "run", augment_on_device=True, accelerator_config='{"dispatch_batches": true}')
    with pytest.raises(InputError, match="`dispatch_batches` in `--accelerator_config` divides samples"):
        image_classification.main(flags)


def compute_randaugment(image, operation, sign):
    """An operation at level 9 of 30, by the numbers of the paper's code as torchvision gives them."""
    pixels, share = image[None], torch.tensor([1 + sign * 0.27])
    height, width = pixels.shape[2:]
    cosine, sine = np.cos(np.radians(9)), np.sin(np.radians(9))
    matrices = {
        1: [[1, sign * 0.09, 0], [0, 1, 0]],
        2: [[1, 0, 0], [sign * 0.09, 1, 0]],
        3: [[1, 0, sign * round(0.3 * width * 150 / 331)], [0, 1, 0]],
        4: [[1, 0, 0], [0, 1, sign * round(0.3 * height * 150 / 331)]],
        5: [[cosine, sign * sine, 0], [-sign * sine, cosine, 0]],
    }
    if operation in matrices:
        return warp(pixels, torch.tensor([matrices[operation]], dtype=torch.float64))[0]
    changed = {
        0: lambda: pixels,
        6: lambda: blend(torch.zeros_like(pixels), pixels, share),
        7: lambda: blend(take_grey_levels(pixels).expand_as(pixels), pixels, share),
        8: lambda: blend(take_mean_grey(pixels).expand_as(pixels), pixels, share),
        9: lambda: blend(smooth(pixels), pixels, share),
        10: lambda: posterize(pixels, torch.tensor([7])),
        11: lambda: solarize(pixels, torch.tensor([178.5])),
        12: lambda: autocontrast(pixels),
        13: lambda: equalize(pixels),
    }
    return changed[operation]()[0]


def test_randaugment_applies_two_operations_of_one_level_to_each_image(make):
    seen = set()
    for epoch in range(12):
        training = make(epoch, auto_augment="randaugment")
        for index in range(12):
            random, image = np.random.default_rng([7, epoch, index]), training.pixels.read(index)
            for _ in range(2):
                operation, level, sign = random.integers((0, 9, 0), (14, 10, 2))
                assert level == 9 < NUM_LEVELS
                image = compute_randaugment(image, int(operation), 2 * int(sign) - 1)
                seen.add(int(operation))
            assert torch.equal(training[index]["pixel_values"], training.pixels.normalize(image)), (epoch, index)
    assert seen == set(range(14))


def test_crops_are_those_of_each_image_alone():
    pixels = torch.randint(0, 256, (3, 2, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    corners, is_flipped = np.array([[0, 3], [2, 1], [4, 0]]), np.array([False, True, True])
    ours = crop_and_flip(pixels, 2, corners, is_flipped)
    for image, result, (left, top), flipped in zip(pixels, ours, corners, is_flipped):
        cropped = torch.nn.functional.pad(image, [2] * 4)[:, top : top + 4, left : left + 5]
        assert torch.equal(result, cropped.flip(-1) if flipped else cropped)


def test_questions_have_no_use_for_it(tmp_path):
    from examples.relational_reasoning import choose_types

    flags = ["--output_dir", str(tmp_path), "--use_cpu", "True", "--augment_on_device", "True"]
    data, _, _, _ = parse_arguments([*flags, "--dataset_name", "sort_of_clevr"], None, "relational_reasoning")
    with pytest.raises(InputError, match="`--augment_on_device` is for image classification: leave it out"):
        choose_types(data)
