"""gptc: a compiler from a YAML description of a GPT to readable C and CUDA."""

__version__ = "0.1.0"
