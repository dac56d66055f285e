# Units of the C++ core for the tests; never shipped. The binding files say what each takes.
from typing import Any

def __getattr__(name: str) -> Any: ...
