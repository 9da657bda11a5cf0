"""The logit store: what members think of every sample, written once, read by any number of students.

It stores rows by key and knows nothing of teachers or students.
"""
