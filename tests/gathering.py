"""Run.gather on several processes: python -m tests.gathering FOLDER, started once for each by tests/data/test_order.py."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from common.run import Run

EXAMPLES = 13

if __name__ == "__main__":
    run = object.__new__(Run)  # the two methods under test need nothing of a run but its processes
    run.accelerator = Accelerator(cpu=True)
    run.rank, run.processes = run.accelerator.process_index, run.accelerator.num_processes
    mine = 10 * torch.arange(EXAMPLES)[run.share(EXAMPLES)]
    gathered = run.gather(mine, EXAMPLES)
    try:
        run.gather(mine.new_zeros(len(mine) + 1), EXAMPLES)
    except ValueError:
        torch.save(gathered, Path(sys.argv[1]) / f"{run.processes}-{run.rank}.pt")
    torch.distributed.destroy_process_group()
