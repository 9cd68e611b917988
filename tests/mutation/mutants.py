"""The table of mutants, one TOML file for each folder of code, and what makes an entry stale."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path


FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]


@dataclass(frozen=True)
class Mutant:
    """
    One fault.

    Args:
        file: File that gets it, relative to the repository.
        what: What is wrong then, in a line.
        old: Text that stands in the file exactly once.
        new: What stands there in its place.
        tests: Tests that should notice, as pytest takes them: files, or `file::function`.
        equivalent: Why no test can notice, for a fault that changes no behaviour.
    """

    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""

    @property
    def folder(self) -> str:
        return self.file.split("/")[0]

    def find_staleness(self) -> str:
        """Why the mutant no longer fits the code and the tests, or nothing."""
        path = REPOSITORY / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        number = path.read_text(encoding="utf-8").count(self.old)
        if number != 1 or self.old == self.new:
            return f"its text stands {number} times in {self.file}"
        if bool(self.tests) == bool(self.equivalent):
            return "it needs tests that notice it, or the reason why none can"
        for test in self.tests:
            file, *names = test.split("::")
            if not (REPOSITORY / file).is_file():
                return f"there is no {file}"
            source = (REPOSITORY / file).read_text(encoding="utf-8")
            for name in names:
                if not re.search(rf"^def {re.escape(name)}\(", source, re.MULTILINE):
                    return f"there is no test {name} in {file}"
        return ""


def read_mutants() -> list[Mutant]:
    """All mutants, folder by folder."""
    mutants = []
    for path in sorted(FOLDER.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]:
            mutants.append(Mutant(**{**entry, "tests": tuple(entry.get("tests", ()))}))
    return mutants
