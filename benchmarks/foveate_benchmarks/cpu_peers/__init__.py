"""What else serves a Vision Transformer on a CPU, and are we ahead of it?"""
