"""A worker that writes down which modules run, in order: RUN/calls-<rank>.txt, a line a forward call of a module and a backward of one."""

import os
import sys
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook, register_module_full_backward_pre_hook

from training import worker

if __name__ == "__main__":
    out = Path(sys.argv[1])
    with (out / f"calls-{os.environ['RANK']}.txt").open("w") as file:

        def forward(module: nn.Module, inputs: Any) -> None:
            """One call."""
            file.write(f"forward {type(module).__name__}\n")

        def backward(module: nn.Module, grads: Any) -> None:
            """One call."""
            file.write(f"backward {type(module).__name__}\n")

        register_module_forward_pre_hook(forward)
        register_module_full_backward_pre_hook(backward)
        worker.main(out)
