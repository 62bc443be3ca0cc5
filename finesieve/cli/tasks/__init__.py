"""What the command line trains for: everything that differs from task to task, an object each."""
