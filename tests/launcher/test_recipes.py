from pathlib import Path

import pytest

from launcher.config import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "configs/data").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_that_come_with_it_are_valid(path: Path) -> None:
    assert load_recipe(path).sources


def test_the_recipe_of_gpt3_has_all_of_its_parts() -> None:
    recipe = load_recipe(RECIPES[0].with_name("gpt3.yaml"))
    assert list(recipe.sources) == ["books", "wikipedia", "webtext", "common_crawl"]
    assert recipe.links["reddit"].karma == 3 and recipe.filters["gpt3"].alpha == 9
    assert recipe.filters["gpt3"].negatives == ["common_crawl"] and recipe.deduplicate and recipe.decontaminate
    assert recipe.sources["webtext"].steps[0].kind == "linked"
