"""What Ray's workers import before they have anything to do: the modules that the environment names.

Python's search for garbage, a quarter of the time of such imports, waits until they are done, and then leaves out what
came with them.
"""

import gc
import importlib
import os

from catdog.sweep import PRELOADED

gc.disable()
try:
    for _name in filter(None, os.environ.get(PRELOADED, "").split(",")):
        importlib.import_module(_name)
finally:
    gc.freeze()
    gc.enable()
