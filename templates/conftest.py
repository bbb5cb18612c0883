"""Lets `pytest templates/` run the templates as the tests that they are."""

from collections.abc import Iterator

import pytest

from templates import _story


@pytest.fixture(autouse=True, scope="module")
def story_of_this_template(request: pytest.FixtureRequest) -> Iterator[None]:
    """Point `story` at the template whose tests run."""
    _story.active = request.module
    yield
    _story.active = None
