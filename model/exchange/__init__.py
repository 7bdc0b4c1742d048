"""Networks to and from folders of Hugging Face transformers: GPT-2, GPT-Neo and GPT-NeoX."""
