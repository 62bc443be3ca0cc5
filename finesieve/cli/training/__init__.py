"""One training run: its data, its model, the loop, and the files that it leaves."""
