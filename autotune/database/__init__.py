"""The tuning database: what earlier runs measured and estimated, found again by content."""
