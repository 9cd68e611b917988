"""Flags of the conversions: a mistake is one line, and the help shows each default once."""

import pytest

from conversion import convert_official, convert_vit
from examples.errors import InputError


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (
            convert_official.main,
            ["--chekpoint", "a.pth"],
            "There is no flag '--chekpoint'. Did you mean '--checkpoint'?",
        ),
        (convert_official.main, ["--output_dir", "out"], "`--checkpoint` is missing."),
        (convert_official.main, ["--hopfield_beta", "low"], "`--hopfield_beta` takes a number, but got 'low'."),
        (convert_vit.main, ["--modle", "vit"], "There is no flag '--modle'. Did you mean '--model'?"),
        (convert_vit.main, ["--model", "vit"], "`--output_dir` is missing."),
    ],
)
def test_mistake_in_the_flags_is_one_line(main, arguments, message):
    with pytest.raises(InputError) as refusal:
        main(arguments)
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("module", [convert_official, convert_vit])
def test_help_shows_each_default_once(module, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.count("--bottleneck_size INT") == 1 and text.count("(default: 512)") == 1
