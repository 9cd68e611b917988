"""The page itself, in Gradio: a tab for each thing to see, and what happens when something is chosen."""

import html
import random
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio
import numpy as np

from examples.comparison.adaptation import CORRUPTIONS
from examples.data.sort_of_clevr import COLOR_NAMES
from examples.demonstration import adapting, scenes
from examples.demonstration.looking import Look, draw_look, judge, look_at, rank_classes
from examples.demonstration.opening import Opened
from examples.errors import InputError
from examples.sharing import escape_markdown, show


TITLE = "The memory of an Associative Transformer"
# Images to choose from, and the least width of one in pixels.
NUM_CHOICES, SMALLEST_CHOICE = 12, 112
BATCHES_AT_ONCE = 10
# In seconds: how often uploads are removed, and how old they are then.
CLEANING = (600, 1800)
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.panels { display: flex; flex-wrap: wrap; gap: 12px; }
.panel { margin: 0; flex: 1 1 420px; background: white; border-radius: 6px; padding: 8px; box-sizing: border-box; }
.panel figcaption {
    color: #303030 !important; font-weight: 600; font-size: 14px; margin-bottom: 4px; overflow-wrap: anywhere;
}
.panel img { width: 100%; height: auto; display: block; }
.classes .output-class, .classes .text, .prose { overflow-wrap: anywhere; text-wrap: balance; }
.classes .output-class { text-align: center; }
.hint { color: var(--body-text-color-subdued); padding: 24px 8px; }
.choices img, .scene img { image-rendering: pixelated; }
.choices .grid-wrap {
    padding-top: 36px !important; overflow: visible !important; min-height: 0 !important; max-height: none !important;
}
.choices .grid-container {
    grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important; grid-auto-rows: auto !important;
}
.numbers th, .numbers td { padding: 6px 10px !important; overflow-wrap: normal !important; }
@media (max-width: 640px) { .gradio-container .app { padding: 12px !important; } }
"""
LAUNCH: dict[str, Any] = {
    "share": False,
    "quiet": True,
    "ssr_mode": False,
    "footer_links": [],
    "max_file_size": "20mb",
    # As it is: what is given as `css` is made to hold inside the page alone, without its margins.
    "head": f"<style>{CSS}</style>",
}


def tell(function: Callable) -> Callable:
    """Tell the visitor of a mistake, and leave everything else on the page as it is."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError as error:
            # Shown as HTML, in which a file's or a label's name may not take part.
            gradio.Warning(html.escape(show(error)), title="This does not work")
            return gradio.skip()

    return call


