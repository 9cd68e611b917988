"""The relational script, end to end on tiny runs: what it measures, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from examples import evaluate, relational_reasoning
from examples.baselines.catalog import ARCHITECTURES
from examples.data.arguments import DataArguments
from examples.data.images import ImagePixelsDataset
from examples.data.questions import (
    GroupedQuestionsDataset,
    QuestionsDataset,
    group_questions,
    load_questions,
    make_question_datasets,
)
from examples.data.sort_of_clevr import (
    QUESTION_TYPES,
    SortOfClevr,
    answer_encoded,
    augment_scene,
    encode_question,
)
from examples.errors import InputError
from examples.training.metrics import answer_from_questions_alone, score_groups
from modeling_ait import AiTForRelationalReasoning


TINY_MODEL = {
    "image_size": 75,
    "patch_size": 25,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_memory_slots": 3,
    "memory_slot_size": 4,
    "num_memory_heads": 2,
    "bottleneck_size": 16,
}


@pytest.fixture
def make_relational_flags(make_flags):
    """Flags of a tiny run: two steps of 16 questions, 4 images with 30 questions each to evaluate on."""

    def make(output_dir, **flags):
        tiny = {
            "dataset_name": "sort_of_clevr",
            "generator_train_size": 3,
            "generator_test_size": 4,
            "crop_padding": None,
            "max_train_samples": None,
            "max_eval_samples": None,
            "model_config": TINY_MODEL,
        }
        return make_flags(output_dir, **{**tiny, **flags})

    return make


def make_questions(num_train=30, num_eval=20, types=QUESTION_TYPES):
    data = load_questions(DataArguments("sort_of_clevr", generator_train_size=num_train, generator_test_size=num_eval))
    processor = ViTImageProcessorPil(size={"height": 75, "width": 75})
    return tuple(
        QuestionsDataset(part, ImagePixelsDataset(part, "image", processor, cache=True), list(types))
        for part in (data.train, data.evaluation)
    )


def test_every_question_is_a_sample_with_its_image_and_answer():
    train_data, _ = make_questions(4, 2)
    assert len(train_data) == 4 * 30
    for index in (0, 29, 30, 77, 119):
        row = SortOfClevr.generate("fixed", 0, 0, index // 30)
        sample = train_data[index]
        assert sample["question"].tolist() == row["questions"][index % 30].tolist()
        assert sample["labels"].item() == row["answers"][index % 30]
        assert torch.equal(sample["pixel_values"], train_data.pixels[index // 30])
    ternary, _ = make_questions(4, 2, ["ternary"])
    assert len(ternary) == 40
    assert ternary.image_indices.tolist() == np.repeat(range(4), 10).tolist()


def make_grouped_questions(types=QUESTION_TYPES, **fields):
    arguments = DataArguments(
        "sort_of_clevr", generator_train_size=12, generator_test_size=4, group_questions=True, **fields
    )
    processor = ViTImageProcessorPil(size={"height": 75, "width": 75})
    return make_question_datasets(load_questions(arguments), arguments, processor, list(types), 0)


def test_grouped_questions_are_those_of_the_single_samples_in_their_order():
    for types in (QUESTION_TYPES, ["binary", "ternary"]):
        (grouped, _), (single, _) = make_grouped_questions(types), make_questions(12, 4, types)
        assert len(grouped) == 12
        for name in ("question", "labels"):
            together = torch.cat([grouped[index][name] for index in range(len(grouped))])
            assert torch.equal(together, torch.stack([single[index][name] for index in range(len(single))]))
        assert torch.equal(grouped[3]["pixel_values"], single[3 * 10 * len(types)]["pixel_values"])


def test_images_with_different_numbers_of_questions_are_refused():
    data = load_questions(DataArguments("sort_of_clevr", generator_train_size=3, generator_test_size=3)).train
    uneven = [list(questions) for questions in data["questions"][:]]
    uneven[1][10:20] = uneven[1][:10]
    table = datasets.Dataset.from_dict({"questions": uneven, "answers": data["answers"][:]})
    pixels = ImagePixelsDataset(data, "image", ViTImageProcessorPil(size={"height": 75, "width": 75}))
    with pytest.raises(InputError, match="as many questions for each image, but there are 0 to 10"):
        GroupedQuestionsDataset(table, pixels, ["binary"])


@pytest.mark.parametrize("variant", ["fixed", "original"])
def test_augmented_questions_are_new_scenes_with_their_true_answers(variant):
    fields = {"dataset_config_name": variant}
    (plain, plain_eval), (augmented, augmented_eval) = (
        make_grouped_questions(augment_questions=augment, **fields) for augment in (False, True)
    )
    assert torch.equal(plain_eval[0]["pixel_values"], augmented_eval[0]["pixel_values"])
    # The answers of the generator are found again from its scenes.
    for index in range(12):
        scene = augmented.centres[index], augmented.shapes[index]
        answers = answer_encoded(*scene, plain.bits_by_image[index], variant)
        assert np.array_equal(answers, plain.answers_by_image[index])
    drawn = []
    for epoch in range(3):
        augmented.set_epoch(epoch)
        drawn.append(augmented[5])
        assert all(torch.equal(value, drawn[-1][name]) for name, value in augmented[5].items())
    assert not any(torch.equal(drawn[0][name], drawn[1][name]) for name in ("pixel_values", "question"))
    # The same kinds of questions about the same number of shapes.
    kinds, labels = plain[5]["question"][:, 12:], plain[5]["labels"]
    assert all(torch.equal(sample["question"][:, 12:], kinds) for sample in drawn)
    counts_shapes = (kinds[:, 1] == 1) & (kinds[:, 5] == 1)
    assert counts_shapes.any()
    assert all(torch.equal(sample["labels"][counts_shapes], labels[counts_shapes]) for sample in drawn)


def test_redrawn_questions_are_new_ones_of_each_type_with_their_true_answers():
    dataset, evaluation = make_grouped_questions(augment_questions=True, redraw_questions=[1, 0, 40])
    assert (dataset.num_questions, evaluation.num_questions) == (12 * 41, len(evaluation) * 30)
    first, again = dataset[5], dataset[5]
    dataset.set_epoch(1)
    later = dataset[5]
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["question"], later["question"])
    assert first["labels"].shape == (41,)
    types = first["question"][:, 12:15].argmax(1).tolist()
    assert types == [0] + 40 * [2]
    # More than the ten ternary questions of the image, of all subtypes.
    assert len(first["question"][1:].unique(dim=0)) > 20
    assert set(first["question"][1:, 15:].argmax(1).tolist()) == {0, 1, 2}
    # The scene is the one that the image's own questions would have been asked about.
    kept = make_grouped_questions(augment_questions=True)[0]
    assert torch.equal(kept[5]["pixel_values"], first["pixel_values"])
    scene = augment_scene(
        dataset.centres[5], dataset.shapes[5], dataset.bits_by_image[5], np.random.default_rng([0, 0, 5])
    )
    answers = answer_encoded(scene[0], scene[1], first["question"].numpy(), "fixed")
    assert answers.tolist() == first["labels"].tolist()


def test_augmented_scene_is_flipped_transposed_and_recolored():
    centres = np.array([[5, 6], [20, 30], [40, 10], [60, 69], [37, 37], [69, 20]])
    shapes = np.array([0, 1, 1, 0, 1, 0])
    questions = np.stack([encode_question(2, 0, a, b) for a in range(5) for b in range(5) if a != b])
    old_a, old_b = questions[:, :6].argmax(1), questions[:, 6:12].argmax(1)
    places, sources = set(), set()
    for seed in range(60):
        random = np.random.default_rng(seed)
        new_centres, new_shapes, new_questions = augment_scene(centres, shapes, questions, random)
        a, b = new_questions[:, :6].argmax(1), new_questions[:, 6:12].argmax(1)
        assert np.array_equal(new_shapes[a], shapes[old_a])
        assert new_shapes[5] == shapes[5]
        # The objects of a question are as far from each other, and their box holds as many.
        distances = np.linalg.norm(new_centres[a] - new_centres[b], axis=1)
        assert np.allclose(distances, np.linalg.norm(centres[old_a] - centres[old_b], axis=1))
        answers = answer_encoded(new_centres, new_shapes, new_questions, "fixed")
        assert np.array_equal(answers, answer_encoded(centres, shapes, questions, "fixed"))
        places.add(tuple(new_centres[5].tolist()))
        sources.add(int(a[0]))
    assert places == {place for one in (69, 5) for other in (20, 54) for place in ((one, other), (other, one))}
    assert sources == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("architecture", "redrawn"),
    [("ait", [1, 0, 4]), ("ait_no_workspace", None), ("coordination", None), ("relation_network", None)],
)
def test_two_steps_with_grouped_questions(architecture, redrawn, make_relational_flags, tmp_path):
    folder = tmp_path / "run"
    flags = make_relational_flags(
        folder,
        architecture=architecture,
        model_config={**TINY_MODEL, "question_attention": "independent", "pooling": "question"},
        group_questions=True,
        augment_questions=True,
        redraw_questions=redrawn,
        per_device_train_batch_size=2,
    )
    relational_reasoning.main(flags)
    results = json.loads((folder / "results.json").read_text())
    # Of 3 images.
    assert (results["num_train_questions"], results["num_eval_questions"]) == (15 if redrawn else 90, 120)
    by_group = results["accuracy_by_group"]
    assert results["accuracy"] == pytest.approx(np.mean([by_group[name] for name in QUESTION_TYPES]))


def test_groups_cover_all_questions_and_are_scored_apart():
    _, data = make_questions()
    groups = group_questions(data.bits)
    assert sum(groups[name].sum() for name in QUESTION_TYPES) == len(data) == 600
    assert groups["relational"].sum() == 400
    subtypes = [mask for name, mask in groups.items() if ":" in name]
    assert len(subtypes) == 9
    assert (sum(mask.astype(int) for mask in subtypes) == 1).all()
    predictions = np.where(groups["binary"], data.answers, -1)
    scores = score_groups(predictions, data)
    assert (scores["binary"], scores["ternary"], scores["relational"]) == (1.0, 0.0, 0.5)
    assert scores["binary: number of same shape"] == 1.0
    alone = group_questions(np.stack([encode_question(0, 2, 3)]))
    assert set(alone) == {"non-relational", "non-relational: top half"}


def test_question_alone_reaches_the_known_ceiling():
    """Fitted on 400 images and scored on 400: 50, 44.0 and 53.3 % within four standard errors."""
    train_data, eval_data = make_questions(400, 400)
    scores = score_groups(answer_from_questions_alone(train_data, eval_data), eval_data)
    for name, known in (("non-relational", 0.5), ("binary", 0.440), ("ternary", 0.533)):
        assert abs(scores[name] - known) < 4 * (0.25 / 4000) ** 0.5
    # The labels of the evaluation are not used.
    shuffled = np.random.default_rng(0).permutation(eval_data.answers)
    before = answer_from_questions_alone(train_data, eval_data)
    eval_data.answers = shuffled
    assert np.array_equal(answer_from_questions_alone(train_data, eval_data), before)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "vit"])
def test_two_steps_of_every_architecture(architecture, make_relational_flags, tmp_path, capsys):
    folder = tmp_path / "run"
    relational_reasoning.main(make_relational_flags(folder, architecture=architecture))
    results = json.loads((folder / "results.json").read_text())
    assert (results["num_train_questions"], results["num_eval_questions"]) == (90, 120)
    assert results["num_steps"] == 2
    by_group, ceiling = results["accuracy_by_group"], results["question_only_by_group"]
    assert by_group.keys() == ceiling.keys() >= {*QUESTION_TYPES, "relational"}
    mean = np.mean([by_group[name] for name in QUESTION_TYPES])
    assert results["accuracy"] == pytest.approx(mean)
    printed = capsys.readouterr().out
    assert f"relational: {100 * by_group['relational']:.1f} % ({100 * ceiling['relational']:.1f} %)" in printed
    assert [entry["step"] for entry in results["history"] if "loss" in entry] == [1, 2]


def test_saved_model_gives_the_reported_accuracy(make_relational_flags, tmp_path):
    folder = tmp_path / "run"
    relational_reasoning.main(make_relational_flags(folder, question_types="ternary"))
    results = json.loads((folder / "results.json").read_text())
    assert set(QUESTION_TYPES) & set(results["accuracy_by_group"]) == {"ternary"}
    model = AiTForRelationalReasoning.from_pretrained(folder)
    assert model.config.question_size == 18
    assert model.config.id2label[4] == "0"
    _, data = make_questions(3, 4, ["ternary"])
    data.pixels.processor = None  # the cache is used
    processor = ViTImageProcessorPil.from_pretrained(folder)
    row_pixels = [processor(Image.open(folder / "example.png"), return_tensors="pt")["pixel_values"][0]]
    torch.testing.assert_close(row_pixels[0], data.pixels[0])
    samples = [data[index] for index in range(len(data))]
    with torch.no_grad():
        logits = model(
            torch.stack([sample["pixel_values"] for sample in samples]),
            torch.stack([sample["question"] for sample in samples]),
        ).logits
    accuracy = (logits.argmax(-1) == torch.stack([sample["labels"] for sample in samples])).float().mean()
    assert results["accuracy"] == pytest.approx(float(accuracy))


@pytest.mark.parametrize("eval_split", ["test", "validation"])
def test_data_set_from_a_folder_is_taken(eval_split, make_relational_flags, tmp_path):
    for split, split_id in (("train", 0), (eval_split, 1)):
        rows = [SortOfClevr.generate("fixed", 0, split_id, index) for index in range(3)]
        table = {name: [row[name] for row in rows] for name in rows[0]}
        (tmp_path / "data").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(table, features=SortOfClevr.features).to_parquet(
            tmp_path / "data" / f"{split}.parquet"
        )
    flags = make_relational_flags(
        tmp_path / "run", dataset_name=tmp_path / "data", generator_train_size=None, generator_test_size=None
    )
    relational_reasoning.main(flags)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["num_eval_questions"] == 90
    again = ["--dataset_name", str(tmp_path / "data"), "--device", "cpu", "--max_difference", "0.001"]
    evaluate.main([str(tmp_path / "run"), *again])
    with pytest.raises(InputError, match="`--streaming` is for image classification"):
        evaluate.main([str(tmp_path / "run"), "--dataset_name", str(tmp_path / "data"), "--streaming", "True"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"question_types": "unary"}, "no question type 'unary'. Known types: non-relational, binary, ternary"),
        ({"horizontal_flip": True}, "other answers"),
        ({"augment_questions": True}, "`--augment_questions` needs `--group_questions`"),
        (
            {"augment_questions": True, "group_questions": True, "model_config": {**TINY_MODEL, "image_size": 50}},
            "paints images of 75 x 75 pixels, but the model takes 50 x 50",
        ),
        ({"redraw_questions": [1, 2, 3]}, "`--redraw_questions` needs `--augment_questions`"),
        ({"augment_questions": True, "redraw_questions": [1, 2]}, r"must be three numbers.*but got \[1, 2\]"),
        ({"augment_questions": True, "redraw_questions": [0, 0, 0]}, r"must be three numbers.*but got \[0, 0, 0\]"),
        ({"augment_questions": True, "redraw_questions": [-1, 2, 3]}, r"must be three numbers.*but got \[-1, 2, 3\]"),
        (
            {"augment_questions": True, "redraw_questions": [1, 2, 3], "question_types": "ternary"},
            "Pass one of `--question_types` and `--redraw_questions`",
        ),
        ({"dataset_name": "triangle"}, "has no questions: train on it with `examples.image_classification`"),
        ({"architecture": "vit"}, "takes no question"),
        ({"architecture": "resnet"}, "no architecture 'resnet'"),
        ({"eval_split": "dev"}, "no split 'dev'.*train, test"),
        ({"train_split": "test"}, "no split to evaluate on.*train, test.*`--hold_out True`"),
        ({"dataset_config_name": "true"}, "no variant 'true'. Known variants: fixed, original"),
    ],
)
def test_bad_arguments_are_refused(flags, message, make_relational_flags, tmp_path):
    with pytest.raises(InputError, match=message):
        relational_reasoning.main(make_relational_flags(tmp_path / "run", **flags))


def test_images_without_questions_are_refused(make_relational_flags, image_folder, tmp_path):
    flags = make_relational_flags(
        tmp_path / "run", dataset_name=image_folder, generator_train_size=None, generator_test_size=None
    )
    with pytest.raises(InputError, match=r"lacks the columns answers, questions; it has: image, label"):
        relational_reasoning.main(flags)


def test_mistake_is_one_line_without_a_traceback():
    result = subprocess.run(
        [sys.executable, "-m", "examples.relational_reasoning", "nowhere.yaml"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "There is no recipe" in result.stderr
