"""Measures a rule as the paper does: few-shot accuracy of features learned without labels.

suite       what a gin file asks for, as a list of cells
setting     one cell's data, architecture and protocol
methods/    the rule and its baselines behind one interface
plan        gin files and rules by name, so that every process reads the same cells
measuring   measures a cell
runner      measures all of them, shows progress, goes on where it was cut off
processes   on all cores, one process each
store       finished cells on disk; provenance says where each came from
comparison  paired differences between the rule and the others
scores      one table and one number for two rules
report      one HTML page; its figures are in figures/
training_report  the same of a training run
pages       what both pages share
library_tasks  our Task under names that the library's own benchmark tools know
"""
