"""How accurate finished models are: `layeract evaluate`."""
