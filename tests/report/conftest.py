"""Real MLflow stores as fixtures."""

from tests.mlflow_stores import empty_database, new_database, server, sqlite  # noqa: F401
from tests.report.small_output import small_output  # noqa: F401
