"""A model timed as one would without any of this: transformers, random inputs and `timeit`.

`python plain.py REQUEST` (JSON) answers as `child.py` does, and shares no code with it or with the
scripts: `--vs loop=timeit` shows whether both find the same time. A request says which model_class
of transformers is called with inputs of which shapes (name -> sizes).
"""

from __future__ import annotations

import json
import sys
import timeit

import torch
import transformers

request = json.loads(sys.argv[1])
model_class = getattr(transformers, request["model_class"])
model = model_class(model_class.config_class()).eval()
inputs = {
    name: torch.rand(shape) if name.endswith("values") else torch.ones(shape, dtype=torch.long)
    for name, shape in request["inputs"].items()
}
print("{}", flush=True)
with torch.no_grad():
    for line in sys.stdin:
        command = json.loads(line)
        timer, count = timeit.Timer(lambda: model(**inputs)), command.get("calls", 10)
        print(json.dumps(timer.repeat(repeat=count, number=1)), flush=True)
