"""A second modality beside the image: text, pen strokes or numbers, as a vector; and rows of inputs with both."""
