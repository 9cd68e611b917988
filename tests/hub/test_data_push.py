"""A generated benchmark on the Hub: pushed by the command, loaded as any other data set."""

import json

import pytest

from examples.data.sort_of_clevr import SortOfClevr
from examples.data.triangle import Triangle


PUSH = """
import sys
from examples.data.__main__ import main
main(sys.argv[1:])
"""
LOAD = """
import json, sys
import datasets
splits = datasets.load_dataset(sys.argv[1])
row = splits["test"].cast_column("image", datasets.Image(decode=False))[3]
stream = datasets.load_dataset(sys.argv[1], streaming=True)["train"]
row["image"] = row["image"]["bytes"].hex()
print(json.dumps({
    "sizes": {name: len(split) for name, split in splits.items()},
    "row": row,
    "streamed": sum(1 for _ in stream),
    "features": str(splits["train"].features),
}))
"""


@pytest.mark.parametrize("builder", [SortOfClevr, Triangle])
def test_generated_set_is_pushed_and_loaded(hub, run_python, builder):
    name, repository = {
        SortOfClevr: ("sort_of_clevr", "user/sort-of-clevr"),
        Triangle: ("triangle", "user/triangle"),
    }[builder]
    variant = builder.variants[1]
    flags = [name, "--dataset_config_name", variant, "--generator_train_size", "6", "--generator_test_size", "4"]
    pushed = run_python(PUSH, *flags, "--upload_to", repository, hub=hub, has_package=True)
    assert pushed.returncode == 0, pushed.stderr
    assert f"Pushed to {repository}." in pushed.stdout
    assert len([path for path in hub.files(repository) if path.endswith(".parquet")]) == 2
    loaded = run_python(LOAD, repository, hub=hub)
    assert loaded.returncode == 0, loaded.stderr
    result = json.loads(loaded.stdout.splitlines()[-1])
    assert result["sizes"] == {"train": 6, "test": 4}
    assert result["streamed"] == 6
    assert result["features"] == str(builder.features)
    expected = builder.generate(variant, 0, 1, 3)
    assert bytes.fromhex(result["row"].pop("image")) == expected.pop("image")["bytes"]
    for column, value in expected.items():
        wanted = (
            [list(map(int, part)) if hasattr(part, "__len__") else int(part) for part in value]
            if hasattr(value, "__len__")
            else value
        )
        assert result["row"][column] == wanted, column
