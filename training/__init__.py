"""Learning to attend: lists to learn from, the loss on attention mass, and the loop that minimises it."""
