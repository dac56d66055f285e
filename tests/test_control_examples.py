"""The worked examples of CONTROL.md are messages, as the code reads and writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fastps.errors import WireError
from fastps.scheduler import messages as m

TEXT = (Path(m.__file__).parent / "CONTROL.md").read_text()
EXAMPLES = re.findall(r"^    (\{.*(?:\n     .*)*)", TEXT, re.MULTILINE)


def test_there_are_examples() -> None:
    assert [json.loads(each)["type"] for each in EXAMPLES] == ["Join", "Joined", "Error"]


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: json.loads(text)["type"])
def test_an_example_has_exactly_the_fields_of_its_message(text: str) -> None:
    content = json.loads(text)
    assert json.loads(m.encode(m.decode(text.encode()))) == content
    for name in content["body"]:
        body = {key: value for key, value in content["body"].items() if key != name}
        with pytest.raises(WireError):
            m.decode(json.dumps({**content, "body": body}).encode())
