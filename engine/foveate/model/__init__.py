"""The Vision Transformer itself, its pooling and its multiply-accumulates."""
