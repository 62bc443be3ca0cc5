"""Labelled text as people have it: files and hub datasets become tables of texts and labels."""
