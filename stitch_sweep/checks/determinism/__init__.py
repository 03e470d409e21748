"""Recording what a run computes, and comparing two recordings."""
