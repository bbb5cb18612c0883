"""Running the scripts on devices, keeping what they find, and publishing it.

`matrix` runs `fixed_tests/` and writes `results/` (JSON, the truth); `database` makes
`hardware_compatibility_matrix.duckdb` from it, which can be thrown away; `publish` renders reports
from that. `python -m tools --help` lists the commands.
"""
