"""One process of a training run: `python -m training.worker RUN_FOLDER`, started by torchrun, which `training.launch` starts."""

import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from training.folder import WORKER_LOCK, locked, read_run
from training.launch import die_with_parent


def main(out: Path) -> None:
    """The run in the folder has been trained to its end by this process and its siblings."""
    parent = os.getppid()
    die_with_parent(parent)
    if "TORCHELASTIC_RUN_ID" in os.environ and is_orphan(parent):  # torchrun was killed before this process came to ask for its own end
        os._exit(1)
    _log_to_stdout(logging.INFO if os.environ["RANK"] == "0" else logging.WARNING)
    import torch

    from training.loop import Run
    from training.parallel.engine import join_group

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # on a GPU some backward passes have no deterministic kernel: there it warns, and a resumed run is equal only nearly
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # filling every new tensor, as that asks for, costs a tenth of a small step; nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    run = read_run(out)
    device = join_group(run.config.engine.timeout_s)
    with locked(out, WORKER_LOCK) if os.environ["RANK"] == "0" else nullcontext():
        Run(run, out, device).train()
    torch.distributed.destroy_process_group()


def is_orphan(parent: int) -> bool:
    """Whether the process is another than the torchrun that starts workers; False where nobody may know (not Linux)."""
    try:
        return b"torch" not in Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        return False


def _log_to_stdout(level: int) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("dailies.train")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
