"""Pages that are not running text."""

from collections import Counter

import pytest
from datatrove.data import Document

from data_pipeline.steps import boilerplate
from data_pipeline.steps.config import Boilerplate

SENTENCES = {
    "en": "The river had stopped in the night, and those who lived along it came out in the morning to walk on it.",
    "de": "Der Fluss war in der Nacht stehen geblieben, und die an ihm wohnten, kamen am Morgen, um auf ihm zu gehen.",
    "ru": "Ночью река остановилась, и утром те, кто жил на её берегах, вышли из домов, чтобы пройтись по льду.",
    "el": "Το ποτάμι είχε σταματήσει μέσα στη νύχτα, και το πρωί όσοι ζούσαν δίπλα του βγήκαν να περπατήσουν πάνω του.",
    "ar": "توقف النهر في الليل، وفي الصباح خرج الذين يعيشون على ضفافه ليمشوا عليه، ولم يتذكر أحد متى حدث ذلك.",
    "hi": "रात में नदी थम गई थी, और सुबह उसके किनारे रहने वाले लोग उस पर चलने के लिए अपने घरों से बाहर निकल आए।",
    "ja": "夜のうちに川が止まってしまい、朝になると川沿いに住む人々が家から出てきて、その上を歩いた。",
    "zh": "夜里河水停住了，早晨住在河边的人们都从家里出来，在河面上走来走去，谁也不记得上次是什么时候。",
    "th": "แม่น้ำหยุดไหลในตอนกลางคืนและในตอนเช้าผู้คนที่อาศัยอยู่ริมแม่น้ำก็ออกมาเดินบนนั้นราวกับว่ามันเป็นถนน",
    "ko": "밤사이에 강이 멈추었고, 아침이 되자 강가에 사는 사람들이 나와 그 위를 걸어 다녔으며 아무도 기억하지 못했다.",
}
MENU = "\n".join(f"{each} | Shop" for each in ["Home", "About us", "Products", "Contact", "Imprint", "Sign in"] * 20)
PAGES = {
    "menu": MENU,
    "menu in one line": MENU.replace("\n", " · "),
    "wiki": "Trace: start\nThis topic does not exist yet\nYou've followed a link to a topic that doesn't exist yet. If "
    "permissions allow, you may create it by clicking on Create this page.\nshow pagesource\nLog In",
    "login": "Sign in\nUser name\nPassword\nRemember me\nForgot your password? Click here to get a new one.\nJoin",
    "error": "404 - Page not found\nSorry, the page you are looking for has been moved or does not exist.\nHome",
    "cookies": "We use cookies to give you the best experience on our site, and to count visits.\n"
    "By clicking on accept you agree to that.\nAccept\nSettings",
    "empty": "",
}


def dropped(text: str, **options: float) -> str | None:
    step = boilerplate.make(Boilerplate.model_validate({"kind": "boilerplate"} | options))
    return step(Document(text=text, id=""), Counter())


@pytest.mark.parametrize("language", SENTENCES)
def test_running_text_of_any_language_stays(language: str) -> None:
    text = "\n".join([SENTENCES[language]] * 4)
    assert dropped(text) is None
    # As long as a notice may be, it is none.
    assert dropped(SENTENCES[language]) == "boilerplate"


@pytest.mark.parametrize("page", PAGES)
def test_what_is_no_text_goes(page: str) -> None:
    assert dropped(PAGES[page]) == "boilerplate"


def test_hard_line_breaks_do_not_make_text_a_list() -> None:
    lines = " ".join([SENTENCES["en"], SENTENCES["en"].replace(",", "")] * 5)
    broken = "\n".join(lines[at : at + 72] for at in range(0, len(lines), 72))
    assert dropped(broken) is None


def test_bounds_are_the_recipe_s() -> None:
    text = f"{SENTENCES['en']}\n{MENU}"
    assert dropped(text, characters=100, share=0) is None
    assert dropped(text, characters=104, share=0) == dropped(text, characters=100, share=0.1) == "boilerplate"
