"""How fast models are: full-size, on one device, with statistics that hold.

`run` plans and measures, `child` is the process that holds one model, `statistics` says what the
samples mean, `memory` predicts what a model needs, `depth` extrapolates models that do not fit, `vs`
compares two of them interleaved, `report` renders `benchmark_reports/`. Used by `python -m tools`.
"""
