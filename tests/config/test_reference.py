"""The reference names every key of the schema, as pydantic's own JSON schema lists them."""

import re

from mmray.config import Config
from mmray.config.reference import reference


def test_every_key_of_every_section_is_there_once():
    schema = Config.model_json_schema()
    told = re.split(r"^## ", reference(), flags=re.MULTILINE)
    by_keys = {frozenset(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for part in told}
    for name, section in {"Config": schema, **schema["$defs"]}.items():
        keys = frozenset(section.get("properties", ())) - {"kind"}
        assert keys in by_keys, name


def test_a_row_says_type_default_and_meaning():
    text = reference()
    assert re.search(r"^\| `epochs` \| whole number > 0 \| `\d+` \|", text, re.MULTILINE)
    assert "| `output` | a path | required |" in text
    assert re.search(r"^## `features.NAME` · kind mel$", text, re.MULTILINE)
    assert re.search(r"^\| `snr_db` \| number or `null` \| `null` \| Adds white noise", text, re.MULTILINE)
