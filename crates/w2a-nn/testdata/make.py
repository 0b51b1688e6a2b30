"""Writes the checkpoints that the tests of `weights` read, with the real torch.save (made with PyTorch 2.11).

    python crates/w2a-nn/testdata/make.py

All values follow from the position of an element, so that the tests know them.
"""

import os
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


def save(name, value, **options):
    torch.save(value, HERE / f"{name}.pt", **options)


def count(*shape, dtype=torch.float32):
    n = 1
    for side in shape:
        n *= side
    return torch.arange(n, dtype=torch.float64).reshape(shape).to(dtype)


types = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16"]
save("dtypes", {name: count(2, 3, dtype=getattr(torch, name)) for name in types + ["complex64", "float8_e4m3fn"]})

whole = count(4, 6)
views = {
    "transposed": whole.t(),
    "column": whole[:, 2],
    "every_second": whole[::2, 1::2],
    "tail": whole[2:],
    "shared": whole,
    "repeated": torch.tensor([3.0, 4.0]).expand(3, 2),
    "empty": torch.zeros(0, 5),
    "number": torch.tensor(2.5),
    "parameter": nn.Parameter(count(3)),
    "permuted": count(2, 3, 4).permute(2, 0, 1),
}
save("views", views)
save("protocol4", OrderedDict(views), pickle_protocol=4)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.LayerNorm(2)))
for p in model.parameters():
    p.data = count(*p.shape)
adam = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 3)).sum().backward()
adam.step()
for p in model.parameters():
    p.data = count(*p.shape)
trainer = {"model": model.state_dict(), "optimizer": adam.state_dict(), "step": 7, "lr": 1e-3, "note": "é", "done": None}
save("trainer", trainer)
save("two_models", {"model": model.state_dict(), "ema": model.state_dict()})
save("parallel", {"module." + name: value for name, value in model.state_dict().items()})
save("list", [count(2), {"inner": (count(1), count(3))}])
save("legacy", model.state_dict(), _use_new_zipfile_serialization=False)


class Shell:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


save("shell", {"weight": count(2), "payload": Shell()})
save("whole_model", model)
