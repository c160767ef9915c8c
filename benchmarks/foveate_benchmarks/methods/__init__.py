"""How do methods of token reduction compare?"""
