"""Generated benchmarks: the same rows whatever makes them, and the statistics that are known of them."""

import hashlib
import io
import json
import math
from collections import Counter, defaultdict

import datasets
import numpy as np
import pytest
from PIL import Image

from examples.data import sort_of_clevr
from examples.data.generated import SHARD_SIZE, load_generated
from examples.data.sort_of_clevr import (
    ANSWERS,
    COLORS,
    NUM_OBJECTS,
    QUESTION_TYPES,
    SortOfClevr,
    answer_binary,
    answer_ternary,
    describe_question,
    encode_question,
    paint,
    place_objects,
)
from examples.data.triangle import MATCHED_SIDES, Triangle, compute_sides, draw_matched, draw_original
from examples.errors import InputError


NUM_SCENES = 20_000
BUILDERS = pytest.mark.parametrize("builder", [SortOfClevr, Triangle])


def decode(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def hash_rows(rows):
    """One digest of the raw rows, images as their encoded bytes."""
    digest = hashlib.sha256()
    for row in rows:
        values = {name: np.asarray(value).tolist() for name, value in row.items() if name != "image"}
        digest.update(json.dumps(values, sort_keys=True).encode() + row["image"]["bytes"])
    return digest.hexdigest()


@BUILDERS
@pytest.mark.parametrize("variant_index", [0, 1])
def test_rows_do_not_depend_on_processes_or_streaming(builder, variant_index, tmp_path):
    options = {
        "variant": builder.variants[variant_index],
        "seed": 3,
        "num_train": 2 * SHARD_SIZE + 7,
        "num_test": SHARD_SIZE + 1,
    }
    digests, files = set(), set()
    for num_proc in (1, 2, 3):
        splits = load_generated(builder, **options, num_proc=num_proc, cache_dir=tmp_path / str(num_proc))
        assert {name: len(split) for name, split in splits.items()} == {"train": 519, "test": 257}
        raw = {name: split.cast_column("image", datasets.Image(decode=False)) for name, split in splits.items()}
        digests.add((hash_rows(raw["train"]), hash_rows(raw["test"])))
        raw["train"].to_parquet(tmp_path / f"{num_proc}.parquet")
        files.add(hashlib.sha256((tmp_path / f"{num_proc}.parquet").read_bytes()).hexdigest())
    stream = load_generated(builder, **options, streaming=True)
    digests.add(
        tuple(hash_rows(stream[name].cast_column("image", datasets.Image(decode=False))) for name in ("train", "test"))
    )
    assert len(digests) == len(files) == 1
    # The rows of a smaller set begin those of a larger one; another seed has other rows; splits share none.
    direct = [builder.generate(options["variant"], 3, 1, index) for index in range(4)]
    first = [split_row["image"]["bytes"] for split_row in raw["test"].select(range(4))]
    assert [row["image"]["bytes"] for row in direct] == first
    assert builder.generate(options["variant"], 4, 1, 0)["image"] != direct[0]["image"]
    assert builder.generate(options["variant"], 3, 0, 0)["image"] != direct[0]["image"]


@BUILDERS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "fixd"}, r"no variant 'fixd'. Known variants: \w+, \w+"),
        ({"seed": -1}, "seed of at least 0"),
        ({"num_test": 0}, "at least 1 row"),
    ],
)
def test_bad_options_are_refused(builder, options, message):
    with pytest.raises(InputError, match=message):
        load_generated(builder, **options)


@pytest.fixture(scope="module")
def scenes():
    """Centres and shapes of 20,000 scenes, with the questions and answers of both variants."""
    collected = {"fixed": defaultdict(Counter), "original": defaultdict(Counter)}
    self_answers, changed = 0, 0
    for index in range(NUM_SCENES):
        fixed = SortOfClevr.generate("fixed", 0, 0, index)
        # The same scene and questions, from the same random stream; only the answers may differ.
        answers = list(fixed["answers"])
        for position, (question, answer) in enumerate(zip(fixed["questions"], answers)):
            kind, subtype = int(question[12:15].argmax()), int(question[15:].argmax())
            collected["fixed"][kind, subtype][answer] += 1
            if (kind, subtype) == (1, 0):
                a = int(question[:6].argmax())
                distances = ((fixed["centres"] - fixed["centres"][a]) ** 2).sum(axis=1)
                is_self = bool((np.delete(distances, a) > 999).all())
                answer = answer_binary(fixed["centres"], fixed["shapes"], a, 0, "original")
                assert not is_self or answer == 2 + fixed["shapes"][a]
                self_answers += is_self
                changed += answer != answers[position]
            collected["original"][kind, subtype][answer] += 1
    return {
        "counts": collected,
        "self_share": self_answers / sum(collected["fixed"][1, 0].values()),
        # Of the binary questions, which are the relational ones of the original data set.
        "changed_share": changed / (10 * NUM_SCENES),
    }


def assert_share(observed, expected, num_samples, rounding=0.0005):
    """Within four standard errors of a proportion, and the rounding of the published one."""
    error = math.sqrt(expected * (1 - expected) / num_samples)
    assert abs(observed - expected) < 4 * error + rounding, (observed, expected)


