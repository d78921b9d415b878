"""Vitrine: multi-task recognition and retrieval of product photographs."""

__version__ = "0.1.0"
