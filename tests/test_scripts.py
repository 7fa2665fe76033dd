"""The script of a text is that of its letters: punctuation, digits and emoji are of none."""

import pytest

from maxact.scripts import script_share


def test_shares_are_of_letters_only():
    assert script_share("漢字 123 …—“” 🎉🎉🎉", "Han") == 1.0
    assert script_share("naïve café — “quoted” ✓ 3 €", "Latin") == 1.0
    assert script_share("Привет, мир! ok", "Cyrillic") == 9 / 11
    assert script_share("ひらがな漢字", "Han") == 2 / 6 and script_share("ひらがな漢字", "Hiragana") == 4 / 6
    assert script_share("12 + 3 = 15 🎉", "Latin") == 0.0 == script_share("", "Han")


@pytest.mark.parametrize("script", ["Klingonish", "Han}", "", "."])
def test_a_name_that_is_no_script_is_refused(script):
    with pytest.raises(ValueError, match="script: "):
        script_share("a", script)
