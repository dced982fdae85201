from tests.report.conftest import browser, opened

__all__ = ["browser", "opened"]
