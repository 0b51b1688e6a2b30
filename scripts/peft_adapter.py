"""Holds our LoRA adapters against PEFT.

    python scripts/peft_adapter.py check ADAPTER POLICY.safetensors   # PEFT opens an adapter of ours and merges it
    python scripts/peft_adapter.py make FOLDER                        # PEFT writes the adapter that our tests read

ADAPTER is a folder such as posttrain/w2a/seed0/adapter, POLICY.safetensors the weights of the policy it adapts, such as
policy/base/checkpoints/last/model.safetensors. Needs torch, safetensors and peft (made with peft 0.21.2).
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn


def linear_layers(sizes):
    """A module with linear layers of these names and sizes (in, out), nested as the names are."""
    root = nn.Module()
    for name, (width, out) in sizes.items():
        *parents, last = name.split(".")
        module = root
        for part in parents:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.add_module(last, nn.Linear(width, out))
    return root


def check(adapter, policy):
    weights = load_file(policy)
    names = [name.removesuffix(".weight") for name, value in weights.items() if name.endswith(".weight") and value.dim() == 2]
    sizes = {name: tuple(reversed(weights[f"{name}.weight"].shape)) for name in names}
    base = linear_layers(sizes)
    base.load_state_dict({f"{name}.{kind}": weights[f"{name}.{kind}"] for name in names for kind in ("weight", "bias")})
    before = {name: value.clone() for name, value in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    factors = load_file(Path(adapter) / "adapter_model.safetensors")
    worst, changed = 0.0, 0
    for name in names:
        key = f"base_model.model.{name}"
        change = factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"] * (config["lora_alpha"] / config["r"])
        expected = before[f"{name}.weight"] + change
        worst = max(worst, (merged[f"{name}.weight"] - expected).abs().max().item())
        changed += int(change.abs().max() > 0)
    print(f"{len(names)} layers, {changed} of them changed, r {config['r']}: largest difference {worst:.2e}")
    sys.exit(0 if worst < 1e-5 and changed == len(names) else 1)


def make(folder):
    torch.manual_seed(0)
    model = linear_layers({"hidden1": (272, 32), "hidden2": (32, 32), "out": (32, 28)})
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["hidden1", "out"]))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1)
    model.save_pretrained(folder)
    (Path(folder) / "README.md").unlink(missing_ok=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = parser.add_subparsers(dest="command", required=True)
checking = commands.add_parser("check")
checking.add_argument("adapter")
checking.add_argument("policy")
commands.add_parser("make").add_argument("folder")
arguments = parser.parse_args()
if arguments.command == "check":
    check(arguments.adapter, arguments.policy)
else:
    make(arguments.folder)
