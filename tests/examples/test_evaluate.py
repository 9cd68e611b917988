"""Evaluating a checkpoint: on its own data the recorded accuracy comes out, on others it is not compared."""

import json
import shutil

import datasets
import pytest
import torch
from transformers import AutoImageProcessor
from transformers.utils import logging

from examples import (
    compare_vit_finetuning,
    demo,
    evaluate,
    evaluate_batches,
    image_classification,
    relational_reasoning,
    visualize,
)
from examples.data.arguments import DataArguments
from examples.data.digits import load_digits
from examples.errors import InputError
from examples.training import evaluation as evaluation_module
from examples.training.evaluation import choose_data, is_recorded_data, is_unseen, predict_logits
from examples.visualization.ablation import without_memory, without_slots
from modeling_ait import AiTConfig, AiTForImageClassification, AiTForRelationalReasoning
from tests.examples.conftest import make_tiny_flags
from tests.examples.helpers import read_results


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A tiny run on part of the digits."""
    folder = tmp_path_factory.mktemp("evaluate") / "digits"
    image_classification.main(make_tiny_flags(folder, max_steps=8, learning_rate=0.01))
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A tiny run on Sort-of-CLEVR."""
    folder = tmp_path_factory.mktemp("evaluate") / "questions"
    flags = make_tiny_flags(
        folder,
        {"image_size": 75, "patch_size": 25},
        dataset_name="sort_of_clevr",
        dataset_config_name="fixed",
        generator_train_size=8,
        generator_test_size=6,
        crop_padding=None,
        max_train_samples=None,
        max_eval_samples=5,
        max_steps=4,
    )
    relational_reasoning.main([*flags, "--question_types", "binary", "ternary"])
    return folder


def test_recorded_accuracy_of_images_comes_out_again(digits, tmp_path, capsys):
    recorded = read_results(digits)
    evaluate.main([str(digits), "--device", "cpu", "--max_difference", "0", "--output", str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["accuracy"] == recorded["accuracy"]
    assert results["num_samples"] == results["num_images"] == 51
    assert results["points_above_recorded"] == {"all": 0.0} and results["kind"] == "evaluation"
    percent = f"{100 * recorded['accuracy']:.2f} %"
    assert f"Accuracy on 51 images: {percent} (recorded {percent})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "removed"),
    [(["--without_slots", "0", "1:2"], {0: [0], 1: [0, 2]}), (["--without_memory", "True"], None)],
)
def test_slots_can_be_taken_away(digits, flags, removed, tmp_path, monkeypatch):
    seen = []

    def note(model, dataset, batch_size):
        seen.append((model, predict_logits(model, dataset, batch_size), dataset))
        return seen[-1][1]

    monkeypatch.setattr(evaluation_module, "predict_logits", note)
    evaluate.main([str(digits), "--device", "cpu", *flags, "--output", str(tmp_path / "out.json")])
    ((model, logits, dataset),) = seen
    with without_memory(model) if removed is None else without_slots(model, removed):
        torch.testing.assert_close(predict_logits(model, dataset, 51), logits)
    # What was taken away is there again, and makes a difference.
    assert not torch.allclose(predict_logits(model, dataset, 51), logits)
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["without_memory"] is (removed is None) and results["without_slots"] == flags[1:] * bool(removed)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--without_slots", "3"], "There is no slot '3'"),
        (["--without_slots", "0", "1", "2"], "leaves no slot of 3"),
        (["--without_slots", "0", "--without_memory", "True"], "leave `--without_slots` out"),
    ],
)
def test_what_cannot_be_taken_away_is_refused(digits, flags, message):
    with pytest.raises(InputError, match=message):
        evaluate.main([str(digits), "--device", "cpu", *flags])


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (evaluate, ["runs/mine"]),
        (evaluate_batches, ["--checkpoints", "runs/mine"]),
        (visualize, ["--checkpoint", "runs/mine", "--output", "memory.png"]),
        (demo, ["--checkpoint", "runs/mine"]),
        (compare_vit_finetuning, []),
    ],
)
@pytest.mark.parametrize(
    "augmentation",
    [
        ["--crop_padding", "2"],
        ["--auto_augment", "randaugment"],
        ["--redraw_questions", "1", "2", "3"],
        ["--augment_on_device", "True"],
    ],
)
def test_augmentation_without_effect_is_refused(script, flags, augmentation):
    with pytest.raises(InputError, match=f"`{augmentation[0]}` has no effect where nothing is augmented"):
        script.main([*flags, "--dataset_name", "digits", *augmentation])


