"""Training: the loop, what a step is made of (loss, optimiser, schedule, guard), and what a run keeps in its folder."""
