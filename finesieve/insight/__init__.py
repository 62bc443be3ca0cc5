"""What a data set is like: wrong labels, repeats, what is redundant, whether more would help."""
