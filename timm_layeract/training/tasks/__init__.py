"""What is trained for: images to classify, to segment, texts."""
