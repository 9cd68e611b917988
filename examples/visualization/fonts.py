"""Names in any script, as far as the fonts of the machine go."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


# After matplotlib's own font, which has Latin, Greek, Cyrillic and Arabic letters.
FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "IPAGothic", "Hiragino Sans", "PingFang SC"),
    *("Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Noto Sans Devanagari", "Nirmala UI", "Arial Unicode MS"),
)


@contextmanager
def use_all_fonts() -> Iterator[None]:
    """Draw with the fonts that are installed; that none of them has a character is said in one line."""
    from matplotlib import font_manager, rc_context, rcParams

    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = [*rcParams["font.family"], *(name for name in FALLBACKS if name in installed)]
    with rc_context({"font.family": families}), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing from font")
        yield
    others = [warning for warning in caught if "missing from font" not in str(warning.message)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(others) < len(caught):
        print("No installed font has some characters of the names, which are boxes in the picture.")
