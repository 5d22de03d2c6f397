"""One protocol a file: a predictor and data in, measures out."""
