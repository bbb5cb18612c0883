"""How fast models are: full-size, on one device, with statistics that hold.

`run` plans, measures, extrapolates; `child` is the process that holds one model; `statistics` says
what the samples mean, `memory` predicts what a model needs, `vs` compares two of them in turn,
`report` renders `benchmark_reports/`. Used by `python -m tools`.
"""
