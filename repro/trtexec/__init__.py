"""Reads what trtexec prints and exports, whether we ran it or somebody attached it to a ticket."""
