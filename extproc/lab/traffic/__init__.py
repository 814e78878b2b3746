"""What the recorded traffic says of each route and model: is it still good, and what did it cost?"""
