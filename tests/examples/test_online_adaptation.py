"""The script of online adaptation: what it writes, trains, and refuses."""

import json
import statistics

import pytest
import torch
from transformers import ViTImageProcessorPil

from examples import online_adaptation
from examples.errors import InputError


TINY = ["--num_batches", "3", "--batch_size", "4", "--num_blank_batches", "2", "--num_recovery_batches", "1"]
DATA = ["--max_eval_samples", "20"]


@pytest.fixture
def checkpoint(make_model, tmp_path):
    folder = tmp_path / "checkpoint"
    names = {index: str(index) for index in range(10)}
    labels = {"num_labels": 10, "id2label": names, "label2id": {name: index for index, name in names.items()}}
    make_model(image_size=8, **labels).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True).save_pretrained(folder)
    return folder


def test_results_and_plots_of_given_checkpoints(checkpoint, tmp_path, capsys):
    file, weights = tmp_path / "results" / "adaptation.json", (checkpoint / "model.safetensors").read_bytes()
    flags = [*TINY, *DATA, "--results", str(file), "--checkpoints", str(checkpoint), str(checkpoint)]
    online_adaptation.main([*flags, "--update_rates", "0.01"])
    assert {path.name for path in file.parent.iterdir()} == {f"adaptation.{ending}" for ending in ("json", "png")}
    results = json.loads(file.read_text())
    assert (results["kind"], results["seeds"]) == ("online adaptation", [0, 1])
    first, second = results["models"]
    assert first["drift"]["noise"].keys() == results["summary"]["drift"]["noise"].keys()
    assert len(first["drift"]["blur"]["written"]["accuracies"]) == 3
    # Each model has a stream of its own.
    assert first["blanks"]["images"]["recovered"] != second["blanks"]["images"]["recovered"]
    assert first["blanks"].keys() == {"images", "blank", "blank, movement limit 0.5", "blank, rate 0.01"}
    written = {guard: study["written"] for guard, study in first["blanks"].items()}
    assert [row["step"] for row in written["blank"]] == [0, 1, 2]
    assert 0 < written["blank, rate 0.01"][-1]["distance"] < written["blank"][-1]["distance"]
    assert first["blanks"]["blank"]["recovered"]["step"] == 1
    assert "hidden pixels, mean accuracy over the stream" in capsys.readouterr().out
    assert (checkpoint / "model.safetensors").read_bytes() == weights


def test_summary_is_of_the_means_and_of_paired_differences():
    def make_model(plain, written, distance):
        row = {"step": 0, "distance": distance, "last_movement": 0.0, "spread": 1.0, "clean_accuracy": 0.5}
        drift = {"noise": {"read only": {"accuracies": plain}, "written": {"accuracies": written}}}
        return {"drift": drift, "blanks": {"blank": {"written": [row, {**row, "distance": 9.0}], "recovered": row}}}

    models = [make_model([0.5, 0.7], [0.6, 0.7], 1.0), make_model([0.2, 0.4], [0.5, 0.4], 3.0)]
    summary = online_adaptation.summarize(models)
    ways = summary["drift"]["noise"]
    assert ways["read only"]["accuracy"]["mean"] == pytest.approx(45.0)
    assert ways["read only"]["difference"] == {"mean": 0.0, "stdev": 0.0}
    assert ways["written"]["difference"]["mean"] == pytest.approx(10.0)
    assert ways["written"]["difference"]["stdev"] == pytest.approx(statistics.stdev([5.0, 15.0]))
    assert summary["blanks"]["blank"]["before"]["distance"]["mean"] == 2.0
    assert summary["blanks"]["blank"]["written"]["distance"] == {"mean": 9.0, "stdev": 0.0}
    assert online_adaptation.summarize(models[:1])["drift"]["noise"]["written"]["accuracy"]["stdev"] is None


def test_models_are_trained_by_the_recipe_once(tmp_path, monkeypatch):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "dataset_name: digits\nmax_train_samples: 32\nmax_eval_samples: 20\nmax_steps: 1\nreport_to: none\n"
        "use_cpu: true\noutput_dir: unused\nmodel_config: {image_size: 8, patch_size: 4, hidden_size: 16, "
        "num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, num_memory_slots: 3}\n"
    )
    flags = [*TINY, "--recipe", str(recipe), "--seeds", "5", "--output_dir", str(tmp_path / "runs")]
    online_adaptation.main(flags)
    results = json.loads((tmp_path / "runs" / "adaptation.json").read_text())
    (model,) = results["models"]
    assert results["seeds"] == [5]
    assert json.loads((tmp_path / "runs" / "tiny" / "ait-seed_5" / "results.json").read_text())["seed"] == 5
    assert model["checkpoint"] == str(tmp_path / "runs" / "tiny" / "ait-seed_5")
    # What is there is not trained again, and the streams are the same.
    monkeypatch.setattr("examples.comparison.runs.start_run", None)
    online_adaptation.main(flags)
    again = json.loads((tmp_path / "runs" / "adaptation.json").read_text())
    assert again["models"] == results["models"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_batches", "0"], r"`--num_batches` must be at least 1, but got 0"),
        (["--movement_limit", "0"], r"`--movement_limit` must be above 0"),
        (["--update_rates", "0.1", "2"], r"`--update_rates` must be between 0 and 1, but got \[0\.1, 2\.0\]"),
        (["--seeds", "1", "1"], r"`--seeds` must differ"),
        (["--seeds", "-1"], r"`--seeds` must differ and be from 0"),
        (["--recipe", "nowhere.yaml"], r"nowhere\.yaml"),
        (["--num_batchse", "3"], r"There is no flag '--num_batchse'. Did you mean '--num_batches'"),
        (["--checkpoints", "./nowhere"], r"There is no folder './nowhere'"),
        (["--output_dir", "x", "--architecture", "vit"], r"'--architecture' cannot be passed on"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path):
    given = [*TINY, *DATA, "--results", str(tmp_path / "results.json"), *flags]
    with pytest.raises(InputError, match=message) as error:
        online_adaptation.main(given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results.json").exists()


def test_models_of_other_classes_and_without_a_memory_are_refused(make_model, tmp_path):
    for name, fields, message in (
        ("other", {"num_labels": 10}, r"was trained on other classes than those of 'digits'"),
        ("none", {"num_memory_slots": 0}, r"has no memory \(`num_memory_slots` is 0\)"),
    ):
        make_model(image_size=8, **fields).save_pretrained(tmp_path / name)
        flags = [*TINY, *DATA, "--results", str(tmp_path / "results.json"), "--checkpoints", str(tmp_path / name)]
        with pytest.raises(InputError, match=message):
            online_adaptation.main(flags)


def test_streams_do_not_depend_on_the_global_seed(make_model, make_images):
    from examples.comparison.adaptation import Images, run_stream

    images = Images(make_images(6), torch.zeros(6, dtype=torch.long))
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = make_model(memory_dropout_prob=0.5, hidden_dropout_prob=0.5).eval()
        results.append(run_stream(model, images, "noise", "written", 3, 4, limit=1.0, seed=2))
    assert results[0] == results[1]
