"""The script that draws the memories of a checkpoint: its figure, its numbers, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from examples.errors import InputError
from examples.visualize import main
from modeling_ait import AiTForRelationalReasoning


def save(model, folder, num_channels=3):
    model.save_pretrained(folder)
    statistics = {name: [0.5] * num_channels for name in ("image_mean", "image_std")}
    height, width = model.config.image_shape
    ViTImageProcessorPil(size={"height": height, "width": width}, **statistics).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def checkpoint(make_model, tmp_path):
    """A classifier of digits."""
    return save(make_model(image_size=8, num_labels=10), tmp_path / "run")


def list_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figure_and_numbers_of_a_data_set(checkpoint, make_model, tmp_path, capsys):
    states = []
    for step in (2, 10):
        model = make_model(image_size=8, num_labels=10)
        model.ait.memory.layer_0.fill_(step)
        model.ait.memory.layer_0[0, 0] = -1
        save(model, tmp_path / "training" / f"checkpoint-{step}")
        states.append(model.ait.memories[0])
    before = list_files(tmp_path / "run")
    output, numbers = tmp_path / "deep" / "memory.svg", tmp_path / "numbers.json"
    flags = ["--checkpoint", checkpoint, "--dataset_name", "digits", "--max_eval_samples", "20", "--num_images", "3"]
    flags += ["--num_ablation_samples", "10", "--batch_size", "8", "--output", str(output), "--json", str(numbers)]
    main([*flags, "--without_slots", "1:2", "0:0", "--checkpoints", str(tmp_path / "training")])
    assert list_files(tmp_path / "run") == before
    assert capsys.readouterr().out.splitlines()[-1] == f"Written: {output}, {numbers}"
    assert output.read_text().startswith("<?xml")
    seen = json.loads(numbers.read_text())
    assert len(seen["predictions"]) == len(seen["answers"]) == 3
    assert [sum(tokens) for tokens in seen["slot_use"]["tokens"]] == [20 * 4] * 2
    retrieval = np.array(seen["retrieval_attention"])
    assert (retrieval[1, ..., 2] == 0).all() and (retrieval[0, ..., 0] == 0).all() and (retrieval[0, ..., 2] > 0).any()
    assert 2 in seen["slot_use"]["dead_slots"][1]
    assert seen["checkpoints"] == ["2", "10"] and seen["movement_degrees"][0][0][1] == 0
    cosine = torch.nn.functional.cosine_similarity(states[0][0], states[1][0], dim=0)
    assert seen["movement_degrees"][0][0][0] == pytest.approx(torch.rad2deg(torch.arccos(cosine)).item(), rel=1e-3)
    assert set(seen["ablation"]) == {
        *("accuracy", "without_chosen", "without_memory", "without_memory_of_layer", "without_slot")
    }


def test_images_of_ones_own_in_any_mode_and_shape(make_model, tmp_path):
    folder = save(make_model(), tmp_path / "run")
    files = []
    for name, mode in (("grey.png", "L"), ("wide.png", "RGBA")):
        files.append(str(tmp_path / name))
        Image.new(mode, (40, 9), 90 if mode == "L" else (200, 30, 30, 255)).save(files[-1])
    output, numbers = tmp_path / "memory.png", tmp_path / "numbers.json"
    main(["--checkpoint", folder, "--images", *files, "--output", str(output), "--json", str(numbers)])
    seen = json.loads(numbers.read_text())
    assert len(seen["predictions"]) == 2 and seen["patch_grid"] == [2, 3]
    assert seen["answers"] == [] and seen["ablation"] is None and seen["movement_degrees"] is None
    assert Image.open(output).size[0] > 1500


def test_one_image_of_a_model_with_one_channel(make_model, tmp_path):
    folder = save(make_model(num_channels=1), tmp_path / "run", num_channels=1)
    Image.new("RGB", (12, 8), (200, 30, 30)).save(tmp_path / "red.png")
    output = tmp_path / "memory.png"
    main(["--checkpoint", folder, "--images", str(tmp_path / "red.png"), "--output", str(output)])
    assert output.exists()


def test_questions_come_in_words_and_of_all_types(make_model, tmp_path):
    fields = {"image_size": 75, "patch_size": 25, "question_size": 18, "num_labels": 10}
    model = make_model(AiTForRelationalReasoning, **fields, question_attention="independent", pooling="question")
    folder = save(model, tmp_path / "run")
    flags = ["--checkpoint", folder, "--dataset_name", "sort_of_clevr", "--num_images", "3", "--batch_size", "4"]
    flags += ["--generator_train_size", "2", "--generator_test_size", "6", "--num_ablation_samples", "2"]
    output, numbers = tmp_path / "memory.png", tmp_path / "numbers.json"
    main([*flags, "--output", str(output), "--json", str(numbers)])
    seen = json.loads(numbers.read_text())
    assert len(seen["questions"]) == 3 and all(question.endswith("?") for question in seen["questions"])
    one, two, three = seen["questions"][:3]
    assert "{" not in one and (" closest " in two or " furthest " in two or " others " in two)
    assert any(words in three for words in ("in the box", "near the line", "obtuse"))
    attention = np.array(seen["question_attention"])
    assert attention.shape == (2, 3, 3, 3) and (attention.sum(axis=(-1, -2)) < 1).all()
    # Each of nine patches and the question.
    assert [sum(tokens) for tokens in seen["slot_use"]["tokens"]] == [6 * 10] * 2
    with pytest.raises(InputError, match="answers questions"):
        main(["--checkpoint", folder, "--images", "a.png", "--output", str(output)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "`--checkpoint` is missing"),
        (["--checkpoint", "run"], "`--output` is missing"),
        (["--checkpoint", "run", "--output", "a.png"], "one of the two"),
        (
            ["--checkpoint", "run", "--output", "a.png", "--images", "b.png", "--dataset_name", "digits"],
            "one of the two",
        ),
        (["--checkpoint", "run", "--output", "a.pdf", "--images", "b.png"], "ends in .png or .svg"),
        (["--num_images", "0"], "must be at least 1"),
        (["--checkpoint", "./none", "--output", "a.png", "--images", "b.png"], "There is no folder"),
        (["--without_slot", "3"], "Did you mean '--without_slots'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        main(flags)


def test_what_a_checkpoint_has_not_is_refused(checkpoint, make_model, tmp_path):
    output = ["--output", str(tmp_path / "a.png")]
    digits = ["--checkpoint", checkpoint, "--dataset_name", "digits", "--max_eval_samples", "10", *output]
    plain = save(make_model(num_memory_slots=0), tmp_path / "plain")
    other = save(make_model(num_memory_slots=5), tmp_path / "checkpoint-3")
    refused = [
        (["--checkpoint", plain, "--images", "a.png", *output], "no memory to look at"),
        (["--checkpoint", checkpoint, "--images", "none.png", *output], "none.png cannot be read"),
        ([*digits, "--without_slots", "9"], "no slot '9'"),
        ([*digits, "--checkpoints", checkpoint], "takes two or more"),
        ([*digits, "--checkpoints", "nowhere", checkpoint], "no folder 'nowhere'"),
        ([*digits, "--checkpoints", checkpoint, other], "another shape"),
        (["--checkpoint", checkpoint, "--dataset_name", "sort_of_clevr", *output], "has questions"),
    ]
    for flags, message in refused:
        with pytest.raises(InputError, match=message):
            main(flags)
    assert not (tmp_path / "a.png").exists()
