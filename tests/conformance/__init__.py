"""The numbers of other libraries, stored and live, against ours: ``python -m tests.conformance`` writes the report."""
