"""The toy paper's training script, with little patience for W&B, and with exit hooks: forked processes have none."""

import atexit
import sys

from common import track
from common.command import reproduce
from tests.toy.train import EXPERIMENTS, train

track.TIMEOUT, track.FINISH_TIMEOUT = 3, 2

if __name__ == "__main__":
    try:
        reproduce(EXPERIMENTS, train)
    finally:
        print("wandb was imported" if "wandb" in sys.modules else "wandb was not imported")
        atexit._run_exitfuncs()
