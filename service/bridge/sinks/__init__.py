"""Where verdicts go to."""
