"""Whole batches: the same samples whatever the workers, the batches, their order and where images are held."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from examples.data import augmentation, images, storage
from examples.data.arguments import DataArguments
from examples.data.batches import DrawnImages
from examples.data.images import MIXING, ImageClassificationDataset, ImagePixelsDataset, collate_batch, make_datasets
from examples.data.loading import load_image_data
from examples.errors import InputError


EVERYTHING = {
    "crop_padding": 2,
    "horizontal_flip": True,
    "quarter_turns": True,
    "auto_augment": "trivialaugment",
    "random_erasing": 0.5,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
}


@pytest.fixture
def data(image_folder):
    return load_image_data(DataArguments(str(image_folder)))


@pytest.fixture
def make_training(data, processor):
    def make(epoch=3, seed=7, **options):
        training, _ = make_datasets(data, DataArguments("", **options), processor, seed)
        training.set_epoch(epoch)
        return training

    return make


def collect(dataset, **options):
    """All samples, in the order of their indices."""
    batches = list(DataLoader(dataset, collate_fn=collate_batch, **options))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(samples, expected):
    assert samples.keys() == expected.keys()
    for name, values in samples.items():
        assert torch.equal(values, expected[name]), name


@pytest.mark.parametrize("options", [{}, {"crop_padding": 2}, EVERYTHING], ids=["plain", "crop", "everything"])
def test_samples_do_not_depend_on_workers_batches_or_place(make_training, options):
    training = make_training(**options)
    one_by_one = [training[index] for index in range(12)]
    expected = {name: torch.stack([sample[name] for sample in one_by_one]) for name in one_by_one[0]}
    for batch_size, num_workers in itertools.product((1, 5, 12), (0, 2)):
        assert_same(collect(training, batch_size=batch_size, num_workers=num_workers), expected)
    for cache_images in (False, True):
        assert_same(collect(make_training(cache_images=cache_images, **options), batch_size=5), expected)
    order = [4, 11, 0, 4, 7]
    assert_same(training.__getitems__(order), {name: values[order] for name, values in expected.items()})


@pytest.mark.parametrize("cache_images", [False, True])
def test_iteration_ends_after_the_last_image(make_training, cache_images):
    assert len(list(make_training(cache_images=cache_images))) == 12
    assert len(list(make_training(cache_images=cache_images).pixels)) == 12


def test_epoch_reaches_workers_that_outlive_it(make_training):
    training = make_training(**EVERYTHING)
    loader = DataLoader(training, batch_size=5, collate_fn=collate_batch, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 0):
        training.set_epoch(epoch)
        seen = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(seen, collect(make_training(epoch, **EVERYTHING), batch_size=12)["pixel_values"])


def test_streams_of_crops_and_flips_are_those_of_one_sample_at_a_time(make_training, data, processor):
    """The draws by which the committed results were trained."""
    training = make_training(crop_padding=2, horizontal_flip=True)
    plain = ImagePixelsDataset(data.train, "image", processor)
    for index in range(12):
        random = np.random.default_rng([7, 3, index])
        left, top = random.integers(0, 5, size=2)
        padded = torch.nn.functional.pad(plain.read(index), [2] * 4)[:, top : top + 8, left : left + 8]
        expected = plain.normalize(padded.flip(-1) if random.random() < 0.5 else padded)
        assert torch.equal(training[index]["pixel_values"], expected)


def test_evaluation_is_never_augmented(data, processor):
    _, evaluation = make_datasets(data, DataArguments("", **EVERYTHING), processor, seed=0)
    plain = ImagePixelsDataset(data.evaluation, "image", processor)
    samples = evaluation.__getitems__(range(6))
    assert torch.equal(samples["pixel_values"], plain.get_batch(range(6)))
    assert samples["labels"].tolist() == data.evaluation["label"][:]


def test_partners_come_from_the_whole_set_and_labels_follow_them(make_training):
    """With the share drawn, each sample is the blend of two samples that are there without mixing."""
    unmixed = collect(make_training(crop_padding=2), batch_size=12)
    mixed = collect(make_training(crop_padding=2, mixup_alpha=1.0), batch_size=12)
    assert mixed["labels"].shape == (12, 2) and mixed["labels"].dtype == torch.float32
    assert torch.allclose(mixed["labels"].sum(1), torch.ones(12))
    partners = []
    for index in range(12):
        random = np.random.default_rng([7, 3, index, MIXING])
        partner, share = random.integers(12), random.beta(1.0, 1.0)
        partners.append(partner)
        images = unmixed["pixel_values"]
        torch.testing.assert_close(mixed["pixel_values"][index], share * images[index] + (1 - share) * images[partner])
        label = torch.zeros(2)
        label[unmixed["labels"][index]] += share
        label[unmixed["labels"][partner]] += 1 - share
        torch.testing.assert_close(mixed["labels"][index], label)
    assert len(set(partners)) > 4


def make_levels(num_images, size, **options):
    """Images of one level each, its number, and as many classes, normalised to the number itself."""

    class Levels(ImagePixelsDataset):
        def __init__(self):
            self.epoch, self.seed = torch.zeros(()), 0

        def __len__(self):
            return num_images

        def draw_batch(self, indices):
            levels = torch.tensor(indices)[:, None, None, None].expand(-1, 1, *size)
            return DrawnImages(levels, torch.arange(num_images).float())

    return ImageClassificationDataset(Levels(), list(range(num_images)), **options)


@pytest.mark.parametrize("size", [(8, 8), (5, 11), (1, 1)])
def test_labels_of_cutmix_are_the_areas(size):
    samples = make_levels(200, size, cutmix_alpha=1.0).__getitems__(range(200))
    shares = []
    for index, (pixels, label) in enumerate(zip(samples["pixel_values"], samples["labels"])):
        levels, counts = pixels[0].unique(return_counts=True)
        expected = torch.zeros(200)
        expected[levels.long()] = counts.float() / counts.sum()
        torch.testing.assert_close(label, expected)
        inside = (pixels[0] != index).nonzero()
        # What is from the other image is one rectangle.
        if len(inside):
            rows, columns = (inside.max(0).values - inside.min(0).values + 1).tolist()
            assert rows * columns == len(inside)
        shares.append(len(inside) / counts.sum())
    if size == (8, 8):
        # A box of half of the image in the mean, of which what is over the edge is cut off.
        assert 0.2 < np.mean(shares) < 0.45 and max(shares) > 0.8


def test_with_mixup_and_cutmix_half_of_the_images_get_each():
    samples = make_levels(400, (8, 8), mixup_alpha=1.0, cutmix_alpha=1.0).__getitems__(range(400))
    is_blended = [((pixels % 1) > 1e-3).any() for pixels in samples["pixel_values"]]
    # Four standard errors of a half.
    assert 160 <= sum(map(bool, is_blended)) <= 240


def test_alpha_says_how_much_is_mixed():
    for alpha, low, high in ((0.05, 0.0, 0.12), (50.0, 0.4, 0.5)):
        labels = make_levels(300, (1, 1), mixup_alpha=alpha).__getitems__(range(300))["labels"]
        assert low < (1 - labels.max(1).values).mean() < high


def test_erasing_clears_one_rectangle_of_that_share_of_the_images(processor, data):
    pixels = ImagePixelsDataset(data.train, "image", processor, random_erasing=0.5)
    plain = ImagePixelsDataset(data.train, "image", processor)
    num_erased = 0
    for epoch in range(30):
        pixels.set_epoch(epoch)
        for erased, image in zip(pixels.get_batch(range(12)), plain.get_batch(range(12))):
            changed = (erased != image).any(dim=0).nonzero()
            if len(changed) == 0:
                continue
            num_erased += 1
            (top, left), (bottom, right) = changed.min(0).values.tolist(), changed.max(0).values.tolist()
            box = torch.zeros(8, 8, dtype=torch.bool)
            box[top : bottom + 1, left : right + 1] = True
            assert not erased[:, box].any() and torch.equal(erased[:, ~box], image[:, ~box])
            assert 1 <= box.sum() <= 0.33 * 64 + 8
    # Four standard errors of a half of 360.
    assert 142 <= num_erased <= 218


def test_trivialaugment_draws_every_operation_and_both_signs(monkeypatch, make_training):
    seen = []

    def record(number):
        return lambda pixels, strengths, _: seen.extend((number, value) for value in strengths.tolist()) or pixels

    monkeypatch.setattr(augmentation, "OPERATIONS", [record(number) for number in range(14)])
    for epoch in range(40):
        make_training(epoch, auto_augment="trivialaugment").__getitems__(range(12))
    assert len(seen) == 480 and {number for number, _ in seen} == set(range(14))
    strengths = np.array([value for _, value in seen])
    assert set(np.abs(strengths * 30).round(6)) == set(range(31))
    assert 0.4 < (strengths > 0).mean() < 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": 0.0}, "`--mixup_alpha` must be above 0 and finite, but got 0.0"),
        ({"mixup_alpha": float("nan")}, "`--mixup_alpha` must be above 0 and finite, but got nan"),
        ({"cutmix_alpha": -1.0}, "`--cutmix_alpha` must be above 0 and finite, but got -1.0"),
        ({"random_erasing": 1.5}, "`--random_erasing` must be from 0 to 1, but got 1.5"),
        ({"random_erasing": float("nan")}, "`--random_erasing` must be from 0 to 1, but got nan"),
        ({"auto_augment": "trivial"}, "There is no automatic augmentation .* 'trivial'. Did you mean 'trivialaug"),
    ],
)
def test_wrong_value_is_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        DataArguments("digits", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("share", "is_wanted", "place"),
    [(0.2, None, "memory"), (0.3, None, None), (0.3, True, "memory"), (0.6, True, "file"), (0.0, False, None)],
)
@pytest.mark.parametrize("num_processes", [1, 4])
def test_place_is_chosen_by_the_free_memory(share, is_wanted, place, num_processes, monkeypatch):
    monkeypatch.setattr(storage.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_processes))
    assert storage.choose_place(int(share * 10_000 / num_processes), is_wanted) == place


def test_file_holds_the_same_and_leaves_nothing(make_training, monkeypatch, tmp_path):
    expected = collect(make_training(), batch_size=5)
    monkeypatch.setattr(storage.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(images, "choose_place", lambda num_bytes, is_wanted: "file")
    training = make_training(cache_images=True)
    assert list((tmp_path / "cache").iterdir()) == []
    assert_same(collect(training, batch_size=5, num_workers=1), expected)


def test_disk_that_is_too_full_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(storage.datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError, match="fit neither into memory nor on the disk"):
        storage.allocate((2**40, 3, 224, 224), "file")


def test_images_are_decoded_once_in_parallel_and_no_random_number_is_taken(monkeypatch, make_training):
    monkeypatch.setattr(storage, "NUM_FOR_PROCESSES", 1)
    monkeypatch.setattr(storage, "DECODED_TOGETHER", 5)
    monkeypatch.setattr(storage, "count_processors", lambda: 2)
    state = torch.get_rng_state()
    training = make_training(cache_images=True)
    assert torch.equal(torch.get_rng_state(), state)

    def fail(index):
        raise AssertionError("read again")

    expected = torch.stack([training.pixels.read(index) for index in range(12)])
    monkeypatch.setattr(training.pixels, "read", fail)
    assert torch.equal(training.pixels.cached, expected)
    assert_same(collect(training, batch_size=5), collect(make_training(cache_images=False), batch_size=5))


def test_bad_image_is_named_where_it_is_decoded_in_parallel(monkeypatch, image_folder, data, processor):
    monkeypatch.setattr(storage, "NUM_FOR_PROCESSES", 1)
    monkeypatch.setattr(storage, "count_processors", lambda: 2)
    (image_folder / "train" / "dog" / "2.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"^The image .*train/dog/2\.png cannot be read"):
        ImagePixelsDataset(data.train, "image", processor, cache=True)
