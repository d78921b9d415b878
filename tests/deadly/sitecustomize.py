"""Make some photographs kill the process that decodes them. Python imports this module from PYTHONPATH at startup.

A file that contains MARK kills the process with the signal that MARK names.
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
    mark = re.search(MARK, Path(file).read_bytes())
    if mark:
        os.kill(os.getpid(), signal.Signals[mark[1].decode()])
    return open_image(file, *arguments, **options)


Image.open = open_or_die  # type: ignore[assignment]
