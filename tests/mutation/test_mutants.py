"""The table of mutants fits the code: run by `make test`, which does not try the mutants themselves."""

from collections import Counter

from tests.mutation.mutants import read_mutants


def test_no_mutant_is_stale():
    stale = {f"{mutant.file}: {mutant.what}": mutant.find_staleness() for mutant in read_mutants()}
    assert {name: reason for name, reason in stale.items() if reason} == {}


def test_mutants_are_many_and_each_is_there_once():
    mutants = read_mutants()
    folders = Counter(mutant.folder for mutant in mutants if not mutant.equivalent)
    assert folders.keys() == {"modeling_ait", "conversion", "examples"}
    assert sum(folders.values()) >= 100
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in mutants}) == len(mutants)
    assert len({(mutant.file, mutant.what) for mutant in mutants}) == len(mutants)
