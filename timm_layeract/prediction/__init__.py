"""Using a trained network on image files: `run` decides what for, `files` segments, `photographs` classifies."""