def enlarge(picture: np.ndarray) -> np.ndarray:
    """A picture as bytes, its pixels repeated until it can be seen."""
    times = -(-SMALLEST_CHOICE // picture.shape[1])
    return (255 * picture).round().astype(np.uint8).repeat(times, axis=0).repeat(times, axis=1)


def choose_rows(labels: list[int]) -> list[int]:
    """Which images are offered: the first of each class in turn, then the second, as many as there is room for."""
    seen: dict[int, int] = {}
    order = []
    for row, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        order.append((seen[label], label, row))
    return [row for *_, row in sorted(order)[:NUM_CHOICES]]


def open_upload(opened: Opened, content: bytes) -> Look:
    """
    Look at an image that a visitor sends.

    Raises:
        InputError: if it is none; the message names no place on this machine.
    """
    try:
        return look_at(opened, opened.read({"path": None, "bytes": content}, "that you chose"))
    except InputError as error:
        reason = str(error.__cause__ or error).partition(" <")[0]
        raise InputError(f"This file cannot be read as an image: {reason}. Choose another.") from error


def add_layer_slider(opened: Opened) -> gradio.Slider:
    """A slider of the layers, for a model with several."""
    last = opened.num_layers - 1
    return gradio.Slider(0, max(last, 1), value=last, step=1, label="Layer", visible=last > 0, buttons=[])


def add_image_tab(opened: Opened) -> None:
    """The tab of one image: its classes, and the memory of each layer at work on it."""
    rows = [] if opened.images is None else choose_rows(opened.images.labels.tolist())
    choices: list[tuple[Any, str | None]] = []
    if opened.images is not None:
        choices = [(opened.images.pixels[row], opened.label_names[opened.images.labels[row]]) for row in rows]
    elif opened.example is not None:
        choices = [(opened.example, None)]
    first = look_at(opened, choices[0][0], truth=choices[0][1]) if choices else None

    def present(look: Look, layer: int) -> tuple[Any, ...]:
        return look, rank_classes(opened, look), escape_markdown(judge(opened, look)), draw_look(look, layer)

    def choose(layer: int, event: gradio.SelectData) -> tuple[Any, ...]:
        pixel_values, truth = choices[int(event.index)]
        return present(look_at(opened, pixel_values, truth=truth), layer)

    def upload(content: bytes, layer: int) -> tuple[Any, ...]:
        return present(open_upload(opened, content), layer)

    def turn(look: Look | None, layer: int) -> Any:
        return "" if look is None else draw_look(look, layer)

    last = opened.num_layers - 1
    shown = (None, None, "", "") if first is None else present(first, last)
    state = gradio.State(shown[0])
    with gradio.Row():
        with gradio.Column(scale=2, min_width=300):
            gallery = gradio.Gallery(
                [(enlarge(opened.restore(pixels)), truth) for pixels, truth in choices],
                label="Choose an image",
                columns=4,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_classes="choices",
                visible=bool(choices),
            )
            button = gradio.UploadButton("Or upload one", file_types=["image"], type="binary")
            label = gradio.Label(shown[1], label="Classes by probability", elem_classes="classes")
            verdict = gradio.Markdown(shown[2])
        with gradio.Column(scale=3, min_width=300):
            slider = add_layer_slider(opened)
            pictures = gradio.HTML(shown[3])
    outputs = [state, label, verdict, pictures]
    gallery.select(tell(choose), slider, outputs, api_visibility="private")
    button.upload(tell(upload), [button, slider], outputs, api_name="upload")
    slider.change(turn, [state, slider], pictures, api_visibility="private")


def add_question_tab(opened: Opened) -> None:
    """The tab of Sort-of-CLEVR: a scene, a question, the answer, and where the question looks."""
    names = list(scenes.QUESTIONS)

    def draw_scene(number: int | None) -> np.ndarray:
        return enlarge(opened.restore(scenes.make_scene(opened, number).pixel_values))

    def present(number: int | None, question: str, a: str, b: str, layer: int) -> tuple[Any, ...]:
        scene = scenes.make_scene(opened, number)
        text, look = scenes.ask(opened, scene, question, a, b)
        said = f"**{escape_markdown(text)}** {escape_markdown(judge(opened, look))}"
        return look, rank_classes(opened, look), said, draw_look(look, layer)

    def show_colors(question: str, a: str) -> tuple[Any, Any]:
        has_two = scenes.has_two_objects(question)
        colors = scenes.PAIR_COLORS if has_two else COLOR_NAMES
        return gradio.Dropdown(list(colors), value=a if a in colors else "red"), gradio.Dropdown(visible=has_two)

    last = opened.num_layers - 1
    shown = present(0, names[3], "red", "green", last)
    state = gradio.State(shown[0])
    with gradio.Row():
        with gradio.Column(scale=2, min_width=300):
            picture = gradio.Image(
                draw_scene(0),
                label="Scene",
                interactive=False,
                buttons=[],
                height=260,
                elem_classes="scene",
                alt_text="Six coloured objects",
                format="png",
            )
            number = gradio.Number(0, label="Number of the scene", precision=0)
            another = gradio.Button("Another scene")
            question = gradio.Dropdown(names, value=names[3], label="Question")
            with gradio.Row():
                a = gradio.Dropdown(list(COLOR_NAMES), value="red", label="A", min_width=100)
                b = gradio.Dropdown(list(scenes.PAIR_COLORS), value="green", label="B", min_width=100, visible=False)
        with gradio.Column(scale=3, min_width=300):
            said = gradio.Markdown(shown[2])
            label = gradio.Label(shown[1], label="Answers by probability", elem_classes="classes")
            slider = add_layer_slider(opened)
            pictures = gradio.HTML(shown[3])
    inputs, outputs = [number, question, a, b, slider], [state, label, said, pictures]
    another.click(lambda: random.randrange(scenes.NUM_SCENES), None, number, api_visibility="private")
    number.change(tell(draw_scene), number, picture, api_visibility="private")
    gradio.on([part.change for part in (number, a, b)], tell(present), inputs, outputs, api_name="ask")
    # The colours first, since some questions are not asked about all.
    chosen = question.change(show_colors, [question, a], [a, b], api_visibility="private")
    chosen.then(tell(present), inputs, outputs, api_visibility="private")
    slider.change(draw_look, [state, slider], pictures, api_visibility="private")


def add_memory_tab(opened: Opened) -> None:
    """The tab of a memory that adapts to a stream of shifted images."""
    adapter = adapting.Adapter(opened)

    def present(stream: adapting.Stream) -> tuple[Any, ...]:
        return stream, adapting.draw_curve(stream), adapting.draw_last_images(stream), adapter.describe(stream)

    def send(stream: adapting.Stream, corruption: str, severity: float, way: str) -> tuple[Any, ...]:
        return present(adapter.send(stream, corruption, severity, way, BATCHES_AT_ONCE))

    shown = present(adapter.start())
    state = gradio.State(shown[0])
    gradio.Markdown(
        "Send held-out images, shifted, and write each batch into a memory of your own. The memory that training left "
        "is asked about the same images. Nobody else sees your memory; it is gone when you leave."
    )
    with gradio.Row():
        with gradio.Column(scale=2, min_width=300):
            corruption = gradio.Radio(list(CORRUPTIONS), value=next(iter(CORRUPTIONS)), label="Shift")
            severity = gradio.Slider(0, 1, value=0.6, step=0.05, label="Severity", buttons=[])
            way = gradio.Dropdown(adapting.WRITTEN, value=adapting.WRITTEN[0], label="What is done with each batch")
            sent = gradio.Button(f"Send {BATCHES_AT_ONCE} batches", variant="primary")
            reset = gradio.Button("Reset the memory")
        with gradio.Column(scale=3, min_width=300):
            curve = gradio.HTML(shown[1])
            images = gradio.HTML(shown[2])
            table = gradio.Markdown(shown[3], elem_classes="numbers")
    outputs = [state, curve, images, table]
    sent.click(tell(send), [state, corruption, severity, way], outputs, api_name="send")
    reset.click(lambda: present(adapter.start()), None, outputs, api_name="reset")


def build_page(opened: Opened) -> gradio.Blocks:
    """
    Make the page of a checkpoint, with the tabs that it has something for.

    Returns:
        The page, to be launched with `LAUNCH`.
    """
    page = gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CLEANING)
    with page:
        gradio.Markdown(f"# {TITLE}\n\n{escape_markdown(opened.name)}. Layers and slots count from 0.")
        if opened.has_questions:
            with gradio.Tab("Questions about a scene"):
                add_question_tab(opened)
        else:
            with gradio.Tab("An image"):
                add_image_tab(opened)
            if opened.images is not None:
                with gradio.Tab("A memory that adapts"):
                    add_memory_tab(opened)
    return page
