"""The maths in plain torch: the one definition of each activation, which everything else is checked against."""