@pytest.mark.parametrize("variant", ["fixed", "original"])
def test_sort_of_clevr_has_the_known_statistics(scenes, variant):
    counts = scenes["counts"][variant]
    same_shape = counts[1, 2]
    # Questions about one scene are not independent: the effective number is nearer to that of the scenes.
    for number, share in enumerate((0.031, 0.155, 0.316, 0.310, 0.154, 0.033)):
        assert_share(same_shape[4 + number] / same_shape.total(), share, NUM_SCENES)
    for subtype in (0, 1):
        assert_share(counts[1, subtype][2] / counts[1, subtype].total(), 0.5, NUM_SCENES)
    for kind, ceiling in ((0, 0.5), (1, 0.440), (2, 0.533)):
        best = [max(counts[kind, subtype].values()) / counts[kind, subtype].total() for subtype in range(3)]
        assert abs(np.mean(best) - ceiling) < 0.008, (kind, best)
        shares = np.array([counts[kind, subtype].total() for subtype in range(3)]) / (10 * NUM_SCENES)
        assert np.abs(shares - 1 / 3).max() < 0.005


def test_original_variant_answers_with_itself_as_often_as_known(scenes):
    assert_share(scenes["self_share"], 0.070, NUM_SCENES)
    assert_share(scenes["changed_share"], 0.0115, NUM_SCENES, rounding=0.00005)


def test_variants_share_scenes_and_questions():
    for index in range(50):
        fixed, original = (SortOfClevr.generate(variant, 0, 0, index) for variant in SortOfClevr.variants)
        assert fixed["image"] == original["image"]
        assert np.array_equal(fixed["questions"], original["questions"])


def test_scene_is_painted_as_described():
    random = np.random.default_rng(0)
    for _ in range(200):
        centres = place_objects(random)
        assert centres.min() >= 5
        assert centres.max() <= 69
        distances = ((centres[:, None] - centres) ** 2).sum(axis=-1) + 1000 * np.eye(NUM_OBJECTS)
        assert distances.min() >= 100
    centres = np.array([[10, 10], [20, 10], [40, 40], [60, 60], [10, 60], [60, 10]])
    canvas = paint(centres, np.array([0, 1, 0, 1, 0, 1]))
    assert canvas.shape == (75, 75, 3)
    assert tuple(canvas[0, 0]) == (255, 255, 255)
    for (x, y), color in zip(centres, COLORS.values()):
        assert tuple(canvas[y, x]) == color
    # A square of 11 x 11 pixels, of which the later green circle hides one; rows are y, columns are x.
    assert (canvas == COLORS["red"]).all(axis=-1).sum() == 120
    assert tuple(canvas[10, 15]) == COLORS["green"]
    assert tuple(canvas[5, 5]) == COLORS["red"]
    # A circle leaves its corners white.
    assert tuple(canvas[55, 55]) == (255, 255, 255)
    assert (canvas == COLORS["orange"]).all(axis=-1).sum() == 81


def test_answers_of_a_scene_worked_out_by_hand():
    centres = np.array([[10, 10], [30, 10], [20, 12], [20, 60], [65, 65], [10, 40]])
    shapes = np.array([0, 1, 0, 1, 1, 0])
    assert ANSWERS[answer_binary(centres, shapes, 0, 0, "fixed")] == "square"  # blue is closest to red
    assert ANSWERS[answer_binary(centres, shapes, 0, 1, "fixed")] == "circle"  # grey is furthest
    assert ANSWERS[answer_binary(centres, shapes, 0, 2, "fixed")] == "2"
    # Grey has no object within 31.6 pixels, so that the original answers with its own shape.
    assert ANSWERS[answer_binary(centres, shapes, 4, 0, "original")] == "circle"
    far = np.array([[10, 10], [30, 10], [20, 12], [20, 60], [65, 65], [65, 25]])
    assert ANSWERS[answer_binary(far, np.array([0, 0, 0, 0, 1, 0]), 4, 0, "fixed")] == "square"
    assert ANSWERS[answer_binary(far, np.array([0, 0, 0, 0, 1, 0]), 4, 0, "original")] == "circle"
    # Red to orange spans x 10..20, y 10..60: blue and yellow lie within, borders included.
    assert ANSWERS[answer_ternary(centres, 0, 3, 0)] == "2"
    # The line through red and green is y = 10; blue is 2 pixels from it.
    assert ANSWERS[answer_ternary(centres, 0, 1, 1)] == "yes"
    assert (
        ANSWERS[answer_ternary(np.array([[10, 10], [30, 10], [20, 40], [20, 60], [65, 65], [10, 40]]), 0, 1, 1)]
        == "no"
    )
    # Obtuse with red and green: blue between them, grey beyond green; orange is acute, yellow has a right angle.
    assert ANSWERS[answer_ternary(centres, 0, 1, 2)] == "3"
    # Three on one line have an angle of 180 degrees, which does not count.
    line = np.array([[10, 10], [30, 10], [20, 10], [20, 60], [20, 50], [20, 40]])
    assert ANSWERS[answer_ternary(line, 0, 1, 2)] == "0"