@pytest.mark.parametrize("grouped", ["True", "False"])
def test_recorded_accuracies_of_questions_come_out_again(questions, grouped, tmp_path, capsys):
    recorded, output = read_results(questions), tmp_path / "out.json"
    evaluate.main([str(questions), "--group_questions", grouped, "--output", str(output), "--max_difference", "0"])
    results = json.loads(output.read_text())
    assert results["accuracy_by_group"] == recorded["accuracy_by_group"]
    assert {"binary", "ternary", "relational"} <= results["accuracy_by_group"].keys()
    assert results["num_images"] == 5 and results["num_samples"] == recorded["num_eval_questions"]
    printed = capsys.readouterr().out
    assert f"questions about 5 images: {100 * recorded['accuracy']:.2f} %" in printed
    assert f"  ternary: {100 * recorded['accuracy_by_group']['ternary']:.2f} % (recorded" in printed


def test_other_data_are_not_compared(digits, capsys):
    datasets.enable_progress_bars()
    logging.enable_progress_bar()
    evaluate.main([str(digits), "--max_eval_samples", "20"])
    printed, errors = capsys.readouterr()
    assert "Flattening" not in errors and "Loading" not in errors
    assert "Accuracy on 20 images" in printed and "recorded " not in printed.replace("a recorded accuracy", "")
    assert "it is of other data" in printed
    with pytest.raises(InputError, match="`--max_difference` needs a recorded accuracy"):
        evaluate.main([str(digits), "--max_eval_samples", "20", "--max_difference", "0"])


