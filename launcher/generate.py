"""Text from a checkpoint."""

from data_pipeline.tokenizer import load_tokenizer
from model.generate import generate
from training import checkpoint


def generate_text(name: str, prompt: str, max_tokens: int, temperature: float, top_p: float, seed: int) -> str:
    """What the network of a checkpoint adds to `prompt`; end-of-text ends it and is not shown."""
    folder = checkpoint.find(name)
    network = checkpoint.open_network(folder)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    ids = generate(
        network, tokenizer.encode(prompt).ids, max_tokens, tokenizer.token_to_id("<|endoftext|>"), temperature, top_p, seed
    )
    return str(tokenizer.decode(ids, skip_special_tokens=True))
