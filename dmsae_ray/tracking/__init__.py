"""MLflow runs of a sweep, the journal behind them, the report and the figures."""
