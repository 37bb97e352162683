"""Cross-validation, calibration and likely label errors of an adapted version."""
