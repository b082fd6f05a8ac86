"""The old name of tools.tables, which scripts outside still call: `python -m common.tables list`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tools.tables", run_name="__main__", alter_sys=True)
