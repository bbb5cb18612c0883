"""Do others compute the same? Models of transformers beside independent implementations of them.

A peer is such an implementation: with the same random weights and inputs it has to give the same
values in fp64. `litgpt`, `curated`, `audio` and `vision` hold the peers, `__main__` runs them.
"""
