"""This process and this machine. Knows no run and no model."""
