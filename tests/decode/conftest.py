import pytest

from mmray.decode.choice import choose_decoders
from mmray.errors import ConfigError


@pytest.fixture(params=["torchcodec", "decord", "pyav"])
def decoder(request) -> str:
    """Each decoder by name; skipped, saying why, where it does not work."""
    try:
        choose_decoders(request.param)
    except ConfigError as error:
        pytest.skip(str(error))
    return request.param
