"""Cross-validation of adapted versions: accuracy estimate, calibration, novelty, label issues."""
