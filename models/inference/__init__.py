"""Prediction with adapted weights, in torch and onnxruntime."""
