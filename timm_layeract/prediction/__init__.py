"""Using a trained segmentation network: `tiles` for one image of any size, `files` for images on disk."""
