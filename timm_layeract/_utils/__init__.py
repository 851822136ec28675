"""What every part needs and none owns: results written whole, plots, progress bars, how networks are called."""
