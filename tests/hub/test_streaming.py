"""A data set of the Hub as a stream: its shards are read from there, and the split to evaluate on is loaded."""

import json


PUSH = """
import sys
from pathlib import Path
import datasets
from huggingface_hub import HfApi
from tests.examples.shards import FEATURES, encode, write_shards

def make_split(indices):
    rows = {"image": [{"bytes": encode(index), "path": None} for index in indices], "label": [i % 2 for i in indices]}
    return datasets.Dataset.from_dict(rows, features=FEATURES)

splits = datasets.DatasetDict({"train": make_split(range(12)), "test": make_split(range(12, 15))})
splits.push_to_hub(sys.argv[1], num_shards={"train": 3, "test": 1})
folder = write_shards(Path("tars"), "tar", {"train": (7, 5), "test": (3,)})
HfApi().create_repo(sys.argv[2], repo_type="dataset")
HfApi().upload_folder(repo_id=sys.argv[2], folder_path=folder, repo_type="dataset")
"""
STREAM = """
import json, os, sys
from pathlib import Path
from transformers import ViTImageProcessorPil
from examples.data.arguments import DataArguments
from examples.data.images import make_datasets
from examples.data.loading import load_image_data

processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
found = []
for name, streaming in ((sys.argv[1], True), (sys.argv[2], True), (sys.argv[1], False)):
    if not streaming:
        print("Kept:", sorted(path.name for path in Path(os.environ["HF_HOME"]).rglob("*t*-0*-of-*.parquet")))
    arguments = DataArguments(dataset_name=name, streaming=streaming)
    data = load_image_data(arguments)
    train, evaluation = make_datasets(data, arguments, processor, 0)
    samples = list(train) if streaming else [train[index] for index in range(len(train))]
    parts = [samples, [evaluation[index] for index in range(len(evaluation))]]
    rows = [sorted((float(s["pixel_values"].double().sum()), int(s["labels"])) for s in part) for part in parts]
    found.append([data.label_names, rows])
print(json.dumps(found))
"""


def test_hub_set_is_streamed(hub, run_python):
    repositories = ("user/shards", "user/tars")
    pushed = run_python(PUSH, *repositories, hub=hub, has_package=True)
    assert pushed.returncode == 0, pushed.stderr
    streamed = run_python(STREAM, *repositories, hub=hub, has_package=True)
    assert streamed.returncode == 0, streamed.stderr
    assert "Streaming the train split: 12 samples in 3 parquet files, as counted in them." in streamed.stdout
    assert "Streaming the train split: 12 samples in 2 tars, as counted in them." in streamed.stdout
    assert "Kept: ['test-00000-of-00001.parquet']" in streamed.stdout
    (stream_names, stream), (tar_names, tars), (names, in_memory) = json.loads(streamed.stdout.splitlines()[-1])
    # The class names come from the card; a tar has none.
    assert names == stream_names == ["cat", "dog"] and tar_names == ["0", "1"]
    assert in_memory == stream == tars
    assert (len(stream[0]), len(stream[1])) == (12, 3)
