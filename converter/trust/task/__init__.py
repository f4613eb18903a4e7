"""What the outputs of a network mean: one module a task, and nothing else in the program asks."""
