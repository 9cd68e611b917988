"""Mutants: small faults put into a copy of the code one at a time, each of which some test has to notice."""
