"""The page without a browser: its tabs, what its functions give two visitors at once, and what they refuse."""

import pytest
from PIL import Image

from examples.data.arguments import DataArguments
from examples.demonstration.opening import open_checkpoint
from examples.errors import InputError
from tests.examples.demonstration.conftest import DIGITS, save_checkpoint


gradio = pytest.importorskip("gradio", reason="the page needs the extra `demo`")
gradio_client = pytest.importorskip("gradio_client")

from examples.demonstration.page import LAUNCH, build_page, choose_rows, enlarge, open_upload, tell  # noqa: E402


def list_tabs(page):
    return [block.label for block in page.blocks.values() if isinstance(block, gradio.Tab)]


def test_tabs_are_those_that_a_checkpoint_has_something_for(opened, opened_questions, tmp_path):
    assert list_tabs(build_page(opened)) == ["An image", "A memory that adapts"]
    assert list_tabs(build_page(opened_questions)) == ["Questions about a scene"]
    plain = open_checkpoint(save_checkpoint(tmp_path, **DIGITS), DataArguments(), 1)
    page = build_page(plain)
    assert list_tabs(page) == ["An image"]
    # There is nothing to choose, and nothing to see before an upload.
    (gallery,) = (block for block in page.blocks.values() if isinstance(block, gradio.Gallery))
    assert not gallery.visible
    assert not page.analytics_enabled and LAUNCH["share"] is False and LAUNCH["ssr_mode"] is False


def test_every_visitor_has_a_memory_of_their_own(serve, opened):
    one, other = (gradio_client.Client(serve(opened), verbose=False) for _ in range(2))
    noise = ("noise", 0.5, "written")
    first = one.predict(*noise, api_name="/send")
    second = one.predict(*noise, api_name="/send")
    assert "(10 batches of 32)" in first[-1] and "(20 batches of 32)" in second[-1]
    assert other.predict(*noise, api_name="/send") == first
    one.predict(api_name="/reset")
    assert other.predict(*noise, api_name="/send") == second
    assert one.predict(*noise, api_name="/send") == first


def test_upload_is_read_as_a_file_is(opened, tmp_path):
    file = tmp_path / "grey.png"
    Image.new("L", (9, 30), 70).save(file)
    pixel_values = opened.read({"path": str(file), "bytes": None}, "grey")
    assert (open_upload(opened, file.read_bytes()).picture == opened.restore(pixel_values)).all()


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_broken_uploads_are_refused(opened, content):
    with pytest.raises(InputError, match=r"^This file cannot be read as an image: [^<>]+\. Choose another\.$"):
        open_upload(opened, content)


def test_mistake_is_told_and_nothing_else_changes(monkeypatch):
    told = []
    monkeypatch.setattr(gradio, "Warning", lambda message, title: told.append(message))

    def refuse(name):
        raise InputError(f"There is no {name}.")

    assert tell(refuse)("<b>\u202e") == gradio.skip()
    # It is shown as HTML.
    assert told == [r"There is no &lt;b&gt;\u202e."]
    assert tell(lambda number: number + 1)(1) == 2


def test_choices_are_of_every_class_in_turn(opened):
    assert choose_rows([2, 2, 0, 1, 0, 2]) == [2, 3, 0, 4, 1, 5]
    assert len(choose_rows(opened.images.labels.tolist())) == 12
    assert enlarge(opened.restore(opened.images.pixels[0])).shape == (112, 112, 3)
