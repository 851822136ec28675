"""Training: what to do (`recipe`, `recipes/*.yaml`) and doing it through accelerate (`engine`)."""
