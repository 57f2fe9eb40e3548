"""Raincast: does it rain tomorrow at an Australian weather station?"""

__version__ = "0.1.0"
