"""`make push-<paper>`: what export writes of a run, to an account on the Hugging Face hub; it is shown only, until YES=1."""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from common.errors import BadInput, Failed
from common.words import columns
from tools import export
from tools.repository import refuse, told


def main(paper: str, run: str = "", repo: str = "", form: str = "safetensors", yes: bool = False, public: bool = False) -> int:
    """Exports the run anew, shows what would go where, and sends it if `yes`.

    Raises:
        BadInput: no such run, format or repository, no token, or one that the hub refuses. Failed: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars

    refuse(not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo), "name the repository: REPO=user/name")
    refuse(yes and not get_token(), "there is no token of the hub: `hf auth login` keeps one, or set HF_TOKEN")
    disable_progress_bars()
    hub = HfApi()
    with TemporaryDirectory() as folder:
        page = export.write(paper, run, form, folder)[1]
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        print(page.read_text(encoding="utf-8"))
        rows = [[path.relative_to(folder).as_posix(), f"{path.stat().st_size:,} bytes"] for path in files]
        seen = "public" if public else "private"
        for line in columns([*rows, ["to", f"{hub.endpoint}/{repo}, {seen} if it is new"]]):
            print(line)
        if not yes:
            print("nothing was sent: YES=1 sends it")
            return 0
        try:
            hub.create_repo(repo, private=not public, exist_ok=True)
            sent = hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{paper}, as {form}")
        except HfHubHTTPError as error:
            raise BadInput(f"{hub.endpoint} refuses it: {' '.join(str(error).split())}") from error
        except Exception as error:  # of its client's half a dozen types
            raise Failed(f"{hub.endpoint} cannot be reached, or answers strangely: {error}") from error
    print(f"sent: {sent.commit_url}")
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(told(tyro.cli, main))