def test_question_bits_and_words():
    question = encode_question(2, 1, 0, 4)
    assert question.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0]
    assert describe_question(question) == "Is any near the line through red and grey?"
    row = SortOfClevr.generate("fixed", 0, 0, 0)
    bits = np.array(row["questions"])
    assert bits.shape == (30, 18)
    assert (bits[:, :6].sum(1) == 1).all()
    assert (bits[:, 6:12].sum(1) == (bits[:, 14] == 1)).all()
    assert not bits[bits[:, 14] == 1][:, [5, 11]].any()  # ternary questions leave yellow out
    assert bits[:, 12:15].sum(0).tolist() == [10, 10, 10]
    assert len({describe_question(question) for question in bits}) > 10
    assert tuple(sort_of_clevr.SUBTYPES) == QUESTION_TYPES


@pytest.fixture(scope="module")
def triangles():
    """Vertices (num_triangles, 3, 2) and labels of both variants."""
    drawn = {}
    for variant in Triangle.variants:
        rows = [Triangle.generate(variant, 0, 0, index) for index in range(NUM_SCENES)]
        drawn[variant] = np.array([row["vertices"] for row in rows]), np.array([row["label"] for row in rows])
    return drawn


def best_threshold(longest, labels):
    """Accuracy of the best threshold on the longest side."""
    order = np.argsort(longest)
    is_equilateral = labels[order] == 0
    below = np.cumsum(is_equilateral) + (~is_equilateral).sum() - np.cumsum(~is_equilateral)
    return max(below.max(), len(labels) - below.min()) / len(labels)


def test_original_triangles_have_the_known_statistics(triangles):
    vertices, labels = triangles["original"]
    assert_share(labels.mean(), 0.5, NUM_SCENES)
    sides = compute_sides(vertices)
    longest, shortest = sides.max(axis=1), sides.min(axis=1)
    for label, mean in ((0, 26.8), (1, 44.2)):
        values = longest[labels == label]
        assert abs(values.mean() - mean) < 4 * values.std() / math.sqrt(len(values)) + 0.05
    assert_share(best_threshold(longest, labels), 0.738, NUM_SCENES)
    assert_share(((longest - shortest)[labels == 1] <= 2).mean(), 0.0045, NUM_SCENES / 2)
    assert (longest - shortest)[labels == 0].max() < 2
    assert vertices.min() >= 1
    assert vertices.max() <= 63


def test_original_equilateral_triangles_are_redrawn_as_often_as_known():
    """Count the draws by the numbers that a triangle takes from its random stream."""

    class CountingRandom:
        def __init__(self):
            self.random, self.num_draws = np.random.default_rng(0), 0

        def integers(self, *args, **kwargs):
            self.num_draws += 1
            return self.random.integers(*args, **kwargs)

    random = CountingRandom()
    for _ in range(NUM_SCENES):
        draw_original(0, random)
    assert_share(NUM_SCENES / random.num_draws, 0.57, random.num_draws, rounding=0.005)


def test_matched_triangles_differ_in_shape_alone(triangles):
    vertices, labels = triangles["matched"]
    longest = compute_sides(vertices).max(axis=1)
    # A threshold does no better than one fitted to labels that are shuffled.
    shuffled = np.random.default_rng(0).permutation(labels)
    assert best_threshold(longest, labels) < 0.5 + 2 * (best_threshold(longest, shuffled) - 0.5) + 0.005 < 0.53
    assert best_threshold(*[np.concatenate([part, part]) for part in (longest, labels)]) < 0.53
    low, high = MATCHED_SIDES
    assert longest.min() > low - 2
    assert longest.max() < high + 2
    assert vertices.min() >= 1
    assert vertices.max() <= 63
    spread = compute_sides(vertices).max(axis=1) - compute_sides(vertices).min(axis=1)
    assert spread[labels == 0].max() < 3
    # The ceiling: random triangles that look equilateral.
    assert (spread[labels == 1] <= 2).mean() < 0.01


def test_triangle_image_shows_its_vertices():
    row = Triangle.generate("matched", 0, 0, 0)
    pixels = decode(row)
    assert pixels.shape == (64, 64, 3)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels[..., 0] == pixels[..., 1]).all()
    white = np.argwhere(pixels[..., 0] == 255)[:, ::-1]
    distances = np.linalg.norm(white[:, None] - np.array(row["vertices"]), axis=-1)
    # Every white pixel lies within a dot's radius and an offset of a vertex, and each vertex has some.
    assert distances.min(axis=1).max() <= 2 + math.sqrt(2)
    assert (distances.min(axis=0) <= 2).all()


@pytest.mark.parametrize("label", [0, 1])
def test_matched_longest_side_is_what_was_drawn(label):
    random = np.random.default_rng(0)
    for _ in range(300):
        wanted = np.random.default_rng(random.integers(2**31))
        state = wanted.bit_generator.state
        side = wanted.uniform(*MATCHED_SIDES)
        wanted.bit_generator.state = state
        assert abs(compute_sides(draw_matched(label, wanted)).max() - side) < 1.5
