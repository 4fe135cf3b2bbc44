"""Launchers: where the worker runs. Each takes a job folder and leaves records in the other."""
