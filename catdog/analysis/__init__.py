"""A run's results as tables and statistics, and where its masks look. Imports no torch."""
