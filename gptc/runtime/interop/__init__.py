"""GPT-2 weights in the formats of other programs: llm.c, Hugging Face, llama.cpp."""
