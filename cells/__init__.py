"""Cells as data: labelling, borders, crops, mask text, the tables and the crop store."""
