"""The steps that documents of a source go through between reader and tokeniser: the `steps:` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_pipeline.config_base import Section


class Short(Section):
    """Drops pages that are near to empty."""

    kind: Literal["short"] = Field(description="Documents that are near to empty.")
    characters: int = Field(200, gt=0, description="A document of fewer, outer white space aside, is dropped.")


class Boilerplate(Section):
    """Drops menus, forms, logins, error pages: what has few lines that are long and hold the end of a sentence."""

    kind: Literal["boilerplate"] = Field(description="Pages that are not running text.")
    characters: int = Field(300, ge=0, description="A page with fewer in lines of running text is dropped.")
    share: float = Field(0.3, ge=0, le=1, description="So is one of whose characters a smaller share is in such lines.")


class Language(Section):
    """Finds the language of a document, and keeps it by a list."""

    kind: Literal["language"] = Field(description="Documents by their language.")
    keep: list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]] = Field(
        min_length=1, description="Codes of ISO 639, such as [en, de], or zh."
    )
    least: float = Field(
        0.5, ge=0, le=1, description="A document is dropped where its language is less sure; 0 takes the likeliest."
    )


class Linked(Section):
    """Keeps pages whose address a list of links has, or the others."""

    kind: Literal["linked"] = Field(description="Pages by a list of links.")
    links: str = Field(description="Its name among the recipe's `links`.")
    keep: Literal["linked", "others"] = Field(
        "linked", description="others: what the list does not name, where the rest is a source of its own."
    )


class Quality(Section):
    """Keeps documents by a quality filter, with GPT-3's rule: most of a high score, and few of a low one."""

    kind: Literal["quality"] = Field(description="Documents by a quality filter.")
    filter: str = Field(description="Its name among the recipe's `filters`.")


class Karma(Section):
    """Keeps pages the likelier, the more karma the links to their domain have on a list of links."""

    kind: Literal["karma"] = Field(description="Pages by the karma of their domain.")
    links: str = Field(description="Its name among the recipe's `links`.")
    least: int = Field(
        100,
        gt=0,
        description="A page is kept whose domain has so much karma, all its submissions on the list together.",
    )
    share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Of the pages of domains without karma so many are kept; in between it grows in a straight line.",
    )


class GopherQuality(Section):
    """Drops what does not look like prose: Gopher's rules of length, word length, symbols, bullets and stop words."""

    kind: Literal["gopher_quality"] = Field(description="Gopher's rules of what is prose.")
    min_words: int = Field(50, ge=0, description="Fewest words.")
    max_words: int = Field(100_000, gt=0, description="Most words.")
    min_stop_words: int = Field(2, ge=0, description="So many different stop words, at least.")
    stop_words: list[str] | None = Field(
        None, description="Those of another language than English, which are the, be, to, of, and, that, have, with."
    )


class GopherRepetition(Section):
    """Drops what repeats itself: Gopher's rules of lines, paragraphs and n-grams."""

    kind: Literal["gopher_repetition"] = Field(description="Gopher's rules of what repeats itself.")


class C4(Section):
    """C4's rules: drops lines without end, of few words, on cookies or JavaScript, and pages with code or filler."""

    kind: Literal["c4"] = Field(description="C4's rules.")
    terminal_punctuation: bool = Field(True, description="Whether a line has to end like a sentence.")


PersonalData = Literal["email", "phone", "ip"]


class Mask(Section):
    """Puts markers in the place of personal data."""

    kind: Literal["mask"] = Field(description="Personal data.")
    what: list[PersonalData] = Field(
        ["email", "phone", "ip"],
        min_length=1,
        description="email: addresses; phone: numbers that may be assigned; ip: public addresses, IPv4 and IPv6.",
    )
    phone_regions: list[str] = Field(
        default_factory=list,
        description="Regions, such as [US, GB], whose numbers are known without their country's code; with it all are.",
    )

    @model_validator(mode="after")
    def _known_regions(self) -> "Mask":
        if self.phone_regions:
            from phonenumbers import SUPPORTED_REGIONS

            if unknown := sorted(set(self.phone_regions) - SUPPORTED_REGIONS):
                raise ValueError(f"phone_regions: {', '.join(unknown)} is no region of ISO 3166, such as US")
        return self


Extractor = Literal["resiliparse", "trafilatura"]
StepConfig = Annotated[
    Short | Boilerplate | Language | Linked | Karma | Quality | GopherQuality | GopherRepetition | C4 | Mask,
    Field(discriminator="kind"),
]
