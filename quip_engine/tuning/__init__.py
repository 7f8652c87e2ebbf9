"""Tuning: after the codes are chosen, what a packed model says is brought back to what the original says."""
