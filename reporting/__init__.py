"""The parts of report.py: what a results folder holds, and each part of the page that shows it."""
