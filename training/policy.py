"""A whole policy in training, as stage 3 trains it: planner and adapter, the VLM under LoRA, perception frozen."""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from senna2_core.checkpoints import load_checkpoint
from senna2_core.config import from_dict
from senna2_perception.config import PerceptionConfig
from senna2_perception.network import PerceptionNetwork
from senna2_planner.adapter import DecisionAdapter
from senna2_planner.config import AdapterConfig, PlannerConfig
from senna2_planner.planner import make_planner
from senna2_vlm.config import LoraSettings
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import attach_lora, save_parts
from training.stage1_e2e import save

STAGES: dict[str, dict[str, tuple[str, ...]]] = {  # that the parts of a model are of, by the stage that it has come to
    "2": dict.fromkeys(("perception", "planner", "adapter", "vlm"), ("2",)),
    "1c": {"perception": ("1b", "1c"), "planner": ("1c",), "adapter": ("1c",), "vlm": ("1a",)},
}


@dataclass(frozen=True, eq=False)
class Policy:
    """What trains, and what it came from."""

    model: torch.nn.ModuleDict  # planner, adapter, lora (the weights of the VLM that train)
    vlm: DecisionModel  # with LoRA in it
    lora: Any  # PeftModel around it
    start: torch.nn.ModuleDict  # planner and adapter as they were
    perception: PerceptionNetwork
    configs: dict[str, Any]  # of perception, planner, adapter
    rig: Any  # that perception was trained with, as its card says it; None: it does not


def load_policy(folder: Path, vlm_folder: Path, stage: str, lora_settings: LoraSettings, device: str) -> Policy:
    """From FOLDER/{perception,planner,adapter} of a stage, and a VLM; LoRA's first weights come from torch's seed.

    Raises:
        ValueError: a part is missing, damaged, of another stage, or does not fit the others.
    """
    stages = STAGES[stage]
    configs: dict[str, Any] = {}
    weights, metas = {}, {}
    for name, kind in (("perception", PerceptionConfig), ("planner", PlannerConfig), ("adapter", AdapterConfig)):
        config, weights[name], metas[name] = load_checkpoint(folder / name, module=name, stages=stages[name])
        configs[name] = from_dict(kind, config, f"{folder}/{name}")
    configs["planner"] = dataclasses.replace(configs["planner"], dropout=0.0)  # what trains is what drives
    perception = PerceptionNetwork(configs["perception"])
    perception.load_state_dict(weights["perception"])
    start = torch.nn.ModuleDict({
        "planner": make_planner(configs["planner"]), "adapter": DecisionAdapter(configs["adapter"])
    })  # fmt: skip
    for name, module in start.items():
        module.load_state_dict(weights[name])
    vlm = DecisionModel.from_pretrained(vlm_folder, device, torch.float32, stages=stages["vlm"])
    wanted = (configs["adapter"].hidden_tokens, configs["adapter"].hidden_size)
    if vlm.hidden_shape != wanted:
        raise ValueError(
            f"{folder}/adapter: wants hidden states {wanted}, the VLM has {vlm.hidden_shape}; give --vlm the one that "
            "it was trained with"
        )
    if device == "cpu":
        vlm.model.set_attn_implementation("eager")  # its backward pass takes half the time of the fused one
    lora = attach_lora(vlm.model, lora_settings)
    model = torch.nn.ModuleDict({
        **{name: copy.deepcopy(module) for name, module in start.items()},
        "lora": torch.nn.ParameterList(weight for weight in lora.parameters() if weight.requires_grad),
    }).to(device)  # fmt: skip
    rig = metas["perception"]["provenance"].get("rig")
    return Policy(model, vlm, lora, start.to(device).requires_grad_(False), perception, configs, rig)


def save_policy(policy: Policy, out: Path, stage: str, provenance: dict[str, Any]) -> None:
    """Where driving finds it: OUT/{perception,planner,adapter,vlm}, with LoRA merged into the VLM."""
    modules: dict[str, tuple[torch.nn.Module, Any]] = {
        name: (policy.model[name], policy.configs[name]) for name in ("planner", "adapter")
    }
    save(out, stage, modules, provenance)
    of_perception = provenance if policy.rig is None else provenance | {"rig": policy.rig}
    save(out, stage, {"perception": (policy.perception, policy.configs["perception"])}, of_perception)
    merged = copy.deepcopy(policy.lora).merge_and_unload()
    save_parts(dataclasses.replace(policy.vlm.parts, model=merged), out / "vlm", stage=stage, provenance=provenance)
