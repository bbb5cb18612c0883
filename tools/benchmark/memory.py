"""What a model needs, before it is built: `python memory.py REQUEST` (JSON) answers in JSON.

The model is built on torch's meta device, which has shapes but no values; torch's memory tracker
counts what is alive at once while it runs. Needs nothing but torch and the script.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

if __package__:
    from tools.benchmark import child
else:
    import child  # type: ignore[import-not-found, no-redef]


def predict(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes of weights, of the most that is alive in a forward pass, and of building it.

    `run` is None where the model looks at values while it runs: on the meta device there are none.
    """
    script = child.load_script(Path(request["script"]))
    model_class = getattr(script, script.MODEL_CLASS)
    if request.get("depth"):
        child.cut_layers(script, request["depth"])
    config_class = getattr(script, model_class.config_class.__name__)
    config = config_class() if request["size"] == "full" else script.build_config()
    inputs = child.sized(script, config, request)
    kind = getattr(torch, request["dtype"])
    found: dict[str, Any] = {"run": None, "error": None}
    with torch.device("meta"):
        model = model_class(config).eval()
    built = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    model.to(kind)
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    placed = {
        name: value.to("meta", kind if value.is_floating_point() else None)
        for name, value in inputs.items()
        if not (name.endswith("mask") and bool(value.all()))  # models would look whether it is
    }
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # as the tracker's hooks want it
    tracker = MemTracker()
    tracker.track_external(model, *placed.values())
    try:
        with torch.no_grad(), tracker:
            model(**placed, **script.OPTIONS)
        snapshot = tracker.get_tracker_snapshot("peak")
        found["run"] = sum(int(kinds["Total"]) for kinds in snapshot.values())
    except Exception as error:  # it looks at values, or an operator has no meta kernel
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"weights": weights, "build": max(built, weights), **found}


if __name__ == "__main__":
    print(json.dumps(predict(json.loads(sys.argv[1]))))
