"""AiT as a graph, tensors in and tensors out: traced, saved by `torch.export` or as ONNX, and opened again."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from modeling_ait import AiTConfig, AiTPreTrainedModel


Inputs = dict[str, torch.Tensor]
Runner = Callable[[Inputs], list[torch.Tensor]]
MEMORY_NAME = re.compile(r"(^|\.)memory\.layer_\d+$")


@dataclass(frozen=True)
class GraphSetting:
    """
    What a graph leaves open.

    Args:
        update_memory: Whether it writes: it takes the memories and returns the new ones. All sizes are fixed then,
            because what is written depends on the whole batch.
        dynamic_image_size: Whether it takes images of any multiple of the patch size.
        batch_size: Images that it is traced with; the number stays open unless it writes.
        num_questions: Questions for each image that it is traced with; open as well.
    """

    update_memory: bool = False
    dynamic_image_size: bool = False
    batch_size: int = 2
    num_questions: int = 3


class GraphModel(nn.Module):
    """
    An AiT without outputs that are no tensors, and without state.

    It takes `pixel_values` (B, C, H, W), `question` (B, Q, question_size) if the model has one, and `memories`
    (L, M, D) if it writes. It returns logits (B[, Q], num_labels), or the pooled tokens of a model without a
    classifier, and the new memories if it writes.
    """

    def __init__(self, model: AiTPreTrainedModel, interpolate_pos_encoding: bool):
        super().__init__()
        self.model = model
        self.interpolate_pos_encoding = interpolate_pos_encoding
        self.memory_names = [name for name, _ in model.named_buffers() if MEMORY_NAME.search(name)]

    def forward(
        self,
        pixel_values: torch.Tensor,
        question: torch.Tensor | None = None,
        memories: torch.Tensor | None = None,
    ) -> Any:
        arguments: dict[str, Any] = {
            "update_memory": memories is not None,
            "interpolate_pos_encoding": self.interpolate_pos_encoding,
        }
        if question is not None:
            arguments["question"] = question
            if self.model.config.question_attention == "joint":
                # What the model does inside, in a form that ONNX can repeat for any number of questions.
                copies = pixel_values.unsqueeze(1).expand(-1, question.shape[1], -1, -1, -1)
                pixel_values, arguments["question"] = copies.flatten(0, 1), question.flatten(0, 1)
        # The model commits to copies, so that the graph changes none of its inputs.
        copied = [] if memories is None else [memory.clone() for memory in memories.unbind()]
        buffers = dict(zip(self.memory_names, copied))
        outputs = functional_call(self.model, buffers, (pixel_values,), arguments)
        result = outputs.logits if "logits" in outputs else outputs.pooler_output
        if question is not None:
            result = result.reshape(*question.shape[:2], result.shape[-1])
        return result if memories is None else (result, torch.stack(list(buffers.values())))


def name_output(model: AiTPreTrainedModel) -> str:
    """The name of what a model computes."""
    return "logits" if hasattr(model, "classifier") else "pooler_output"


def stack_memories(model: AiTPreTrainedModel) -> torch.Tensor:
    """A copy of the memories of all layers, (num_layers, num_memory_slots, memory_slot_size)."""
    return torch.stack([buffer for name, buffer in model.named_buffers() if MEMORY_NAME.search(name)]).clone()


def make_inputs(
    config: AiTConfig, batch_size: int, image_shape: tuple[int, int], num_questions: int = 3, seed: int = 0
) -> Inputs:
    """Random images and, if the model takes them, questions; always the same ones."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {"pixel_values": torch.randn(batch_size, config.num_channels, *image_shape, generator=generator)}
    if config.question_size is not None:
        inputs["question"] = torch.rand(batch_size, num_questions, config.question_size, generator=generator)
    return inputs


