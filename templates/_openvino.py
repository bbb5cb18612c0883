"""Graphs that OpenVINO runs, on the CPU, a GPU or an NPU of Intel."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from typing import Any

import torch

from templates._compare import Tensors


class OpenVINO:
    """A `Runtime` of OpenVINO, converted by transformers' own exporter."""

    def __init__(self, program: Any, device: str, dtype: str) -> None:
        openvino, metadata = import_openvino(), program.metadata
        core, program = openvino.Core(), program.program
        hint = {"INFERENCE_PRECISION_HINT": "f32"} if dtype == "float32" else {}
        compiled = core.compile_model(program, asked_of(device) or "AUTO", hint)
        self.software = f"openvino {openvino.__version__.partition('-')[0]}"
        nodes = compiled.get_runtime_model().get_ops()
        found = {node.get_rt_info()["runtimePrecision"].astype(str) for node in nodes}
        self.precision = next((half for half in ("bf16", "f16") if half in found), "f32")
        self.request = compiled.create_infer_request()
        names = [port.any_name.removeprefix("input.") for port in program.inputs]
        self.ports = dict(zip(names, compiled.inputs, strict=True))  # which may have lost theirs
        self.names = {*self.ports}
        # Two outputs may be one tensor of the graph, with one name: the export knows both.
        named = torch.utils._pytree.treespec_loads(metadata.out_spec).context
        ports = [port.any_name.removeprefix("output.") for port in program.outputs]
        self.outputs = named if len(named) == len(ports) else ports
        ran = compiled.get_property("EXECUTION_DEVICES")[0]
        self.target = asked_of(device) or ran
        no_work = ("Parameter", "Constant", "Result")
        operators = [each for each in program.get_ops() if each.get_type_name() not in no_work]
        supported = core.query_model(program, ran, hint)
        places = [supported.get(each.get_friendly_name(), "nowhere") for each in operators]
        self.operators = Counter(places)
        self.elsewhere = [
            f"{each.get_type_name()} on {place}"
            for each, place in zip(operators, places, strict=True)
            if not place.startswith(self.target)
        ]

    def run(self, inputs: Tensors) -> Tensors:
        """The outputs by name."""
        found = self.request.infer({self.ports[name]: v.numpy() for name, v in inputs.items()})
        values = [torch.from_numpy(found[index]) for index in range(len(self.outputs))]
        return dict(zip(self.outputs, values, strict=True))

    @staticmethod
    def convert(model: Any, inputs: dict[str, Any], dynamic: bool = False) -> Any:
        """The model of OpenVINO and what transformers' exporter has noted of it."""
        import_openvino()
        from transformers.exporters.exporter_openvino import OpenVINOConfig, OpenVINOExporter

        exported = OpenVINOExporter().export(model, inputs, OpenVINOConfig(dynamic=dynamic))
        return exported.components["model"]

    @staticmethod
    def why_unavailable(device: str) -> str | None:
        """Why OpenVINO cannot compute on `device` here."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install openvino"
        if importlib.util.find_spec("transformers.exporters") is None:
            return "transformers is too old to export graphs: pip install --upgrade transformers"
        try:
            known = import_openvino().Core().available_devices
        except RuntimeError as error:
            return f"openvino cannot look for devices: {str(error).splitlines()[0]}"
        where = asked_of(device)
        if where and not any(each.partition(".")[0] == where for each in known):
            return f"openvino has no device {where} here, only {', '.join(known)}"
        return None

    @staticmethod
    def describe(device: str) -> dict[str, Any]:
        """What OpenVINO says of `device`; of AUTO what it says of the CPU."""
        openvino, where = import_openvino(), asked_of(device) or "CPU"
        core = openvino.Core()
        default = core.get_property(where, "INFERENCE_PRECISION_HINT").to_string()
        features = [*core.get_property(where, "OPTIMIZATION_CAPABILITIES")]
        features += [f"devices {','.join(core.available_devices)}", f"default {default}"]
        memory = "GPU_DEVICE_TOTAL_MEM_SIZE"  # the others have that of the machine
        known = memory in core.get_property(where, "SUPPORTED_PROPERTIES")
        found = {"name": core.get_property(where, "FULL_DEVICE_NAME"), "features": features}
        driver = f"openvino {openvino.__version__}"
        found |= {"memory_bytes": core.get_property(where, memory) if known else None}
        return found | {"driver": driver, "software": False}


def asked_of(device: str) -> str:
    """The device as OpenVINO calls it: "GPU" of "openvino:GPU"; "" for AUTO, its own choice."""
    return (device.partition(":")[2] or "CPU").removeprefix("AUTO")


def import_openvino() -> Any:
    """The package, which sends nothing home: without its telemetry it takes a stub."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # type: ignore[import-untyped]

    return openvino
