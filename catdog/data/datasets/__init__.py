"""The datasets: one file each, and the registry that makes them known."""
