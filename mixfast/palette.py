"""Colours of every picture here."""

# Okabe and Ito's palette: distinct to the colour-blind; without its yellow, which is faint on white, and its black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
