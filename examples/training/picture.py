"""The figure of a finished run's memories, in its folder and on its model card."""

from contextlib import suppress
from pathlib import Path

from transformers import PreTrainedModel, TrainingArguments, ViTImageProcessorPil

from examples.data.loading import ImageData
from examples.errors import InputError, flatten_message, read_json
from examples.training.checkpoints import get_step, list_checkpoints
from examples.training.publishing import FIGURE, write_model_card
from examples.training.results import RESULTS_FILE
from examples.visualization.figure import Pictured, Portrait, draw_portrait, measure_portrait
from examples.visualization.inputs import make_restore, open_classes, open_questions
from examples.visualization.measure import get_encoder
from examples.visualization.slots import read_memories
from modeling_ait.card_ait import CARD_FILE, is_users_card
from modeling_ait.saving_ait import stage_files


# Few, so that the figure of a large model takes seconds too.
NUM_DRAWN, NUM_SAMPLES = 4, 64


def measure_run(
    model: PreTrainedModel, processor: ViTImageProcessorPil, data: ImageData, training: TrainingArguments
) -> Portrait:
    """What the figure shows of a run: the first images of the evaluation split, and the checkpoints that are left."""
    output_dir = Path(str(training.output_dir))
    history = {}
    for folder in list_checkpoints(output_dir)[::-1]:
        with suppress(InputError):
            history[str(get_step(folder))] = read_memories(folder)
    if model.config.question_size is None:
        inputs = open_classes(data, processor, range(len(data.label_names)), NUM_SAMPLES, 0, NUM_SAMPLES)
    else:
        inputs = open_questions(data, processor, NUM_SAMPLES, 0, NUM_SAMPLES)
    num_images = len(inputs.batches[0]["pixel_values"])
    return measure_portrait(
        model,
        Pictured(
            name=training.hub_model_id or output_dir.resolve().name,
            batches=inputs.batches,
            num_images=NUM_DRAWN,
            restore=make_restore(processor.image_mean, processor.image_std),
            label_names=dict(enumerate(data.label_names)),
            texts=inputs.texts,
            answers=[data.label_names[label] for label in inputs.labels],
            memories=history,
            note=f"Memories at the end of the training, read only; {num_images} images of the evaluation split. "
            "Layers and slots count from 0.",
        ),
    )


def draw_run(
    model: PreTrainedModel, processor: ViTImageProcessorPil, data: ImageData, training: TrainingArguments
) -> None:
    """
    Draw the memories of a run that is saved already, and let its model card show them.

    Whatever goes wrong is said in a line, since the run is finished without the figure as well. Without a memory, and
    of a model that is spread over processes, nothing is drawn.

    Args:
        model: The model, without wrappers.
        processor: Its image processor.
        data: What it was trained on.
        training: Arguments of the training.
    """
    output_dir = Path(str(training.output_dir))
    if training.process_index != 0 or training.fsdp or training.deepspeed:
        return
    try:
        get_encoder(model)
    except InputError:
        return
    try:
        portrait = measure_run(model, processor, data, training)
        with stage_files(output_dir) as staging:
            draw_portrait(portrait, Path(staging, FIGURE))
            if not is_users_card((output_dir / CARD_FILE).read_text(encoding="utf-8", errors="replace")):
                results = read_json(output_dir / RESULTS_FILE)
                write_model_card(model, data, results, training, Path(staging), has_figure=True)
    except Exception as error:
        print(f"The memories could not be drawn ({type(error).__name__}: {flatten_message(error)}). The run is whole.")
        return
    print(f"What its memories do: {output_dir / FIGURE}")
