"""Where training pixels come from: memory (`ImageSet`), or files that are decoded while training (`StreamedSet`).

`interface` says what a source is asked and gives, `opening` picks one for a data set.
"""
