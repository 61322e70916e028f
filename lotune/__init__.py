"""Tune a language model on a task with few trainable parameters, and prove what it gained and what it kept."""

__version__ = "0.1.0"
