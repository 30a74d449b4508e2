import pytest

from tests.payments_sandbox import StripeSandbox
from tests.sandbox.http import Stranger


@pytest.fixture
def stranger(stripe_server: StripeSandbox) -> Stranger:
    """Asks wrongly on purpose, so its parameters are not held against the package's types."""
    stripe_server.reset()
    return Stranger(stripe_server)
