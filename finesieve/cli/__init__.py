"""The command line trains, compares methods and writes reports."""
