"""The old name of tools.tables, which scripts still call."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tools.tables", run_name="__main__", alter_sys=True)
