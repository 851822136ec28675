"""What other packages need to be told, and when."""
