"""How fast models are: full-size, on one device, with statistics that hold.

`run` plans, measures, extrapolates; `child` is the process that holds one model; `statistics` says
what the samples mean; `vs` compares two in turn; `report`
renders `benchmark_reports/`. Used by `python -m tools`.
"""
