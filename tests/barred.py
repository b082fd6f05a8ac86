"""python -m tests.barred FILE MODULE...: import a file where these modules cannot be imported."""

import importlib.util
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    what, *barred = sys.argv[1:]
    for name in [name for name in sys.modules if name.partition(".")[0] in barred]:
        del sys.modules[name]
    sys.modules |= dict.fromkeys(barred)  # None: importing it fails
    os.chdir(Path(what).parent)
    sys.path[:] = [path for path in sys.path if path and ("site-packages" in path or "lib/python" in path)]
    spec = importlib.util.spec_from_file_location("model", what)
    sys.modules["model"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
