"""A tokenizer of bytes, and texts for it."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

EOT = "<|endoftext|>"
TEXTS = ["A river bed is deepest along its thalweg.", "x", "", "Zwölf Boxkämpfer", "line\nline\n" * 20]


def write_tokenizer(path: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({each: at for at, each in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOT])
    tokenizer.save(str(path))
    return path


def ids_of(path: Path, text: str) -> list[int]:
    """With the end of a document."""
    tokenizer = Tokenizer.from_file(str(path))
    return [*tokenizer.encode(text).ids, tokenizer.token_to_id(EOT)]
