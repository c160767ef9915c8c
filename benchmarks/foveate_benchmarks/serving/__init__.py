"""What does serving add to computing?"""
