"""Files and networks that several tests of networks share."""

from tests.support.networks_fixtures import folder, mine, stored  # noqa: F401  (fixtures)
