"""FAMILIES.md says what is tested."""

from pathlib import Path

from families_page import page


def test_families_page_is_what_its_command_prints():
    assert (Path(__file__).parent.parent / "FAMILIES.md").read_text(encoding="utf-8") == page()
