"""`gather` on several processes: python -m tests.gathering FOLDER, started once for each by tests/data/test_order.py."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from common.data.order import share
from common.processes import gather

EXAMPLES = 13

if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    rank, processes = accelerator.process_index, accelerator.num_processes
    mine = 10 * torch.arange(EXAMPLES)[share(EXAMPLES, rank, processes)]
    gathered = gather(accelerator, mine, EXAMPLES)
    try:
        gather(accelerator, mine.new_zeros(len(mine) + 1), EXAMPLES)
    except ValueError:
        torch.save(gathered, Path(sys.argv[1]) / f"{processes}-{rank}.pt")
    torch.distributed.destroy_process_group()
