"""Makes some photographs kill the process that decodes them. Python imports it at its start, from PYTHONPATH.

A file kills if it holds MARK; what follows there is the name of the signal.
"""

import os
import re
import signal
from pathlib import Path
from typing import Any

from PIL import Image

MARK = rb"kills its decoder with (SIG\w+)"

open_image = Image.open


def open_or_die(file: Any, *arguments: Any, **options: Any) -> Any:
    found = re.search(MARK, Path(file).read_bytes())
    if found:
        os.kill(os.getpid(), signal.Signals[found[1].decode()])
    return open_image(file, *arguments, **options)


Image.open = open_or_die  # type: ignore[assignment]
