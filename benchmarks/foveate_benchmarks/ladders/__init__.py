"""What does each level cost, and what does finding levels bring?"""
