import os

from scripted import RELEASE, make  # type: ignore[import-not-found] # found beside it, by path

globals().update(make(os.environ[RELEASE]))
