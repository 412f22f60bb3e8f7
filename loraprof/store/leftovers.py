"""What did a crash leave beside a recording? Temporary folders, under names that nobody will ask for again."""

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

OLD_S: Final = 600.0  # nobody who still writes leaves a folder alone for so long


def clear_leftovers(target: Path) -> None:
    """Removes old temporary folders of earlier recordings called ``target``, or named as ``profile`` names them."""
    beside = target.absolute().parent
    for folder in {*beside.glob(f".{target.name}.tmp-*"), *beside.glob(".*.loraprof.tmp-*")}:
        if folder.suffix == ".old" or not folder.is_dir():
            continue  # .old is the recording that an interrupted --force was replacing
        with suppress(FileNotFoundError):  # whose it is may be giving it its name
            newest = max(p.stat().st_mtime for p in (folder, *folder.iterdir()))
            if time.time() - newest > OLD_S:
                shutil.rmtree(folder, ignore_errors=True)
