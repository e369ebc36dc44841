"""What the chapters share and what is not the lesson: set-up, data, checks, training
loops and pictures.
"""
