"""Tests of the conformance runner itself; the common tests run only through it."""

import io
import tarfile

import pytest

from tests.conformance import __main__ as runner
from tests.conformance import archive
from tests.conformance.skips import explain_skip


@pytest.fixture
def source_archive(tmp_path):
    """A source archive that holds the common tests, a file beside them, and the library."""
    path = tmp_path / "transformers-1.2.3.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in (*(f"tests/{name}" for name in archive.NEEDED_FILES), "tests/other.py", "src/transformers/a.py"):
            content = f"# {name}\n".encode()
            member = tarfile.TarInfo(f"transformers-1.2.3/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_fetch_unpacks_the_tests_once(source_archive, tmp_path, monkeypatch):
    downloads = []
    monkeypatch.setattr(archive, "download_archive", lambda *args: downloads.append(args) or source_archive)
    cache = tmp_path / "cache"
    for _ in range(2):
        folder = archive.fetch_common_tests("1.2.3", cache)
    assert len(downloads) == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted((*archive.NEEDED_FILES, "other.py"))
    assert (folder / "other.py").read_text() == "# tests/other.py\n"
    assert [path.name for path in cache.iterdir()] == ["transformers-1.2.3"]
    assert [path.name for path in folder.parent.iterdir()] == ["tests"]


def test_fetch_leaves_nothing_of_a_broken_archive(source_archive, tmp_path, monkeypatch):
    source_archive.write_bytes(source_archive.read_bytes()[:-40])
    monkeypatch.setattr(archive, "download_archive", lambda *args: source_archive)
    with pytest.raises(archive.ArchiveError, match=r"transformers-1\.2\.3\.tar\.gz"):
        archive.fetch_common_tests("1.2.3", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_fetch_refuses_an_archive_without_the_common_tests(source_archive, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "download_archive", lambda *args: source_archive)
    monkeypatch.setattr(archive, "NEEDED_FILES", ("test_absent.py",))
    with pytest.raises(archive.ArchiveError, match=r"tests/test_absent\.py"):
        archive.fetch_common_tests("1.2.3", tmp_path / "cache")


def test_download_tells_an_unreachable_index(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(archive.IndexUnreachableError, match=r"transformers 1\.2\.3"):
        archive.download_archive("1.2.3", tmp_path)


@pytest.mark.parametrize(
    ("error_class", "exit_code"), [(archive.IndexUnreachableError, 75), (archive.ArchiveError, 1)]
)
def test_runner_exit_code_tells_an_unreachable_index_from_a_failure(error_class, exit_code, monkeypatch, capsys):
    def fail(version, cache_folder):
        raise error_class("no archive")

    monkeypatch.setattr(runner, "fetch_common_tests", fail)
    assert runner.main([]) == exit_code
    message = capsys.readouterr().err
    assert "no archive" in message
    assert ("cannot be reached" in message) == (exit_code == 75)


def test_skip_needs_an_explanation_for_its_test_and_its_reason():
    assert explain_skip("test_sliding_window_mask", "Model does not support sliding window mask")
    assert explain_skip("test_save_load", "Model does not support sliding window mask") is None
    assert explain_skip("test_sliding_window_mask", "anything else") is None
    assert explain_skip("test_pipeline_image_classification", "test requires Timm") is None
