"""Weights in the formats of other programs: GPT-2 of llm.c, Hugging Face, llama.cpp; Llama of Hugging Face."""
