"""The kinds of figures in the papers, for one's own photo and model: one file each."""
