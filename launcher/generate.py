"""Text from a checkpoint."""

from tokenizers import Tokenizer

from data_pipeline.tokenizer import END_OF_TEXT
from model.generate import generate
from training import checkpoint


def generate_text(name: str, prompt: str, max_tokens: int, temperature: float, top_p: float, seed: int) -> str:
    """What the network of a checkpoint adds to `prompt`; end-of-text ends it and is not shown."""
    folder = checkpoint.find(name)
    network = checkpoint.open_network(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    assert end_of_text is not None, "prepare makes no tokenizer without it"
    continuation = generate(network, ids, max_tokens, end_of_text, temperature, top_p, seed)
    return str(tokenizer.decode(continuation, skip_special_tokens=True))
