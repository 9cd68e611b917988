"""Mistakes that a script notices once it has opened something: a checkpoint, a folder, a device."""

import errno
import json

import pytest
import torch
from transformers import ViTImageProcessorPil

from examples import benchmark, compare, evaluate_batches, image_classification, relational_reasoning
from examples.data import __main__ as data_script
from examples.errors import InputError, run_script
from modeling_ait import AiTConfig, AiTForImageClassification
from tests.examples.conftest import TINY_MODEL


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A good checkpoint, and some that are not."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = AiTForImageClassification(AiTConfig(**TINY_MODEL, num_labels=10))
    for name, size in (("good", 8), ("other_size", 16), ("nan", 8)):
        if name == "nan":
            with torch.no_grad():
                model.classifier.weight.fill_(float("nan"))
        model.save_pretrained(folder / name)
        ViTImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder / name)
    for name, content in (("no_config", None), ("list", "[1]"), ("no_json", "{")):
        (folder / name).mkdir()
        if content is not None:
            (folder / name / "config.json").write_text(content)
    (folder / "text.txt").write_text("hello")
    return folder


CHECKPOINTS = [
    ("text.txt", "text.txt' is a file. Give the folder of a checkpoint, or a Hub id"),
    ("nowhere", "There is no folder .*nowhere'. Give the folder of a checkpoint"),
    ("no_config", "no_config' is no checkpoint of an AiT: it has no config.json"),
    ("list", r"config.json of '.*' must be a mapping of fields, but holds \[1\]"),
    ("no_json", "config.json of '.*' is no JSON: "),
    ("nan", "weights that are not finite: classifier.weight. .*take an older checkpoint, or train again with a lower"),
    ("other_size", "it makes images of 16 x 16 pixels, but the model takes 8 x 8"),
]


@pytest.mark.parametrize(("name", "message"), CHECKPOINTS)
def test_wrong_checkpoint_says_what_it_is(name, message, folders, make_flags, tmp_path):
    path = str(folders / name)
    with pytest.raises(InputError, match=message):
        evaluate_batches.main(["--checkpoints", path, "--dataset_name", "digits", "--max_eval_samples", "9"])
    flags = make_flags(tmp_path / "run", model_name_or_path=path)
    at = flags.index("--model_config")
    with pytest.raises(InputError, match=message):
        image_classification.main(flags[:at] + flags[at + 2 :])


def test_processor_of_another_size_is_taken_where_the_model_is_resized(folders, make_flags, tmp_path):
    flags = make_flags(tmp_path / "run", model_name_or_path=str(folders / "other_size"))
    flags[flags.index("--model_config") + 1] = json.dumps({"image_size": 16})
    image_classification.main(flags)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["image_size"] == 16


@pytest.mark.parametrize(
    ("fields", "flags", "message"),
    [
        (
            {"num_attention_heads": 3},
            {},
            r"`num_attention_heads` must be a divisor of `hidden_size` \(16\), but got 3",
        ),
        ({"problem_type": "regression"}, {}, "`problem_type` is 'regression', but every image here has one label"),
        ({"question_size": 18}, {}, "Leave `question_size` out"),
        (
            {"num_memory_slots": 0},
            {"reset_memory": True},
            "needs a memory, but `num_memory_slots` is 0",
        ),
        ({}, {"metric_for_best_model": "f1"}, "`--metric_for_best_model` takes loss or accuracy, but got 'f1'"),
        ({}, {"report_to": "nowhere"}, "The Trainer cannot use these arguments: nowhere is not supported"),
        ({}, {"resume_from_checkpoint": "nowhere"}, "'nowhere' is no complete checkpoint"),
        (
            {},
            {"architecture": "ait_no_workspace_wide_mlp", "match_parameters": False},
            "`--match_parameters` has no effect on the architecture 'ait_no_workspace_wide_mlp'",
        ),
    ],
)
def test_model_that_cannot_work_is_refused(fields, flags, message, make_flags, tmp_path):
    with pytest.raises(InputError, match=message):
        image_classification.main(make_flags(tmp_path / "run", fields, **flags))


def test_field_that_does_not_fit_a_checkpoint_is_refused(folders, make_flags, tmp_path):
    flags = make_flags(tmp_path / "run", model_name_or_path=str(folders / "good"))
    flags[flags.index("--model_config") + 1] = json.dumps({"num_attention_heads": 3})
    with pytest.raises(InputError, match=r"good' cannot be loaded: `num_attention_heads` must be a divisor"):
        image_classification.main(flags)


@pytest.mark.parametrize("place", ["file", "file/sub"])
def test_output_folder_that_cannot_be_made_is_refused(place, make_flags, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"`--output_dir` .*file"):
        image_classification.main(make_flags(tmp_path / place))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("written", ["checkpoint", "results"])
def test_full_disk_is_one_line(written, make_flags, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = "torch.save" if written == "checkpoint" else "examples.training.results.write_json"
    monkeypatch.setattr(target, fail)
    flags = make_flags(tmp_path / "run", save_strategy="steps", save_steps=1)
    with pytest.raises(SystemExit, match=r"error: The disk is full: the output cannot be written. Make room"):
        run_script(lambda: image_classification.main(flags))


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (benchmark, ["--device", "gpu"], "There is no device 'gpu'"),
        (benchmark, ["--batch_size", "0"], "`--batch_size` must be at least 1, but got 0"),
        (benchmark, ["--num_rounds", "1"], "`--num_rounds` must be at least 2"),
        (benchmark, ["--shape", "small"], "no flag '--shape'. Did you mean '--shapes'"),
        (compare, ["RECIPE", "--learning_rat", "1"], "no flag '--learning_rat'. Did you mean '--learning_rate'"),
        (compare, ["RECIPE", "--ablation", "no_memory"], "no flag '--ablation'. Did you mean '--ablations'"),
        (compare, ["RECIPE", "--learning_rate", "abc"], "`--learning_rate` takes a number, but got 'abc'"),
        (compare, ["RECIPE", "--seeds", "-1"], r"`--seeds` must be at least 0 .*but got \[-1\]"),
        (compare, ["RECIPE", "--device", "gpu"], "There is no device 'gpu'"),
        (compare, ["RECIPE", "--output_dir", "FILE"], "The folder of .*FILE.* cannot be made"),
        (
            data_script,
            ["digits", "--preview", "x.foo"],
            "takes a file that ends in .png, .*but got 'x.foo'",
        ),
        (data_script, ["digits", "--preveiw", "x.png"], "no flag '--preveiw'. Did you mean '--preview'"),
        (relational_reasoning, ["--qestion_types", "x"], "no flag '--qestion_types'. Did you mean '--question_types'"),
        (evaluate_batches, ["--checkpoint", "x"], "no flag '--checkpoint'. Did you mean '--checkpoints'"),
    ],
)
def test_other_scripts_refuse_in_one_line(script, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "RECIPE").write_text(json.dumps({"dataset_name": "digits", "model_config": TINY_MODEL}))
    (tmp_path / "RECIPE").rename(tmp_path / "recipe.yaml")
    flags = [flag.replace("RECIPE", "recipe.yaml") for flag in flags]
    with pytest.raises(InputError, match=message) as refusal:
        script.main(flags)
    assert "\n" not in str(refusal.value)
