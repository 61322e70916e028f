"""Fine-tune a language model with LoRA, and measure what it gained on the task and what it forgot."""

__version__ = "0.1.0"
