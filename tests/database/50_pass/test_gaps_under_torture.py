"""Everything at once for some seconds; `python -m tests.support.torture` does it for as long as one likes."""

import pytest

from support.torture import Torture

pytestmark = pytest.mark.database


def test_whatever_happens_at_once_no_period_is_ever_wrong(migrated_database):
    torture = Torture(migrated_database.dsn, seed=1)
    torture.run(5)
    assert torture.wrong == []
    assert torture.done["check"] > 0