@pytest.mark.parametrize(
    ("run", "model_class"), [("digits", AiTForImageClassification), ("questions", AiTForRelationalReasoning)]
)
def test_labels_in_another_order_are_told_apart_by_name(run, model_class, request, tmp_path):
    folder = request.getfixturevalue(run)
    model = model_class.from_pretrained(folder)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order])
        model.classifier.bias.copy_(model.classifier.bias[order])
    model.config.id2label = {index: model.config.id2label[old] for index, old in enumerate(order.tolist())}
    model.save_pretrained(tmp_path)
    for file in ("preprocessor_config.json", "results.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    evaluate.main([str(tmp_path), "--max_difference", "0"])


def test_held_out_part_is_the_same_again(image_folder, tmp_path):
    flags = make_tiny_flags(tmp_path / "run", dataset_name=image_folder / "train", max_eval_samples=None)
    image_classification.main([*flags, "--eval_fraction", "0.4"])
    evaluate.main([str(tmp_path / "run"), "--max_difference", "0", "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["data"]["eval_fraction"] == 0.4


def test_recorded_part_gives_way_to_the_one_that_is_asked_for(image_folder):
    record = {"arguments": {"dataset_name": str(image_folder), "hold_out": True, "eval_fraction": 0.4}}
    assert choose_data(record, {"hold_out": False}).eval_fraction == DataArguments.eval_fraction
    record = {"arguments": {"dataset_name": str(image_folder), "eval_split": "test"}}
    assert choose_data(record, {"hold_out": True}).eval_split is None


def test_data_set_with_a_test_split_alone_is_enough(image_folder, tmp_path, capsys):
    image_classification.main(make_tiny_flags(tmp_path / "run", dataset_name=str(image_folder), crop_padding=None))
    shutil.copytree(image_folder / "test", tmp_path / "data" / "test")
    capsys.readouterr()
    for flags in ([], ["--split", "test"]):
        evaluate.main([str(tmp_path / "run"), "--dataset_name", str(tmp_path / "data"), "--device", "cpu", *flags])
        printed = capsys.readouterr().out
        assert f"on {len([*(image_folder / 'test').rglob('*.png')])} images" in printed and "Warning" not in printed
    evaluate_on = [str(tmp_path / "run"), "--dataset_name", str(tmp_path / "data")]
    with pytest.raises(InputError, match=r"There is no split 'validation' \(`--eval_split`\)"):
        evaluate.main([*evaluate_on, "--split", "validation"])
    # Nothing is held out of what is not there.
    with pytest.raises(InputError, match="There is no split 'train'"):
        evaluate.main([*evaluate_on, "--hold_out", "True"])
    (tmp_path / "data" / "test" / "cat" / "0.png").write_bytes(b"no image")
    capsys.readouterr()
    evaluate.main([*evaluate_on, "--device", "cpu", "--skip_bad_images", "True"])
    printed = capsys.readouterr().out
    assert printed.count("Left out of") == 1 and "training" not in printed and "on 5 images" in printed
    with pytest.raises(InputError, match="There is no split 'train'"):
        image_classification.main(make_tiny_flags(tmp_path / "other", dataset_name=str(tmp_path / "data")))


def test_part_that_was_held_out_of_a_data_set_with_a_test_split_is_the_same_again(tmp_path):
    image_classification.main(make_tiny_flags(tmp_path / "run", hold_out=True, eval_fraction=0.2))
    evaluate.main([str(tmp_path / "run"), "--max_difference", "0", "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["data"]["hold_out"] is True
    assert "train, held-out part" in (tmp_path / "run" / "README.md").read_text()


def test_wrong_record_is_noticed(digits, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    record = read_results(digits)
    (tmp_path / "results.json").write_text(json.dumps({**record, "accuracy": record["accuracy"] + 0.01}))
    evaluate.main([str(tmp_path)])
    evaluate.main([str(tmp_path), "--max_difference", "1.5"])
    with pytest.raises(InputError, match=r"The accuracy \(all\) is -1.00 points from the recorded one"):
        evaluate.main([str(tmp_path), "--max_difference", "0.5"])


RECORD = {
    "arguments": {"dataset_name": "digits", "eval_fraction": 0.3, "max_eval_samples": 9, "allow_outside_files": True}
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"dataset_name": "digits", "eval_fraction": 0.3, "max_eval_samples": 9}),
        ({"max_eval_samples": 4}, {"dataset_name": "digits", "eval_fraction": 0.3, "max_eval_samples": 4}),
        ({"dataset_name": "other"}, {"dataset_name": "other"}),
        ({"eval_split": "train"}, {"dataset_name": "digits", "eval_split": "train", "max_eval_samples": 9}),
    ],
)
def test_data_are_those_of_the_record_until_others_are_named(given, expected):
    data = choose_data(RECORD, given)
    # What a checkpoint records opens no files outside a data folder.
    assert data == DataArguments(**expected)
    assert is_recorded_data(RECORD, data) == (not given)


def test_classes_that_a_folder_lacks_are_said_and_the_others_told_apart_by_name(digits, tmp_path, capsys):
    held_out = load_digits()["test"]
    chosen = [index for index, label in enumerate(held_out["label"]) if label in (2, 5, 7)]
    for index in chosen:
        folder = tmp_path / "images" / "test" / str(held_out[index]["label"])
        folder.mkdir(parents=True, exist_ok=True)
        held_out[index]["image"].save(folder / f"{index}.png")
    evaluate.main([str(digits), "--dataset_name", str(tmp_path / "images"), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert f"Of the checkpoint's 10 labels '{tmp_path / 'images'}' has no 0, 1, 3 and 4 more." in printed
    model = AiTForImageClassification.from_pretrained(digits).eval()
    processor = AutoImageProcessor.from_pretrained(digits)
    images = [held_out[index]["image"] for index in chosen]
    with torch.inference_mode():
        predicted = model(**processor(images, return_tensors="pt")).logits.argmax(dim=-1)
    accuracy = (predicted == torch.tensor([held_out[index]["label"] for index in chosen])).float().mean().item()
    assert 0 < accuracy < 1 and f"Accuracy on {len(chosen)} images: {100 * accuracy:.2f} %" in printed


def test_all_of_a_folder_without_splits_is_evaluated_unless_it_was_trained_on(
    image_folder, tmp_path, monkeypatch, capsys
):
    run, other = str(tmp_path / "run"), tmp_path / "other"
    image_classification.main(make_tiny_flags(run, dataset_name=str(image_folder / "train"), crop_padding=None))
    shutil.copytree(image_folder / "train", other)
    number = len([*other.rglob("*.png")])

    def evaluate_on(*flags):
        capsys.readouterr()
        evaluate.main([run, "--device", "cpu", *flags])
        return capsys.readouterr().out

    printed = evaluate_on("--dataset_name", str(other))
    assert f"Accuracy on {number} images" in printed and f"All of {other} is evaluated" in printed
    # A part, where one is asked for, and of what was trained on, by whatever path.
    held_out = f"Held out to evaluate on: 3 of {number} training images (`--eval_fraction`)."
    assert held_out in evaluate_on("--dataset_name", str(other), "--eval_fraction", "0.25")
    monkeypatch.chdir(image_folder)
    monkeypatch.setenv("HOME", str(image_folder))
    for path in ("./train", "~/train"):
        assert "Held out to evaluate on: 2" in evaluate_on("--dataset_name", path)
    # One class is enough, where nothing is trained.
    shutil.rmtree(other / "dog")
    printed = evaluate_on("--dataset_name", str(other))
    assert f"Accuracy on {len([*other.rglob('*.png')])} images" in printed and "has no dog" in printed


@pytest.mark.parametrize(
    ("recorded", "given", "expected"),
    [
        ("pets", "owls", True),
        ("pets", "./pets", False),
        ("data", "data/pets", False),
        ("data/pets/train", "data/pets", False),
        ("data/pets", "data/pets2", True),
        (None, "pets", False),
    ],
)
def test_data_are_unseen_if_the_run_was_of_others(recorded, given, expected):
    record = {"arguments": {"dataset_name": recorded}}
    assert is_unseen(record, DataArguments(given)) is expected


def test_answer_that_the_questions_lack_is_a_wrong_one(questions, tmp_path, capsys):
    model = AiTForRelationalReasoning.from_pretrained(questions)
    names = [*model.config.id2label.values(), "none of these"]
    wider = AiTForRelationalReasoning(AiTConfig.from_pretrained(questions, num_labels=len(names)))
    weights = model.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = torch.cat([weights[name], weights[name][-1:]])
    weights["classifier.bias"][-1] += 1e3
    wider.load_state_dict(weights)
    wider.config.id2label = dict(enumerate(names))
    wider.save_pretrained(tmp_path)
    for file in ("preprocessor_config.json", "results.json"):
        (tmp_path / file).write_bytes((questions / file).read_bytes())
    evaluate.main([str(tmp_path), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "has no none of these." in printed and "questions about 5 images: 0.00 %" in printed


def test_mistakes_are_said_in_one_line(digits, tmp_path):
    sizes = ["--generator_train_size", "4", "--generator_test_size", "4"]
    for flags, message in (
        ([], "Name a checkpoint first"),
        (["nowhere"], "The checkpoint 'nowhere' cannot be loaded: there is no such folder here, and as a Hub id: "),
        ([str(digits), "--split", "test", "--eval_split", "test"], "are the same"),
        ([str(digits), "--batch_size", "0"], "`--batch_size` must be at least 1, but got 0"),
        ([str(digits), "--device", "nowhere"], "There is no device 'nowhere'"),
        ([str(digits), "--dataset_name", "triangle", *sizes], "of 'triangle', but has 0, 1, 2 and 7 more"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate.main(flags)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    with pytest.raises(InputError, match=r"has no results.json that names its data: give `--dataset_name`"):
        evaluate.main([str(tmp_path)])
    (tmp_path / "results.json").write_text(json.dumps({"arguments": {"dataset_name": ["digits"]}}))
    with pytest.raises(InputError, match=r"What results.json records has `dataset_name` \['digits'\]"):
        evaluate.main([str(tmp_path)])
