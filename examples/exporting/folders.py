"""The folder of an exported model: image processor, labels, figures, and how to run it without this package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import ViTImageProcessorPil

from examples.exporting.graphs import name_output, stack_memories
from examples.exporting.quantization import describe_storage
from examples.sharing import escape_markdown
from examples.training.results import write_json, write_text
from modeling_ait import AiTForRelationalReasoning, AiTModel, AiTPreTrainedModel


EXPORT_FILE = "export.json"
LABELS_FILE = "labels.json"
MEMORIES_FILE = "memories.npy"
GRAPH_FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
PACKAGES = {
    "onnx": "`onnxruntime`, `numpy` and, for the image processor, `transformers` and `pillow`",
    "torch_export": "`torch`, `numpy` and, for the image processor, `transformers` and `pillow`",
    "int8": "`torch`, `torchao`, `transformers` and `pillow`",
    "int4": "`torch`, `torchao`, `transformers` and `pillow`",
}
OPEN = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
outputs = session.run(None, inputs)""",
    "torch_export": """import torch

model = torch.export.load("model.pt2").module()
with torch.no_grad():
    outputs = model(**{name: torch.from_numpy(values) for name, values in inputs.items()})""",
}


def make_graph_snippet(format_name: str, model: AiTPreTrainedModel, update_memory: bool, batch_size: int) -> str:
    """Python that runs an exported graph on an image file."""
    number = f" * {batch_size}" if update_memory else ""
    mode, option = ("L", ", do_convert_rgb=False") if model.config.num_channels == 1 else ("RGB", "")
    lines = [
        "import json",
        "import numpy as np",
        "from PIL import Image",
        "from transformers import AutoImageProcessor",
        "",
        'processor = AutoImageProcessor.from_pretrained(".")',
        f'images = [Image.open("image.png").convert("{mode}")]{number}',
        f'batch = processor(images, return_tensors="np"{option})',
        'inputs = {"pixel_values": batch["pixel_values"].astype(np.float32)}',
    ]
    if model.config.question_size is not None:
        shape = "(len(images), num_questions, question_size)"
        lines.append(f'inputs["question"] = np.load("questions.npy")  # {shape}, float32')
    if update_memory:
        lines.append(f'inputs["memories"] = np.load("{MEMORIES_FILE}")')
    lines += ["", *OPEN[format_name].splitlines(), ""]
    is_single = format_name == "torch_export" and not update_memory
    lines.append(f"{name_output(model)} = outputs" if is_single else f"{name_output(model)} = outputs[0]")
    if update_memory:
        lines.append("new_memories = outputs[1]  # pass them in as `memories` with the next batch")
    if not isinstance(model, AiTModel):
        lines.append(f'labels = json.load(open("{LABELS_FILE}"))')
        index = "logits[0, 0]" if model.config.question_size is not None else "logits[0]"
        lines.append(f"print(labels[str(int({index}.argmax()))])")
    return "\n".join(lines)


def make_quantized_snippet(model: AiTPreTrainedModel) -> str:
    """Python that opens a quantized checkpoint."""
    if isinstance(model, AiTModel):
        auto_class = "AutoModel"
    elif isinstance(model, AiTForRelationalReasoning):
        auto_class = "AutoModelForVisualQuestionAnswering"
    else:
        auto_class = "AutoModelForImageClassification"
    return f"""from transformers import AutoImageProcessor, {auto_class}

processor = AutoImageProcessor.from_pretrained(".")
model = {auto_class}.from_pretrained(".", trust_remote_code=True)"""


def describe_inputs(format_name: str, model: AiTPreTrainedModel, figures: dict[str, Any]) -> str:
    """What goes in and comes out, for the README of the folder."""
    config: Any = model.config
    height, width = config.image_shape
    if format_name not in GRAPH_FILES:
        storage = describe_storage(format_name, figures["bits_per_quantized_weight"])
        return (
            f"{storage[0].upper()}{storage[1:]}. Inputs and outputs are those of the model that it was made from. The "
            "memories are float32 and are written in training, or with `update_memory=True`."
        )
    size = f"{height} x {width} pixels"
    if figures["dynamic_image_size"]:
        size = f"any multiple of {config.patch_shape[0]} x {config.patch_shape[1]} pixels (trained on {size})"
    number = "any number of images" if not figures["update_memory"] else f"exactly {figures['batch_size']} images"
    lines = [f"- `pixel_values`, float32, (batch_size, {config.num_channels}, height, width): {number} of {size}."]
    if config.question_size is not None:
        number = "as many" if not figures["update_memory"] else f"exactly {figures['num_questions']}"
        lines.append(
            f"- `question`, float32, (batch_size, num_questions, {config.question_size}): {number} for each image."
        )
    if figures["update_memory"]:
        lines.append(
            "- `memories`, float32, (num_layers, num_memory_slots, memory_slot_size): those of before. The outputs "
            f"are `{name_output(model)}` and `new_memories`; `{MEMORIES_FILE}` has the first ones. All images of a "
            "batch compete for the memories, so that an output depends on the other images."
        )
    else:
        lines.append(f"- The output is `{name_output(model)}`. The memories are part of the graph, and only read.")
    return "\n".join(lines)


def write_folder(
    folder: Path,
    format_name: str,
    checkpoint: str,
    model: AiTPreTrainedModel,
    processor: ViTImageProcessorPil,
    figures: dict[str, Any],
) -> None:
    """Write what stands beside the model: image processor, labels, figures and README."""
    processor.save_pretrained(folder)
    if not isinstance(model, AiTModel):
        names = {str(index): name for index, name in (model.config.id2label or {}).items()}
        write_text(folder / LABELS_FILE, json.dumps(names, indent=2, ensure_ascii=False) + "\n")
    if figures["update_memory"]:
        np.save(folder / MEMORIES_FILE, stack_memories(model).numpy(), allow_pickle=False)
    write_json(folder / EXPORT_FILE, figures)
    snippet = (
        make_graph_snippet(format_name, model, figures["update_memory"], figures["batch_size"])
        if format_name in GRAPH_FILES
        else make_quantized_snippet(model)
    )
    labels = "" if isinstance(model, AiTModel) else f"`{LABELS_FILE}` names the classes. "
    rows = [
        f"| {row['batch_size']} | {row['difference']:.1e} | {row['torch_ms']:.2f} | {row['exported_ms']:.2f} |"
        for row in figures["rows"]
    ]
    text = f"""# {escape_markdown(Path(checkpoint).name)}, exported as {format_name}

Made from an Associative Transformer ({type(model).__name__}). It needs {PACKAGES[format_name]}, not the package
modeling\\_ait. Run in this folder:

```python
{snippet}
```

{describe_inputs(format_name, model, figures)}

{labels}`preprocessor_config.json` says how images become `pixel_values`, and `{EXPORT_FILE}` has the versions and
these figures, of random images: the largest difference from the model in float32, and milliseconds for a batch (median
of {figures["num_rounds"]}, CPU threads: {figures["num_threads"]}).

| batch size | difference | torch | exported |
|---|---|---|---|
"""
    write_text(folder / "README.md", text + "\n".join(rows) + "\n")
