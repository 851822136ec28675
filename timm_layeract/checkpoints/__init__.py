"""Weights with a record of the activations they belong to: what there is, saving, loading."""
