"""Several runs compared: suites, equal time, statistics and tables."""
