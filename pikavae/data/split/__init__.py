"""Decides which side a picture is on, and finds alike pictures."""
