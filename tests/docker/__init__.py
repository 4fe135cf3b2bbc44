"""Tests over a real Docker engine of their own, whose bases stand in for those of registries."""