def name_open_sizes(config: AiTConfig, setting: GraphSetting) -> dict[str, dict[int, str]]:
    """The sizes that a graph leaves open, by input and dimension."""
    names: dict[str, dict[int, str]] = {"pixel_values": {}}
    if not setting.update_memory:
        names["pixel_values"] = {0: "batch_size"}
        if setting.dynamic_image_size:
            names["pixel_values"] |= {2: "height", 3: "width"}
    if config.question_size is not None:
        names["question"] = {} if setting.update_memory else {0: "batch_size", 1: "num_questions"}
    if setting.update_memory:
        names["memories"] = {}
    return names


def trace_model(model: AiTPreTrainedModel, setting: GraphSetting) -> torch.export.ExportedProgram:
    """Trace an AiT in evaluation mode, with the sizes left open that the setting names."""
    config: Any = model.config
    inputs = make_inputs(config, setting.batch_size, config.image_shape, setting.num_questions)
    if setting.update_memory:
        inputs["memories"] = stack_memories(model)
    patch_height, patch_width = config.patch_shape
    open_sizes = {
        "batch_size": torch.export.Dim("batch_size"),
        "num_questions": torch.export.Dim("num_questions"),
        # Only whole patches can be embedded.
        "height": patch_height * torch.export.Dim("rows"),
        "width": patch_width * torch.export.Dim("columns"),
    }
    dynamic_shapes = {
        name: {dimension: open_sizes[size] for dimension, size in sizes.items()}
        for name, sizes in name_open_sizes(config, setting).items()
    }
    graph_model = GraphModel(model, setting.dynamic_image_size).eval()
    with torch.no_grad():
        program = torch.export.export(graph_model, (), inputs, dynamic_shapes=dynamic_shapes)
    for node in program.graph.nodes:
        # Paths of this machine.
        node.meta.pop("stack_trace", None)
    return program


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep to themselves what the exporter and its libraries say of parts that AiT does not have."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def save_onnx(
    program: torch.export.ExportedProgram, model: AiTPreTrainedModel, setting: GraphSetting, path: Path
) -> None:
    """Save a traced model as ONNX, with names for its inputs, outputs and open sizes."""
    config: Any = model.config
    open_sizes = name_open_sizes(config, setting)
    with quiet_exporter():
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=list(open_sizes),
            output_names=[name_output(model), "new_memories"][: 1 + setting.update_memory],
            dynamic_shapes=open_sizes,
        )
    assert onnx_program is not None
    for node in onnx_program.model.graph.all_nodes():
        node.metadata_props.clear()
    onnx_program.save(str(path))


def open_onnx(path: Path) -> Runner:
    """Open an ONNX file in onnxruntime, on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Warnings are about the graph's spare parts.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: [
        torch.from_numpy(output)
        for output in session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    ]


def open_program(path: Path) -> Runner:
    """Open a `.pt2` file of `torch.export`."""
    module = torch.export.load(path).module()

    def run(inputs: Inputs) -> list[torch.Tensor]:
        with torch.no_grad():
            outputs = module(**inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]

    return run


def run_model(model: AiTPreTrainedModel, inputs: Inputs, interpolate_pos_encoding: bool = False) -> list[torch.Tensor]:
    """
    What the model itself computes from the inputs of its graph, as a list of the graph's outputs.

    With `memories` among them the model writes; afterwards its own memories are as they were.
    """
    inputs = dict(inputs)
    memories = inputs.pop("memories", None)
    buffers = [buffer for name, buffer in model.named_buffers() if MEMORY_NAME.search(name)]
    before = [buffer.clone() for buffer in buffers]
    with torch.no_grad():
        if memories is not None:
            for buffer, memory in zip(buffers, memories):
                buffer.copy_(memory)
        outputs = model(
            **inputs, update_memory=memories is not None, interpolate_pos_encoding=interpolate_pos_encoding
        )
        results = [outputs[name_output(model)]]
        if memories is not None:
            results.append(stack_memories(model))
            for buffer, memory in zip(buffers, before):
                buffer.copy_(memory)
    return results
