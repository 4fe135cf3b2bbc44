from scripted import make  # type: ignore[import-not-found] # found beside it, by path

globals().update(make("rtx"))
