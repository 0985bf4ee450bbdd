"""This process and this machine; knows nothing of runs or models."""
