from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_pipeline.errors import InputError
from launcher.generate import ROWS_AT_ONCE, Beams, Sampling, Text, method, printed, write
from model.beam import beam_search
from model.config import ModelConfig
from model.generate import generate
from model.gpt import GPT
from training import checkpoint

END = 256
PROMPTS = ["ab", "", "die Straße <|endoftext|>", "x" * 60]


def byte_tokenizer(special: str = "<|endoftext|>") -> Tokenizer:
    vocabulary = {byte: at for at, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary | {special: END}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    tokenizer.add_special_tokens([special])
    return tokenizer


def write_checkpoint(folder: Path, tokenizer: Tokenizer | None = None, **fields: Any) -> GPT:
    """Writes one that holds weights alone: its network, which ends a text now and then."""
    small = {"n_layer": 2, "n_head": 2, "d_model": 16, "n_ctx": 32, "vocab_size": 257}
    config = ModelConfig.model_validate(small | fields)
    network = GPT(config)
    network.initialise(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(10)
        network.norm.bias[0], network.token_embedding.weight[END, 0] = 10.0, 1.0
    folder.mkdir()
    checkpoint.write_weights_only(folder, config, network.named_parameters(), (tokenizer or byte_tokenizer()).to_str())
    return network.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, GPT]:
    folder = tmp_path_factory.mktemp("written") / "checkpoint"
    return str(folder), write_checkpoint(folder)


def ids_of(prompt: str) -> list[int]:
    tokenizer = byte_tokenizer()
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(prompt).ids


def test_sample_i_of_a_prompt_is_drawn_with_seed_plus_i(written: tuple[str, GPT]) -> None:
    name, network = written
    how = Sampling(temperature=0.9, top_k=100, top_p=0.95, seed=5, samples=ROWS_AT_ONCE // 2 + 1)
    texts = write(name, PROMPTS, 40, how)
    assert len(texts) > 2 * ROWS_AT_ONCE
    assert [(text.prompt, text.seed) for text in texts] == [
        (prompt, 5 + i) for prompt in PROMPTS for i in range(how.samples)
    ]
    for text in texts:
        ids = ids_of(text.prompt)
        assert text.prompt_tokens == len(ids) and END not in ids  # text makes no special token
        options = {"temperature": 0.9, "top_k": 100, "top_p": 0.95, "seeds": [text.seed]}
        expected = generate(network, [ids], max_tokens=40, end_of_text=END, **options)[0]
        assert text.text == byte_tokenizer().decode(expected) and text.tokens == len(expected)
        assert text.ended == (END in expected)
    assert len({text.text for text in texts}) > 8
    assert {text.ended for text in texts} == {True, False}


def test_beams_are_searched_for_each_prompt(written: tuple[str, GPT]) -> None:
    name, network = written
    for how in (Beams(3), Beams(2, length_penalty=2.0)):
        for prompt, text in zip(PROMPTS, write(name, PROMPTS, 20, how), strict=True):
            options = {"width": how.width, "length_penalty": how.length_penalty}
            expected = beam_search(network, ids_of(prompt), max_tokens=20, end_of_text=END, **options)
            assert (text.prompt, text.seed, text.tokens) == (prompt, None, len(expected))
            assert text.text == byte_tokenizer().decode(expected)


def test_options_choose_the_method() -> None:
    nothing = dict.fromkeys(("temperature", "top_k", "top_p", "seed", "samples"))
    assert method(None, None, **nothing) == Sampling(1.0, None, 1.0, 0, 1)
    assert method(None, None, **nothing | {"temperature": 0.0, "seed": 0}) == Sampling(temperature=0.0)
    assert method(4, None, **nothing) == Beams(4, 0.6)
    assert method(4, 0.0, **nothing) == Beams(4, 0.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"beams": 4, "temperature": 0.0}, "--beams: draws nothing, and --temperature is"),
        ({"beams": 4, "top_p": 0.9, "seed": 0}, "--top-p, --seed"),
        ({"beams": 4, "samples": 1}, "--samples"),
        ({"length_penalty": 0.0}, "--length-penalty: is for a beam search"),
        ({"temperature": float("nan")}, "--temperature: is not a number"),
        ({"beams": 4, "length_penalty": float("nan")}, "--length-penalty: is not a number"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        method(given.pop("beams", None), given.pop("length_penalty", None), **given)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_that_denoises_is_refused_with_what_it_is_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "d", objective="denoise")
    with pytest.raises(InputError, match=r"/d: is of objective denoise, which restores masked tokens.*next_token"):
        write(str(tmp_path / "d"), ["a"], 5, Sampling())


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "t", byte_tokenizer("</s>"))
    with pytest.raises(InputError, match=r"tokenizer.json: has no <\|endoftext\|>"):
        write(str(tmp_path / "t"), ["a"], 5, Sampling())


def test_a_prompt_that_is_no_text_is_refused(written: tuple[str, GPT]) -> None:
    with pytest.raises(InputError, match=r"--prompt: 'a.udcff' is not UTF-8"):
        write(written[0], ["a\udcff"], 5, Sampling())  # the byte 0xff on the command line


def test_one_text_is_printed_as_it_is_and_several_apart() -> None:
    one, other = Text("a", 1, 4, "b\n", 2, True), Text("c", 1, 5, "d", 1, False)
    assert printed([one]) == "ab\n"
    assert printed([one, other]) == "--- 1 of 2, seed 4\nab\n\n--- 2 of 2, seed 5\ncd"
    assert printed([Text("a", 1, None, "b", 2, True)] * 2) == "--- 1 of 2\nab\n--- 2 of 2\nab"
