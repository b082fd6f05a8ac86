"""torchrun, with the exit code of the process that failed first, and no traceback of its own below what that has said."""

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it could say nothing itself
            killed = f"process {rank} was ended by {signal.Signals(-failure.exitcode).name}"
            print(f"error: {killed}; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)
