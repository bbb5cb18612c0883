"""How strong the checks are: faults are put into models of transformers, the scripts must see them.

`operators` is the catalogue of faults, `mutants` finds where they fit and chooses some, `child`
runs the checks of a script on one of them, `study` runs many and judges, `report` writes
docs/oracles.md.
"""
